"""Comparison of two methods over seeds: paired differences, differences at an equal covariate, and spread.

Every interval is Student's at 95 %. Notation: n runs; a run is a seed, or a base and a seed.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f as fisher
from scipy.stats import f_oneway
from scipy.stats import t as student

Array = NDArray[np.float64]
Run = TypeVar("Run", int, tuple[str, int])  # a seed, or a base and a seed
NAN = float("nan")


class Difference(NamedTuple):
    """A mean difference and its 95 % interval, which is NaN where there are too few runs for one.

    Attributes:
        mean: of a - b.
        low: lower end of the interval.
        high: upper end of the interval.
        seeds: runs behind it.
    """

    mean: float
    low: float
    high: float
    seeds: int


def paired(a: Mapping[Run, float], b: Mapping[Run, float], level: float = 0.95) -> Difference:
    """Return the interval of mean(a - b), a and b by seed: mean +- t_{(1 + level) / 2, n - 1} s / sqrt(n)."""
    seeds = sorted(a.keys() & b.keys())
    differences = np.array([a[s] - b[s] for s in seeds])
    if not len(differences):
        return Difference(NAN, NAN, NAN, 0)
    mean = float(differences.mean())
    if len(differences) < 2:
        return Difference(mean, NAN, NAN, 1)
    half = float(
        student.ppf((1 + level) / 2, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
    )
    return Difference(mean, mean - half, mean + half, len(differences))


def pairs_at_equal(outcomes: Array, covariates: Array) -> Difference:
    """Return the difference in outcome of pairs that do not differ in the covariate: a line's value at 0.

    outcome_i = intercept + slope covariate_i, least squares over the pairs; the interval is the intercept's, with
    n - 2 degrees of freedom. NaN where the covariates are all equal; no interval for fewer than three pairs.

    Args:
        outcomes: (n,) a - b.
        covariates: (n,) a - b of what is held equal.
    """
    n, centred = len(outcomes), covariates - covariates.mean()
    squares = float(centred @ centred)
    if n < 2 or squares == 0:
        return Difference(NAN, NAN, NAN, n)
    slope = float(centred @ outcomes) / squares
    mean = float(outcomes.mean()) - slope * float(covariates.mean())
    if n < 3:
        return Difference(mean, NAN, NAN, n)
    residuals = outcomes - mean - slope * covariates
    variance = float(residuals @ residuals) / (n - 2) * (1 / n + float(covariates.mean()) ** 2 / squares)
    half = float(student.ppf(0.975, n - 2)) * variance**0.5
    return Difference(mean, mean - half, mean + half, n)


def at_equal(outcomes: tuple[Array, Array], covariates: tuple[Array, Array]) -> Difference:
    """Return the difference of two rows' mean outcomes at one covariate (analysis of covariance).

    One slope holds within both rows: outcome = mean of its row + slope (covariate - its row's mean), with n - 3 degrees
    of freedom. NaN where the covariate varies within neither row; no interval for fewer than four runs.

    Args:
        outcomes: of the one row and of the other; their runs need not be the same.
        covariates: the same runs' covariate.
    """
    x, y = (np.concatenate([part - part.mean() for part in parts]) for parts in (covariates, outcomes))
    n, squares = len(y), float(x @ x)
    if squares == 0:
        return Difference(NAN, NAN, NAN, n)
    slope = float(x @ y) / squares
    apart = float(covariates[0].mean() - covariates[1].mean())
    mean = float(outcomes[0].mean() - outcomes[1].mean()) - slope * apart
    if n < 4:
        return Difference(mean, NAN, NAN, n)
    residuals = y - slope * x
    variance = float(residuals @ residuals) / (n - 3) * (sum(1 / len(part) for part in outcomes) + apart**2 / squares)
    half = float(student.ppf(0.975, n - 3)) * variance**0.5
    return Difference(mean, mean - half, mean + half, n)


class Spread(NamedTuple):
    """Two rows' standard deviations over seeds, and the two-sided p of their equality.

    Attributes:
        mine: the one row's.
        theirs: the other row's.
        fisher: the F test's p, which takes values for normal; tau near its ceiling is not.
        brown_forsythe: the p of an analysis of variance of the absolute distances from the base's median, which does
            not (Brown and Forsythe 1974).
    """

    mine: float
    theirs: float
    fisher: float
    brown_forsythe: float


def spread(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Spread:
    """Return how far two rows' values differ between seeds.

    Args:
        a: a row's values, a list of two or more per base; deviations are from the base's own mean.
        b: the other row's.
    """
    freedom = [sum(len(part) - 1 for part in of) for of in (a, b)]
    variances = [
        sum(float(np.var(part)) * len(part) for part in of) / free for of, free in zip((a, b), freedom, strict=True)
    ]
    above = float(fisher.sf(variances[0] / variances[1], *freedom)) if variances[1] else 0.0
    distances = [np.concatenate([np.abs(np.array(part) - np.median(part)) for part in of]) for of in (a, b)]
    return Spread(
        variances[0] ** 0.5, variances[1] ** 0.5, 2 * min(above, 1 - above), float(f_oneway(*distances).pvalue)
    )
