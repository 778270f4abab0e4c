"""PAMA: multi-objective RLHF as a convex problem with a closed form, O(n) in the number of objectives.

He and Maghsudi 2025, ECML PKDD, arXiv 2508.07768.

    Noon PPO ("no negative")      A_t = max(A'_t, 0)
    Surrogate with a clip mask    I(A) = A where u_t <= 1 + eps, else 0
    Theorem 1                     min over the simplex of (sum_i c_i a_i)^2 is s*^2, s* the projection of 0 on
                                  [min a, max a]:
        all a_i > 0     s* = min a, c one-hot there
        all a_i < 0     s* = max a, c one-hot there
        mixed signs     s* = 0,  c_max = -a_min / (a_max - a_min),  c_min = a_max / (a_max - a_min)

One pass for min and max: O(n). PAMA has no preference: one compromise, not a steerable front.

Where the paper is silent or we had to choose (docs/papers.md 2.2, 2.3):
1. The ratio u is to the rollout policy and the KL to the reference is separate, as in the PPO that the paper builds on;
   it writes the reference policy in u.
2. a_i is the mean of I(A^i_t) over the batch (measured: studies/pama). c* multiplies the per-token advantages,
   A_t = sum_i c*_i I(A^i_t): one scalar for all tokens would lose all credit assignment.
3. c* is computed once per batch of rollouts, where u = 1 and I(A) = A, as Algorithm 1 solves before it ascends. In
   later epochs PPO's own clip does what I does: under Noon the combined advantage is never negative, and the clipped
   gradient of a token with u > 1 + eps is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moa import method
from moa.experiment.keys import Whiten

if TYPE_CHECKING:
    from torch import Tensor


def closed_form(a: Tensor) -> Tensor:
    """Return Theorem 1's weights c (n,) for values a (n,)."""
    low, where_low = a.min(0, keepdim=True)
    high, where_high = a.max(0, keepdim=True)
    mixed = (low < 0) & (high > 0)
    span = (high - low).where(mixed, a.new_ones(()))
    on_low = a.new_ones(()).where(low >= 0, (high / span).where(mixed, a.new_zeros(())))
    weights = a.new_zeros(a.shape)
    weights.scatter_(0, where_low, on_low)
    return weights.scatter_add_(0, where_high, 1 - on_low)


class Settings(method.LoopSettings):
    whiten: Whiten | None = "batch"
    """This row's ppo.whiten: every objective at unit size before Noon; null takes the run's. On one reward scale PAMA's
    weights follow the units of the rewards. Source: measured: studies/pama."""


class Method(method.Method):
    """One policy without a preference."""

    schema = Settings
    steerable = False

    def transform(self, advantages: Tensor) -> Tensor:
        """Noon: keep what is good."""
        return advantages.clamp(min=0)

    def combine(self, batch: method.Batch) -> method.Combination:
        live = batch.advantages * batch.mask
        weights = closed_form(live.sum((1, 2)) / batch.mask.sum())
        return method.Combination((weights[:, None, None] * live).sum(0), weights)
