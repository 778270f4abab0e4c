"""MOC by feedback: MOC's constraint shifts the objectives' weights; no stream and no value head of its own (ours).

    A_t = sum_i w_i A^i_t,     w_i = max(0, p_i + multiplier (2/N) (p~_i - Rbar^i_p) / width_i)
    or w = p where (1/N) sum_i ((p~_i - Rbar^i_p) / width_i)^2 <= phi: the constraint is met
    p~_i = low_i + width_i p_i / |p|,     low_i, low_i + width_i = min and max over preferences of Rbar^i_p

Rbar_p is the running mean reward of preference p, on the quantile scale. Why it is so (studies/moc):
1. An advantage is linear in its reward. So the gradient of MOC's constraint (1/N) sum_i (R~^i - p~_i)^2 is a shift of
   the objectives' weights by what the preference still misses. A met constraint then asks for nothing.
2. A min-norm weight would favour the smallest stream, and a nearly met constraint is the smallest: hence a multiplier.
3. The target lies on an arc within what is achieved: p / max p asks all preferences above 1/2 for the same.
4. A weight stops at 0: what exceeds its target at no one's cost is not given up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from moa import method
from moa.errors import MoaError
from moa.rl.control import Achieved

if TYPE_CHECKING:
    from torch import Tensor

    from moa.experiment.keys import Ppo


class Settings(method.LoopSettings):
    multiplier: float = Field(4.0, ge=0)
    """Weight of what is missing beside the preference; 0 is linear. Source: measured: studies/moc."""
    phi: float = Field(0.0, ge=0)
    """Mean square of what is missing, in widths of the achieved range, up to which weights are the preference's."""


def objective_weights(p: Tensor, achieved: Tensor, multiplier: float, phi: float) -> Tensor:
    """Return w (B, N), the equation above.

    Args:
        p: (B, N) preferences.
        achieved: (B, N), (Rbar_p - low) / width of each sample's preference.
        multiplier: of the constraint.
        phi: the constraint's threshold, in units of the widths.
    """
    asked = p / p.norm(dim=1, keepdim=True)
    missing = asked - achieved  # (p~ - Rbar_p) / width
    violated = missing.square().mean(1, keepdim=True) > phi
    return (p + multiplier * (2 / p.shape[1]) * missing * violated).clamp(min=0)


class Method(method.Method):
    """One preference-conditioned policy whose constraint is a feedback."""

    schema = Settings
    settings: Settings
    conditioned = True

    def __init__(self, row: str, settings: Settings, objectives: list[str]) -> None:
        super().__init__(row, settings, objectives)
        self.achieved = Achieved()

    def check(self, ppo: Ppo, dirichlet: float | None) -> None:
        if dirichlet is not None:
            raise MoaError(
                f"methods.{self.row}: moc_feedback keeps a running mean reward per training preference, but "
                f"preferences.dirichlet ({dirichlet:g}) draws every one anew; set it to null to train on the lattice "
                "of preferences.training"
            )

    def combine(self, batch: method.Batch) -> method.Combination:
        means = self.achieved.update(batch.scores.quantile, batch.preferences)
        low, width = self.achieved.range(batch.preferences)
        settings = self.settings
        weights = objective_weights(batch.preferences, (means - low) / width, settings.multiplier, settings.phi)
        return method.weighted(batch.advantages, weights)

    def state(self) -> dict[str, list[float]]:
        return self.achieved.state()

    def restore(self, state: dict[str, list[float]]) -> None:
        self.achieved.restore(state)
