"""Bootstrap over prompts, paired: every method of a task sees the same resampled prompts (Efron and Tibshirani 1993).

Notation: P prompts; R resamples.
"""

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SEED = 20_260_406  # fixed: the same prompts give the same resamples in every task, method and run
LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)  # 1.96


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


def corrected_interval(estimate: float, values: Array) -> tuple[float, float]:
    """Return the ends of the normal 95 % interval with the bootstrap's estimate of bias taken off.

    The interval is that of Davison and Hinkley 1997, chapter 5:

        bias b = mean of the resampled values - estimate;  estimate - b -+ 1.96 standard deviations of them

    For the hypervolume of M noisy points: the best of them are partly lucky, so that it is too large on average, the
    more so the closer they lie. Every resample adds some more, and percentiles are off by both. Efron's BC interval
    takes other percentiles of the same draws, few of which lie as low as the truth; the reverse percentile interval
    does as well as this one on crowded points, but near 0 most of it is below 0. Where the bias is larger than the
    noise, the interval is stretched to reach the estimate.

    Args:
        estimate: what all prompts together give; not negative.
        values: (R,) resampled values.
    """
    centre, half = 2 * estimate - float(values.mean()), Z * float(values.std())
    return max(0.0, min(centre - half, estimate)), max(centre + half, estimate)
