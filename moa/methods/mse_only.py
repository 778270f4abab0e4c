"""MSE-only PPO: the control stream alone, the same conditioning as MOC (an ablation that MOC's reviewers asked for.

Docs/papers.md 1.3).

    A_t = A^control_t,   r_control = -(1/N) sum_i (R~^i - p~_i)^2

The policy is asked to match its preference and nothing else: a target inside the front is as good as one on it.
Settings are those of MOC's control stream of its own (`control: sample`) for target and scale, outside the achieved
range: a policy that only matches would have no reason to widen it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from moa import method
from moa.rl import control

if TYPE_CHECKING:
    from torch import Tensor


class Settings(method.LoopSettings):
    scale: Literal["quantile", "zscore", "raw"] = "quantile"
    target: Literal["scaled", "plain", "simplex"] = "scaled"


class Method(method.Method):
    """One preference-conditioned policy that only matches."""

    schema = Settings
    settings: Settings
    conditioned = True
    extra_heads = ("control",)

    def extra_rewards(self, scores: method.Scores, preferences: Tensor) -> Tensor:
        wanted = control.targets(preferences, self.settings.target)
        rewards = control.on_scale(scores, self.settings.scale, self.settings.target)
        return control.per_sample(control.bounded(rewards, self.settings.scale, self.settings.target), wanted, 0.0)[
            :, None
        ]

    def control_error(self, scores: method.Scores, preferences: Tensor) -> Tensor:
        return -self.extra_rewards(scores, preferences).mean()

    def combine(self, batch: method.Batch) -> method.Combination:
        weights = batch.preferences.new_zeros(len(batch.advantages))
        weights[-1] = 1.0
        return method.Combination(batch.advantages[-1], weights)
