"""Conditional warm start: SFT examples whose prompt carries a preference that the text's own rewards speak for.

The idea is Rewards-in-Context's offline stage (Yang et al. 2024, arXiv 2402.10207), which writes a text's rewards into
its prompt. Here the prompt carries a preference, because that is what the policies read. For text i, objective k of K:

    u_ik = (rank of r_ik among the n train texts, ties share their mean rank, - 1/2) / n      quantile, in (0, 1)

    p_ik = u_ik^s / sum_j u_ij^s        U_i = sum_k p_ik u_ik

p_i is the preference that the text serves. The share `keep` of the texts with the largest U is labelled: a text that is
good at nothing teaches no preference. The sharpness s spreads the labels: u = (.9, .3) gives (.75, .25) for s = 1 and
(.96, .04) for s = 3. Exact corners are rare among the labels, and the middle is rare where s is large.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from moa.experiment.keys import WarmStart

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """Texts with their labels.

    Attributes:
        texts: (m,) indices of texts.
        preferences: (m, K), two decimals, each row sums to 1.
    """

    texts: Index
    preferences: Array


def quantiles(scores: Array) -> Array:
    """Return u (n, K): each text's mid-rank quantile in every column of the scores (n, K)."""
    ranks: Array = rankdata(scores, method="average", axis=0)
    return (ranks - 0.5) / len(scores)


def implied(u: Array, sharpness: float) -> Array:
    """Return p (n, K) = u^s / sum u^s.

    It is computed from u / max u, so that a large s underflows to a corner, not to 0 / 0.
    """
    powers = (u / u.max(1, keepdims=True)) ** sharpness
    result: Array = powers / powers.sum(1, keepdims=True)
    return result


def hundredths(preferences: Array) -> Array:
    """Round each row to two decimals by largest remainder, so that it still sums to 1.

    Ties go to the earlier objective.
    """
    units = preferences * 100
    whole = np.floor(units + 1e-9)
    missing = np.rint(100 - whole.sum(1)).astype(int)
    order = np.argsort(-(units - whole), axis=1, kind="stable")
    places = np.argsort(order, axis=1, kind="stable")
    return (whole + (places < missing[:, None])) / 100


def draw(scores: Array, warm: WarmStart, count: int, seed: int) -> Labelled:
    """Return `count` labelled texts in random order, drawn from those worth labelling.

    None repeats before all were used.

    Args:
        scores: (n, K), higher is better.
        warm: `keep` and `sharpness`.
        count: how many.
        seed: of the order.
    """
    rng = np.random.default_rng(seed)
    u = quantiles(scores)
    p = implied(u, warm.sharpness)
    kept = np.argsort(-(p * u).sum(1), kind="stable")[: max(1, round(warm.keep * len(u)))]
    texts = _passes(rng, kept, count)
    return Labelled(texts, hundredths(p[texts]))


def _passes(rng: np.random.Generator, items: Index, count: int) -> Index:
    """Return `count` of the items: permutation after permutation."""
    return np.concatenate([rng.permutation(items) for _ in range(-(-count // len(items)))])[:count].astype(np.int64)
