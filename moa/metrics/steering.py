"""Does the policy follow its preference? Rank agreement and distance between preference and reward.

Definitions: docs/papers.md 1.4, "Our metric definitions". Notation: M points (preferences); K objectives; '...' any
    leading axes.
"""

import numpy as np

from moa.metrics.bootstrap import Array

LEAST_POINTS = 3  # of two points the rank agreement is a coin toss


def kendall_tau(component: Array, rewards: Array) -> Array:
    """Return Kendall's tau-b (Kendall 1945) between (M,) preference components and (..., M) mean rewards.

    tau_b = sum_{i<j} s_ij t_ij / sqrt(sum s_ij^2  sum t_ij^2), with s and t the signs of the differences. It equals
    scipy.stats.kendalltau, and works on all resamples at once. Rewards that are all equal do not follow the preference
    at all: 0, where SciPy gives NaN. Components that are all equal leave tau undefined: NaN.
    """
    i, j = np.triu_indices(len(component), 1)
    s = np.sign(component[i] - component[j])
    t = np.sign(rewards[..., i] - rewards[..., j])
    if not s.any():
        return np.full(rewards.shape[:-1], np.nan)
    moved = t.any(-1)
    scale = np.sqrt((s * s).sum() * np.where(moved, (t * t).sum(-1), 1.0))
    return np.asarray((t @ s) / scale)


def tau_bound(component: Array) -> float:
    """Return the largest tau-b that (M,) preference components allow; NaN if none differs.

    It is sqrt(pairs that differ / all pairs). Rewards without ties give at most this:
    tau_b = (sum s_ij t_ij) / sqrt(sum s_ij^2  M (M - 1) / 2). With two objectives the components of a lattice all
    differ and it is 1; with more they have ties: 0.90 at 15 preferences over three objectives.
    """
    i, j = np.triu_indices(len(component), 1)
    differ = component[i] != component[j]
    return float(np.sqrt(differ.mean())) if differ.any() else float("nan")


def order_rate(component: Array, rewards: Array) -> Array:
    """Return the share of neighbouring preferences whose mean rewards are ordered the same way.

    Neighbours are points whose components are adjacent among the distinct values; all such pairs count.

    Args:
        component: (M,) preference components of one objective.
        rewards: (..., M) mean rewards of that objective.
    """
    levels = np.unique(component, return_inverse=True)[1]
    lower, upper = np.nonzero(levels[:, None] + 1 == levels[None, :])
    if not len(lower):
        return np.full(rewards.shape[:-1], np.nan)
    return np.asarray((rewards[..., upper] > rewards[..., lower]).mean(-1))


def control_error(preferences: Array, normalised: Array) -> Array:
    """Return the mean over points of (1/K) sum_k (clip(r_k, 0, 1) - p_k)^2.

    This is MOC's constraint (docs/papers.md 1.2) at evaluation.

    Args:
        preferences: (M, K).
        normalised: (..., M, K) mean rewards on the normalised scale.
    """
    return np.asarray(((np.clip(normalised, 0, 1) - preferences) ** 2).mean((-1, -2)))
