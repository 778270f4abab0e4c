"""Single-objective PPO: one policy per objective, trained on that objective alone.

A_t = A^k_t (Schulman et al. 2017, arXiv 1707.06347). These policies are the corners of MORLHF, the ingredients of
Rewarded Soups, and the rows of the payoff table. As a row of the benchmark they are evaluated at the corners only.
"""

from __future__ import annotations

from moa import method
from moa.experiment.preferences import Preference, corners


class Method(method.Method):
    """One policy per objective."""

    answers = "nearest"

    def policies(self, evaluation: list[Preference]) -> list[method.Policy]:
        return method.single_objective_policies(self.row, self.objectives)

    def evaluation_preferences(self, evaluation: list[Preference]) -> list[Preference | None]:
        return list(corners(len(self.objectives)))

    def combine(self, batch: method.Batch) -> method.Combination:
        return method.weighted(batch.advantages, batch.preferences)
