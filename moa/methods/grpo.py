"""Preference-conditioned GRPO: one policy, the preference in its prompt, trained by TRL's GRPOTrainer.

Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300, eq. 3): G responses i to one prompt at one
preference p are a group, and the group is the baseline, so that there is no value head.

    R_i = sum_k p_k r^k_i            A_i = (R_i - mean R) / (std R + 1e-4), the same for every token of the response

This is what a user of TRL would build today: one reward function that reads a preference column (docs/papers.md 3.5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from moa import method
from moa.errors import MoaError

if TYPE_CHECKING:
    from torch import Tensor

    from moa.experiment.keys import Ppo


class Settings(method.Settings):
    """What is null is taken from `ppo`, as are steps, batch size, mini-batch size, clip range and gradient norm."""

    group_size: int = Field(8, ge=2, le=1_000_000)
    """Responses to each prompt at one preference; must divide ppo.batch_size. Source: TRL."""
    beta: float | None = Field(None, ge=0, le=1e6)
    """Fixed weight of the KL term; null adapts it as ppo.kl says."""
    learning_rate: float | None = Field(None, gt=0, le=100)
    """Learning rate; null takes ppo.learning_rate."""
    epochs: int | None = Field(None, ge=1, le=10_000)
    """Passes over each batch; null takes ppo.epochs."""
    loss_type: Literal["dapo", "grpo", "bnpo", "dr_grpo"] = "dapo"
    """How TRL averages over tokens: `dapo` over all of them, `grpo` per response first, as the paper does.
    Source: TRL."""


class Method(method.Method):
    """One preference-conditioned policy without value heads."""

    schema = Settings
    settings: Settings
    conditioned = True
    trainer = "grpo"
    scale_rewards: ClassVar[Literal["group", "batch"]] = "group"  # whose standard deviation TRL divides by

    def check(self, ppo: Ppo, dirichlet: float | None) -> None:
        if ppo.batch_size % self.settings.group_size:
            raise MoaError(
                f"methods.{self.row}.group_size ({self.settings.group_size}) must divide ppo.batch_size"
                f" ({ppo.batch_size}); change one of them"
            )

    def scalarise(self, rewards: Tensor, preferences: Tensor) -> Tensor:
        """Return the reward that TRL compares within groups, (B,).

        Args:
            rewards: (B, K) on the quantile scale; every `group_size` rows in turn are a group.
            preferences: (B, K), the same within a group.
        """
        return (preferences * rewards).sum(1)
