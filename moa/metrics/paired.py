"""Paired comparison of two methods over seeds: Student's t-interval of the mean difference."""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from scipy.stats import t as student

Run = TypeVar("Run", int, tuple[str, int])  # a seed, or a base and a seed


class Difference(NamedTuple):
    """Mean of a - b over the seeds that both have; the 95 % interval is NaN for fewer than two seeds."""

    mean: float
    low: float
    high: float
    seeds: int


def paired(a: Mapping[Run, float], b: Mapping[Run, float], level: float = 0.95) -> Difference:
    """Return the interval of mean(a - b), a and b by seed: mean +- t_{(1 + level) / 2, n - 1} s / sqrt(n)."""
    seeds = sorted(a.keys() & b.keys())
    differences = np.array([a[s] - b[s] for s in seeds])
    if not len(differences):
        return Difference(float("nan"), float("nan"), float("nan"), 0)
    mean = float(differences.mean())
    if len(differences) < 2:
        return Difference(mean, float("nan"), float("nan"), 1)
    half = float(
        student.ppf((1 + level) / 2, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
    )
    return Difference(mean, mean - half, mean + half, len(differences))
