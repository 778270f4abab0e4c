"""MOD, multi-objective decoding: mix the single-objective policies' next-token distributions.

The mixture is (Shi et al. 2024, arXiv 2406.18853)

    p(y_t | x, y_<t) = softmax( sum_k p_k log pi_k(y_t | x, y_<t) )          the paper's reverse KL

The policy that maximises sum_k p_k r_k - beta KL(. || pi_ref) is the normalised product of the pi_k^p_k, where pi_k
maximises r_k - beta KL(. || pi_ref) with the same beta. docs/methods/mod.md says where this benchmark departs from
that.
"""

from moa import method
from moa.experiment.preferences import Preference


class Settings(method.Settings):
    ingredients: str = "single_objective"
    """Row, of kind single_objective, that trains the policies."""


class Method(method.Method):
    """Mixes the distributions of another row's policies."""

    schema = Settings
    settings: Settings
    answers = "mixture"

    def borrows(self) -> tuple[str, str]:
        return "ingredients", self.settings.ingredients

    def policies(self, evaluation: list[Preference]) -> list[method.Policy]:
        return method.single_objective_policies(self.settings.ingredients, self.objectives)
