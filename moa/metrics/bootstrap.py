"""Bootstrap over prompts, paired: every method of a task sees the same resampled prompts (Efron and Tibshirani 1993).

Notation: P prompts; R resamples.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SEED = 20_260_406  # fixed: the same prompts give the same resamples in every task, method and run
LEVEL = 0.95


def resamples(prompts: int, count: int) -> Array:
    """Return (R, P) weights of every prompt in every resample; rows sum to 1."""
    drawn = np.random.default_rng(SEED).integers(prompts, size=(count, prompts))
    offsets = np.arange(count)[:, None] * prompts
    counts = np.bincount((drawn + offsets).ravel(), minlength=count * prompts).reshape(count, prompts)
    return counts / prompts


def resampled_means(weights: Array, values: Array) -> Array:
    """Return (R, ...) means over prompts of (P, ...) values."""
    return np.tensordot(weights, values, axes=1)


def interval(values: Array) -> tuple[Array, Array]:
    """Return the ends (...,) of the percentile interval that holds the central 95 % of (R, ...) resampled values."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high
