"""The typed experiment file: one file, one task, complete in itself.

`Experiment` is the whole file; the `*Section` classes are what each stage receives, so that a change of the file reruns
exactly the stages that use the changed part. The keys themselves are in `moa/experiment/keys.py`.
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator, model_validator

from moa.errors import MoaError, nearest
from moa.experiment import names, reader
from moa.experiment.judges import shared
from moa.experiment.keys import (
    Conditioning,
    Data,
    Evaluation,
    Generation,
    Model,
    Objective,
    Ppo,
    Preferences,
    Run,
)
from moa.experiment.mistakes import explain
from moa.experiment.names import Name
from moa.experiment.preferences import Preference
from moa.experiment.rewards import TRAINED, Reward, Strict

MOST_OBJECTIVES = 12  # a policy's folder is called by a weight for each, and the tokenizer reads their lattice
MOST_DRAWN = 200_000_000  # eight bytes each


class TaskSection(Strict):
    """The part that every stage sees."""

    task: Name


class PromptsSection(TaskSection):
    data: Data


class RewardSection(TaskSection):
    """One trained reward."""

    reward: Name
    spec: Reward


class ScoringSection(TaskSection):
    """Objectives and the rewards that they name."""

    objectives: dict[Name, Objective]
    rewards: dict[Name, Reward]


class BaseSection(TaskSection):
    model: Model
    conditioning: Conditioning
    objectives: list[Name]


class ReferenceSection(ScoringSection):
    model: Model
    conditioning: Conditioning
    generation: Generation
    evaluation: Evaluation


class TrainSection(ScoringSection):
    model: Model
    conditioning: Conditioning
    generation: Generation
    ppo: Ppo
    training: list[Preference]
    dirichlet: float | None
    settings: dict[str, Any]


class GenerateSection(TaskSection):
    model: Model
    conditioning: Conditioning
    generation: Generation
    objectives: list[Name]
    evaluation: list[Preference]
    settings: dict[str, Any]
    scoring: ScoringSection | None = None  # for methods that read rewards to answer


class EvaluateSection(TaskSection):
    objectives: dict[Name, Objective]
    evaluation: Evaluation
    methods: list[Name]
    seeds: list[int]
    payoff_row: Name | None = None  # row of single-objective policies; no payoff table without it
    reference_row: Name | None = None  # row of the untrained policy, for the payoff table


class Experiment(TaskSection):
    """An experiment file: one task, complete in itself."""

    task: Name
    """Name of the task: its folder under results/ and its page under reports/."""
    run: Run
    """What to run."""
    data: Data
    """Prompts and texts."""
    model: Model
    """The base language model."""
    conditioning: Conditioning = Conditioning()
    """How a preference reaches the model."""
    objectives: dict[Name, Objective]
    """At least two objectives, by name; their order is the order of weights everywhere."""
    rewards: dict[Name, Reward]
    """The rewards and judges that objectives name."""
    preferences: Preferences = Preferences()
    """Preferences of training and of evaluation."""
    generation: Generation = Generation()
    """Decoding."""
    ppo: Ppo = Ppo()
    """The shared loop."""
    evaluation: Evaluation = Evaluation()
    """Metrics."""
    methods: dict[Name, dict[str, Any]] = {}
    """Settings by row; a row without a section has its method's defaults."""

    @field_validator("methods", mode="before")
    @classmethod
    def _empty_sections(cls, value: Any) -> Any:
        return {k: {} if v is None else v for k, v in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _references(self) -> "Experiment":
        names.check("task", [self.task])
        names.check("objectives", self.objectives)
        names.check("rewards", self.rewards)
        names.check("methods", self.methods)
        names.check("run.methods", dict.fromkeys((*self.methods, *self.run.methods)))
        if len(self.objectives) < 2:
            raise ValueError(f"objectives: {len(self.objectives)} given; multi-objective alignment needs at least two")
        if len(self.objectives) > MOST_OBJECTIVES:
            raise ValueError(f"objectives: {len(self.objectives)} given, and {MOST_OBJECTIVES} are the most")
        drawn = self.evaluation.bootstrap * self.data.evaluation_prompts
        if drawn > MOST_DRAWN:
            raise ValueError(
                f"evaluation.bootstrap: {self.evaluation.bootstrap} resamples of data.evaluation_prompts ="
                f" {self.data.evaluation_prompts} are {drawn} draws, and {MOST_DRAWN} are the most; lower one of them"
            )
        for name, objective in self.objectives.items():
            for reward in filter(None, (objective.reward, objective.judge)):
                if reward not in self.rewards:
                    raise ValueError(
                        f"objectives.{name}: no reward '{reward}' in `rewards`.{nearest(reward, self.rewards)}"
                    )
            if objective.judge is not None:
                self._independent(name, objective.reward, objective.judge)
        for name in self.evaluation.reference_point or {}:
            if name not in self.objectives:
                raise ValueError(f"evaluation.reference_point: no objective '{name}'.{nearest(name, self.objectives)}")
        return self

    def _independent(self, objective: str, reward: str, judge: str) -> None:
        """Refuse a judge that would repeat its reward's mistakes."""
        same = (
            "it is the reward itself; name another reward"
            if reward == judge
            else shared(self.rewards[reward], self.rewards[judge])
        )
        if same is not None:
            raise ValueError(f"objectives.{objective}.judge: {judge} is no independent judge of {reward}: {same}")

    def used_rewards(self) -> dict[str, Any]:
        """Return the rewards that some objective names, as reward or judge."""
        names = {o.reward for o in self.objectives.values()} | {o.judge for o in self.objectives.values() if o.judge}
        return {n: spec for n, spec in self.rewards.items() if n in names}

    def trained_rewards(self) -> list[str]:
        """Return the names of used rewards that a job of this run trains."""
        return [n for n, spec in self.used_rewards().items() if spec.kind in TRAINED]

    def training_preferences(self) -> list[Preference]:
        return self.preferences.training.preferences(len(self.objectives), "preferences.training")

    def evaluation_preferences(self) -> list[Preference]:
        return self.preferences.evaluation.preferences(len(self.objectives), "preferences.evaluation")


def parse(data: Any, where: str = "config") -> Experiment:
    """Validate the mapping of an experiment file; every mistake is listed with its key, and the nearest valid name."""
    if not isinstance(data, dict):
        raise MoaError(f"{where}: expected a mapping of keys, got {type(data).__name__}")
    try:
        experiment = Experiment.model_validate(data)
        experiment.training_preferences()
        experiment.evaluation_preferences()
    except ValidationError as error:
        raise MoaError(
            "\n".join(f"{where}: {line}" for line in dict.fromkeys(explain(Experiment, e) for e in error.errors()))
        ) from None
    except MoaError as error:
        raise MoaError(f"{where}: {error}") from None
    return experiment


def load(path: Path) -> Experiment:
    """Read and validate an experiment file, YAML or JSON."""
    return parse(reader.read(path), str(path))
