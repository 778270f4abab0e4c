"""Rewarded Soups: interpolate single-objective policies at evaluation (Rame et al. 2023, arXiv 2306.04488).

    theta(p) = theta_ref + sum_k p_k (theta_k - theta_ref) = theta_ref + sum_k p_k s_k B_k A_k

Differences from the code of that paper and of Rewards-in-Context:
1. The average is of the LoRA products B_k A_k, exactly (PEFT's `cat`: rank K r), never of A and B separately, whose
   average is another matrix.
2. Nothing is trained here: the single-objective policies are trained once and shared.
3. The soup lives on the same (possibly quantised) base as in training; no merged model is written per preference.
"""

from moa import method
from moa.experiment.preferences import Preference


class Settings(method.Settings):
    ingredients: str = "single_objective"
    """Row, of kind single_objective, that trains the policies."""


class Method(method.Method):
    """Mixes the adapters of another row."""

    schema = Settings
    settings: Settings
    answers = "soup"

    def borrows(self) -> tuple[str, str]:
        return "ingredients", self.settings.ingredients

    def policies(self, evaluation: list[Preference]) -> list[method.Policy]:
        return method.single_objective_policies(self.settings.ingredients, self.objectives)
