"""MORLHF: one PPO policy per weight vector, linear scalarisation (docs/papers.md 3.3).

    A_t = sum_k w_k A^k_t

Differences from the Rewards-in-Context code, and choices:
1. That code sums raw rewards and trains one value function. Here every reward is normalised and keeps its own
   advantages (and value head), which are summed, so that no reward's unit decides the trade-off.
2. Its three-objective runs always use 0.33 each; here every evaluation preference has its own policy.
3. The corners are the single-objective policies, trained once and shared.
4. The paper's prompts are plain. `prompts: preference` puts a policy's own weights into its prompts, so that it starts
   where the conditioned methods start (the base has learnt from the warm start what a preference means); then no corner
   is shared.
"""

from __future__ import annotations

from typing import Literal

from moa import method
from moa.experiment.preferences import Preference, label


class Settings(method.Settings):
    corners: str = "single_objective"
    """Row, of kind single_objective, that trains the corner policies; not read with `prompts: preference`."""
    prompts: Literal["plain", "preference"] = "plain"
    """What a policy reads: the prompt alone, or its weights as well. Source: Rewards-in-Context, 3.3."""


class Method(method.Method):
    """One policy per evaluation preference."""

    schema = Settings
    settings: Settings
    answers = "nearest"

    def __init__(self, row: str, settings: Settings, objectives: list[str]) -> None:
        super().__init__(row, settings, objectives)
        self.conditioned = settings.prompts == "preference"

    def borrows(self) -> tuple[str, str] | None:
        return None if self.conditioned else ("corners", self.settings.corners)

    def policies(self, evaluation: list[Preference]) -> list[method.Policy]:
        if self.conditioned:
            return [method.Policy(self.row, label(w), w) for w in evaluation]
        return method.weighted_policies(self.row, self.settings.corners, self.objectives, evaluation)

    def combine(self, batch: method.Batch) -> method.Combination:
        return method.weighted(batch.advantages, batch.preferences)
