"""MSE-only PPO: MOC's control stream alone, the same conditioning (asked for by MOC's reviewers; docs/papers.md 1.3).

    A_t = A^control_t,     r_control = -(1/N) sum_i (R~^i - p~_i)^2,     p~ = p / max p

The policy is asked to match its preference and nothing else: a target inside the front is as good as one on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moa import method
from moa.rl.control import scaled

if TYPE_CHECKING:
    from torch import Tensor


class Method(method.Method):
    """One preference-conditioned policy that only matches."""

    schema = method.LoopSettings
    conditioned = True
    extra_heads = ("control",)

    def extra_rewards(self, scores: method.Scores, preferences: Tensor) -> Tensor:
        return -(scores.quantile.clamp(0, 1) - scaled(preferences)).square().mean(1, keepdim=True)

    def combine(self, batch: method.Batch) -> method.Combination:
        weights = batch.preferences.new_zeros(len(batch.advantages))
        weights[-1] = 1.0
        return method.Combination(batch.advantages[-1], weights)
