"""PAMA: multi-objective RLHF with a closed form, O(n) in the number of objectives.

He and Maghsudi 2025, arXiv 2508.07768.

Noon PPO ("no negative"):     A_t = max(A'_t, 0)
Surrogate with a clip mask:   I(A) = A where u_t <= 1 + eps, else 0
Theorem 1:                    min over the simplex of (sum_i c_i a_i)^2 is s*^2, s* the projection of 0 on [min a, max a]
    all a_i > 0: s* = min a, c one-hot there;  all < 0: s* = max a;  mixed signs: s* = 0,
    c_max = -a_min / (a_max - a_min), c_min = a_max / (a_max - a_min).
One pass for min and max: O(n). PAMA has no preference: one compromise, not a steerable front.

Where the paper is silent or we had to choose (docs/papers.md 2.2, 2.3):
1. The ratio u is to the rollout policy and the KL to the reference is separate, as in the PPO that the paper builds on;
   it writes the reference policy in u.
2. Granularity: a_i is I(A^i_t) of the token, its mean over the sequence, or over the batch. In all three c* multiplies
   the per-token advantages, A_t = sum_i c*_i I(A^i_t): one scalar for all tokens would lose all credit assignment.
3. c* is computed once per batch of rollouts, where u = 1 and I(A) = A, as Algorithm 1 solves before it ascends. In
   later epochs PPO's own clip does what I does: under Noon the combined advantage is never negative, and the clipped
   gradient of a token with u > 1 + eps is 0.
4. Whitening before Noon is the loop's `ppo.whiten`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from moa import method

if TYPE_CHECKING:
    from torch import Tensor


class Settings(method.LoopSettings):
    noon: bool = True
    granularity: Literal["token", "sequence", "batch"] = "batch"


def closed_form(a: Tensor) -> Tensor:
    """Return Theorem 1's weights c (n, ...) for values a (n, ...), independently for every position after the first axis."""
    low, where_low = a.min(0, keepdim=True)
    high, where_high = a.max(0, keepdim=True)
    mixed = (low < 0) & (high > 0)
    span = (high - low).where(mixed, a.new_ones(()))
    on_low = a.new_ones(()).where(low >= 0, (high / span).where(mixed, a.new_zeros(())))
    weights = a.new_zeros(a.shape)
    weights.scatter_(0, where_low, on_low)
    return weights.scatter_add_(0, where_high, 1 - on_low)


class Method(method.Method):
    """One policy without a preference."""

    schema = Settings
    settings: Settings
    steerable = False

    def scale(self, advantages: Tensor, mask: Tensor) -> Tensor:
        return advantages.clamp(min=0) if self.settings.noon else advantages

    def combine(self, batch: method.Batch) -> method.Combination:
        mask = batch.mask
        live = batch.advantages * mask
        tokens = mask.sum()
        if self.settings.granularity == "token":
            weights = closed_form(live)
        elif self.settings.granularity == "sequence":
            weights = closed_form(live.sum(2) / mask.sum(1).clamp(min=1))[:, :, None]
        else:
            weights = closed_form(live.sum((1, 2)) / tokens)[:, None, None]
        mean = (weights.expand_as(live) * mask).sum((1, 2)) / tokens
        return method.Combination((weights * live).sum(0), mean)
