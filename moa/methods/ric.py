"""Rewards-in-Context: fine-tune on texts whose prompt shows their rewards.

The method is Yang et al.'s (2024, arXiv 2402.10207; docs/papers.md 3.3):

    offline   minimise -log pi(y | x, z(y)),     z_i = (r_i - mean_i) / std_i over the texts for fine-tuning
    online    the same on the policy's own responses with some z_i at or above its 0.7 quantile, and on texts
    answer    y ~ pi(. | x, t(w)),     t the targets of moa/lm/targets.py

One policy. Its prompt shows target rewards, not the preference. What the paper leaves open is in docs/methods/ric.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from moa import method
from moa.errors import MoaError
from moa.lm.targets import Format, Map, Targets

if TYPE_CHECKING:
    from moa.experiment.keys import Ppo

Array = NDArray[np.float64]
DRAWS = 20_000  # of N(0, 1): the least and the largest of so many are about -3.9 and 4.1


class Settings(method.Settings):
    map: Map = "l2"
    """From preference w to target rewards: w / |w| (`l2`), w / max w (`linf`), or w (`linear`).
    Source: Rewards-in-Context, 3.3."""
    bounds: tuple[float, float] = (0.01, 0.99)
    """Quantiles of the texts' rewards that the smallest and the largest target ask for; 0 and 1 are least and most."""
    compat: Literal["ric"] | None = None
    """`ric` draws the bounds from N(0, 1) and rounds targets to 0.1, as the paper's code does."""
    format: Format = "names"
    """How rewards stand in the prompt: `names` with numbers, `tags` (<rm1_score>) with numbers, or `bars`, a mark per
    tenth of the way between the bounds, for models that read no numbers."""
    epochs: float = Field(1.0, gt=0, le=10_000)
    """Passes over the texts, offline."""
    learning_rate: float | None = Field(None, gt=0, le=100)
    """Learning rate offline; null takes that of model.sft."""
    rounds: int = Field(2, ge=0, le=10_000)
    """Rounds on its own responses. Source: Rewards-in-Context, 3.3."""
    round_steps: float = Field(0.2, gt=0, le=10_000)
    """Steps of a round as a share of the offline steps: 4 000 of 20 000. Source: Rewards-in-Context."""
    round_rate: float = Field(1 / 14, gt=0, le=100)
    """Learning rate of a round as a share of the offline one: 1e-5 of 1.4e-4. Source: Rewards-in-Context."""
    quantile: float = Field(0.7, ge=0, lt=1)
    """Quantile of a round's rewards that a response must reach in some objective. Source: Rewards-in-Context."""
    originals: float = Field(0.5, ge=0, le=1_000)
    """Texts per generated response in a round: 10 000 for 20 000. Source: Rewards-in-Context."""

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        if not 0 <= self.bounds[0] < self.bounds[1] <= 1:
            raise ValueError(f"bounds: two quantiles, the smaller first, got {list(self.bounds)}")
        return self


class Method(method.Method):
    """One policy that reads rewards."""

    schema = Settings
    settings: Settings
    conditioned = True
    trainer = "ric"
    reads_texts = True

    def check(self, ppo: Ppo, dirichlet: float | None) -> None:
        if self.settings.rounds > ppo.steps:
            raise MoaError(
                f"methods.{self.row}.rounds: {self.settings.rounds} rounds share ppo.steps ({ppo.steps}) batches of"
                f" responses; lower it to {ppo.steps}"
            )

    def targets(self, rewards: Array, seed: int) -> Targets:
        """Return scale and bounds of the texts' raw rewards (n, K); the draws of `compat` depend on the seed alone.

        Raises:
            MoaError: all texts have the same reward of an objective, so there is no unit.
        """
        mean, std = rewards.mean(0), rewards.std(0)
        for name, spread in zip(self.objectives, std, strict=True):
            if spread == 0:
                raise MoaError(
                    f"methods.{self.row}: all texts have the same reward of objective '{name}', so it cannot be"
                    " standardised; leave the row out"
                )
        settings = self.settings
        if settings.compat == "ric":
            drawn = np.random.default_rng(seed).standard_normal((DRAWS, len(self.objectives)))
            low, high = drawn.min(0), drawn.max(0)
        else:
            low, high = np.quantile((rewards - mean) / std, settings.bounds, axis=0)
        if settings.format == "bars" and not np.all(low < high):
            name = self.objectives[int(np.argmin(low < high))]
            raise MoaError(
                f"methods.{self.row}.format: bars show tenths between the bounds, which are equal for objective"
                f" '{name}'; widen its bounds, or take names"
            )
        columns = {
            name: tuple(column.tolist())
            for name, column in (("low", low), ("high", high), ("mean", mean), ("std", std))
        }
        return Targets(
            **columns, map=settings.map, format=settings.format, step=0.1 if settings.compat == "ric" else None
        )


def zscores(rewards: NDArray[np.floating], targets: Targets) -> Array:
    """Return raw rewards (n, K) on the scale that prompts show."""
    found: Array = (rewards - np.array(targets.mean)) / np.array(targets.std)
    return found


def kept(rewards: Array, quantile: float) -> NDArray[np.bool_]:
    """Return which of the responses (n,) have some reward (n, K) at or above its quantile over these responses."""
    found: NDArray[np.bool_] = np.any(rewards >= np.quantile(rewards, quantile, axis=0), axis=1)
    return found
