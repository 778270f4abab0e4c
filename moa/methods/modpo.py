"""MODPO: direct preference optimisation with a margin from the other objectives.

The loss of a pair (Zhou et al. 2023, arXiv 2310.03708; docs/papers.md 3.5):

    loss = -log sigma( (beta (D log pi - D log pi_ref) - sum_{j != k} w_j D R^j) / w_k ),     D = chosen minus rejected

One policy per evaluation preference w; k is the objective whose preferences the pairs hold. With labels from the
Bradley-Terry model of R^k its minimum is pi_ref exp(sum_j w_j R^j / beta). Differences: docs/methods/modpo.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from moa import method
from moa.errors import MoaError, nearest
from moa.experiment.pairs import PairSource
from moa.experiment.preferences import Preference
from moa.tasks.files import locate

if TYPE_CHECKING:
    from moa.experiment.keys import Ppo


class Settings(method.Settings):
    beta: float = Field(0.1, ge=1e-6, le=1e6)
    """Weight of the KL to the reference; the smaller, the farther its policies go. Source: MODPO, 3.5."""
    objective: str | None = None
    """Objective whose preferences the pairs hold; null takes the one with the largest weight."""
    pairs: PairSource | None = None
    """A data set's own pairs, which hold the preferences of `objective`; null makes them from rewards."""
    responses: int = Field(2, ge=2, le=10_000)
    """Responses of the reference policy to each prompt; every pair of them is used. Not with `pairs`."""
    scale: float = Field(1.0, ge=1e-6, le=1e6)
    """Factor of the rewards, in labels and margins alike; the minimum depends on scale / beta."""
    epochs: int | None = Field(None, ge=1, le=10_000)
    """Passes over the pairs; null takes ppo.epochs."""
    learning_rate: float | None = Field(None, gt=0, le=100)
    """Learning rate; null takes ppo.learning_rate."""

    @model_validator(mode="after")
    def _pairs(self) -> Settings:
        if self.pairs is not None and self.responses != type(self).model_fields["responses"].default:
            raise ValueError("`pairs` bring their own responses; leave out responses")
        if self.pairs is not None and self.objective is None:
            raise ValueError("`pairs` hold the preferences of one objective; name it as `objective`")
        return self


class Method(method.Method):
    """One policy per evaluation preference, all its own.

    The one at the corner of the labelled objective is trained by plain DPO.
    """

    schema = Settings
    settings: Settings
    answers = "nearest"
    trainer = "modpo"

    def __init__(self, row: str, settings: Settings, objectives: list[str]) -> None:
        super().__init__(row, settings, objectives)
        if settings.objective is not None and settings.objective not in objectives:
            raise MoaError(
                f"methods.{row}.objective: no objective"
                f" '{settings.objective}'.{nearest(settings.objective, objectives)}"
            )

    def check(self, ppo: Ppo, dirichlet: float | None) -> None:
        if self.settings.pairs is not None:
            locate(self.settings.pairs.source, self.settings.pairs.subset, self.settings.pairs.split)
        budget, least = ppo.steps * ppo.batch_size, self.settings.responses
        if budget < least:
            raise MoaError(
                f"methods.{self.row}.responses: ppo.steps * ppo.batch_size = {budget} responses are less than the"
                f" {least} that a prompt takes; raise ppo.batch_size"
            )

    def policies(self, evaluation: list[Preference]) -> list[method.Policy]:
        return method.weighted_policies(self.row, self.row, self.objectives, evaluation)

    def sources(self) -> list[str]:
        return [] if self.settings.pairs is None else [self.settings.pairs.source]

    def labelled(self, weights: Preference) -> int:
        """Return k, the objective whose preferences the pairs hold; the first one on a tie."""
        chosen = self.settings.objective
        return self.objectives.index(chosen) if chosen is not None else weights.index(max(weights))
