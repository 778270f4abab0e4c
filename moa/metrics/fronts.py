"""Fronts and hypervolume, exact, by moocore; every objective is maximised.

Notation: M points; K objectives; R resamples.
"""

import moocore
import numpy as np
from numpy.typing import NDArray

from moa.metrics.bootstrap import Array


def hypervolume(points: Array, reference: Array) -> float:
    """Return the volume that (M, K) points dominate above the (K,) reference point; 0 without points.

    A point that is not above the reference point on every objective adds nothing.
    """
    return float(moocore.hypervolume(points, ref=reference, maximise=True)) if len(points) else 0.0


def hypervolumes(points: Array, reference: Array) -> Array:
    """Return the (R,) hypervolumes of (R, M, K) resampled points."""
    if points.shape[1] == 0:
        return np.zeros(len(points))
    indicator = moocore.Hypervolume(ref=reference, maximise=True)
    return np.array([indicator(np.ascontiguousarray(p)) for p in points])


def above(points: Array, reference: Array) -> NDArray[np.bool_]:
    """Return (M,) whether each point is above the reference point on every objective."""
    return np.asarray((points > reference).all(1))


def on_front(points: Array, reference: Array) -> NDArray[np.bool_]:
    """Return (M,) whether neither another point nor the reference point is as good everywhere and better somewhere.

    Equal points are both on the front, unless they equal the reference point: what is nowhere better than the declared
    worst case is no solution.
    """
    if not len(points):
        return np.zeros(0, dtype=bool)
    front = moocore.is_nondominated(points, maximise=True, keep_weakly=True)
    return np.asarray(front & (points > reference).any(1))
