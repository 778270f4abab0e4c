"""What a method states about itself; the loop, the generator and the workflow ask nothing else.

Notation: K objectives; H >= K advantage streams (value heads); B samples; T response tokens.
A method's file holds a class `Method` and its `Settings`. Torch is imported for annotations only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from moa.experiment.keys import Ppo, Whiten
from moa.experiment.preferences import Preference, corners, label
from moa.experiment.rewards import Strict

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Policy:
    """A policy that some row of the benchmark trains; `weights` is None where the preference varies per sample."""

    row: str
    name: str
    weights: Preference | None = None


class Settings(Strict):
    """Keys that every method's section may hold."""

    kind: str | None = None
    """The method, where the row has another name; null: the row's name is the method's."""


class LoopSettings(Settings):
    """Keys of a row whose only policy the shared loop trains."""

    whiten: Whiten | None = None
    """This row's ppo.whiten; null takes the run's."""


@dataclass(frozen=True)
class Scores:
    """A batch's scores on both scales, each (B, K) float32, higher is better.

    Attributes:
        raw: in the reward's own unit.
        quantile: the normaliser's low and high mapped to 0 and 1; what the loop trains on. Not clipped.
    """

    raw: Tensor
    quantile: Tensor


@dataclass(frozen=True)
class Batch:
    """One batch of rollouts, as a method combines it.

    Attributes:
        advantages: (H, B, T), whitened and transformed by `transform`; zero where `mask` is.
        mask: (B, T), 1 on response tokens.
        preferences: (B, K); a fixed-weight policy's weights repeated.
        scores: what the responses were worth.
        sensitivity: (B, T) squared norm of d log pi_t / d z_t, z the last hidden state; None unless the method reads
            it.
    """

    advantages: Tensor
    mask: Tensor
    preferences: Tensor
    scores: Scores
    sensitivity: Tensor | None = None


Logged = tuple[str, str, float]  # quantity, objective, value: a row of the curve


class Combination(NamedTuple):
    """The advantages that the policy loss sees.

    Attributes:
        advantages: (B, T) float32.
        weights: (H,) mean weight of every value head's advantage, for the curve.
        logged: whatever else the method wants on the curve.
    """

    advantages: Tensor
    weights: Tensor
    logged: tuple[Logged, ...] = ()


class Method:
    """A method that trains with the shared PPO loop; subclasses override what differs."""

    schema: ClassVar[type[Settings]] = Settings  # of the row's section in the config
    conditioned: bool = False  # the preference stands in the prompt
    steerable: ClassVar[bool] = True  # answers differently for different preferences
    extra_heads: tuple[str, ...] = ()  # names of value heads beyond the objectives'
    reads_sensitivity: ClassVar[bool] = False  # `combine` reads Batch.sensitivity
    trainer: ClassVar[str] = "ppo"  # the module of moa/trainers that trains its policies; ppo is the shared loop
    reads_texts: ClassVar[bool] = False  # its trainer reads the texts for fine-tuning and their scores
    generator: ClassVar[str] = "generate"  # the stage that answers for it
    reads_rewards: ClassVar[bool] = False  # its generator reads rewards and normaliser
    answers: ClassVar[Literal["policy", "nearest", "soup", "mixture", "external"]] = "policy"

    def __init__(self, row: str, settings: Settings, objectives: list[str]) -> None:
        self.row, self.settings, self.objectives = row, settings, objectives

    @property
    def streams(self) -> list[str]:
        """The names of the advantage streams: the objectives, then the extra heads."""
        return [*self.objectives, *self.extra_heads]

    def check(self, ppo: Ppo, dirichlet: float | None) -> None:
        """Refuse a run in which this row cannot train; asked before anything runs.

        Args:
            ppo: the run's shared settings.
            dirichlet: its `preferences.dirichlet`; not None where training draws every preference anew.

        Raises:
            MoaError: what does not go together, by its keys, and the remedy.
        """

    def loop(self, ppo: Ppo) -> Ppo:
        """Return the run's shared settings as this row trains with them."""
        if isinstance(self.settings, LoopSettings) and self.settings.whiten is not None:
            return ppo.model_copy(update={"whiten": self.settings.whiten})
        return ppo

    def policies(self, evaluation: list[Preference]) -> list[Policy]:
        """Return the policies that this row needs for the evaluation preferences, its own and borrowed ones."""
        return [Policy(self.row, "policy")]

    def borrows(self) -> tuple[str, str] | None:
        """Return the setting that names the row whose single-objective policies this one answers with, and that row.

        It is None for most methods.
        """
        return None

    def sources(self) -> list[str]:
        """Return what it reads beside the run's own, hub ids or local paths.

        These are data sets to train on, or an external model. Most methods have none.
        """
        return []

    def evaluation_preferences(self, evaluation: list[Preference]) -> list[Preference | None]:
        """Return the preferences at which this row is evaluated; [None] for a preference-free policy."""
        return list(evaluation) if self.steerable else [None]

    def extra_rewards(self, scores: Scores, preferences: Tensor) -> Tensor:
        """Return (B, H - K) rewards beyond the objectives', given (B, K) preferences."""
        return scores.quantile.new_zeros(len(preferences), 0)

    def control_error(self, scores: Scores, preferences: Tensor) -> Tensor:
        """Return mean_b mean_k (R~_bk - p~_bk)^2 with targets p / max p on the quantile scale, for the curve."""
        target = preferences / preferences.amax(1, keepdim=True)
        return (scores.quantile.clamp(0, 1) - target).square().mean()

    def transform(self, advantages: Tensor) -> Tensor:
        """Transform whitened advantages (H, B, T) before they are combined (PAMA: Noon)."""
        return advantages

    def combine(self, batch: Batch) -> Combination:
        """Make one advantage per token of H streams."""
        raise NotImplementedError(f"{type(self).__name__} does not train")

    def state(self) -> dict[str, list[float]]:
        """Return what must survive a checkpoint, or is restored where a batch is collected anew.

        It is empty for methods without memory. What is returned must not change with later batches.
        """
        return {}

    def restore(self, state: dict[str, list[float]]) -> None:
        """Take back what `state` returned."""


def weighted(advantages: Tensor, weights: Tensor) -> Combination:
    """Sum the streams with per-sample weights: sum_k w_bk A^k_bt.

    Args:
        advantages: (H, B, T).
        weights: (B, H).
    """
    return Combination((advantages * weights.T[:, :, None]).sum(0), weights.mean(0))


def single_objective_policies(row: str, objectives: list[str]) -> list[Policy]:
    """Return one policy per objective, named after it, with that objective's unit vector as weights."""
    return [Policy(row, name, corner) for name, corner in zip(objectives, corners(len(objectives)), strict=True)]


def weighted_policies(row: str, corner_row: str, objectives: list[str], evaluation: list[Preference]) -> list[Policy]:
    """Return one policy per evaluation preference; a corner is the single-objective policy that `corner_row` trains."""
    shared = {p.weights: p for p in single_objective_policies(corner_row, objectives)}
    return [shared.get(w) or Policy(row, label(w), w) for w in evaluation]
