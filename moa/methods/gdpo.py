"""Preference-conditioned GDPO: GRPO with every reward normalised in its group before the sum (arXiv 2601.05242).

    z^k_i = (r^k_i - mean r^k) / (std r^k + 1e-4) in the group      S_i = sum_k p_k z^k_i
    A_i = S_i / (std of S over the batch + 1e-4)

So the preference weighs rewards of equal spread, where GRPO's sum listens to the reward that varies most in the group.
In TRL this is `multi_objective_aggregation: normalize_then_sum`, whose weights are one number per reward for the whole
run; ours differ from group to group. A factor p_k on a reward would not do: normalisation within the group cancels it.
The mean of S is 0 in every group, so TRL's own aggregation of the one reward S, scaled over the batch, gives A.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moa.methods import grpo

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-4  # as TRL has it


class Method(grpo.Method):
    """GRPO with rewards that are normalised one by one."""

    scale_rewards = "batch"

    def scalarise(self, rewards: Tensor, preferences: Tensor) -> Tensor:
        groups = rewards.unflatten(0, (-1, self.settings.group_size))
        normalised = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + EPSILON)
        return super().scalarise(normalised.flatten(0, 1), preferences)
