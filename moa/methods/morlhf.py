"""MORLHF: one PPO policy per weight vector, linear scalarisation (papers.md 3.3).

    A_t = sum_k w_k A^k_t

Differences from the Rewards-in-Context code, and choices:
1. That code sums raw rewards and trains one value function. Here every reward keeps its own value head, and the
   whitened advantages are summed, so that no reward's unit decides the trade-off (with `ppo.whiten: none` this is the
   advantage of the summed normalised reward).
2. Its three-objective runs always use 0.33 each; here every evaluation preference has its own policy.
3. The corners are the single-objective policies, trained once and shared.
"""

from __future__ import annotations

from moa.methods import base
from moa.preferences import Preference


class Settings(base.Settings):
    corners: str = "single_objective"  # the row that trains the corner policies


class Method(base.Method):
    """One policy per evaluation preference."""

    schema = Settings
    settings: Settings
    answers = "nearest"

    def policies(self, evaluation: list[Preference]) -> list[base.Policy]:
        return base.weighted_policies(self.row, self.settings.corners, self.objectives, evaluation)

    def combine(self, batch: base.Batch) -> base.Combination:
        return base.weighted(batch.advantages, batch.preferences)
