"""What each job of an experiment receives and depends on: its section of the experiment, its code, its local files.

A section holds what its stage reads; keys that the stage does not read stand at their defaults, so that changing them
reruns nothing. `Plan` is what the workflow asks; it loads no torch.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from moa.errors import MoaError
from moa.experiment import keys, schema
from moa.experiment.endpoint import LIMITS
from moa.experiment.preferences import Preference, refuse_twice
from moa.experiment.rewards import Classifier, Endpoint, Linear, Python, Reward, Strict, Transformer
from moa.experiment.schema import Experiment
from moa.lm.conditioning import preference_text
from moa.method import Method, Policy
from moa.methods import catalogue
from moa.store import terminal
from moa.store.logic import code_hash
from moa.store.provenance import file_hash, local_state, refuse_endless

Section = TypeVar("Section", bound=Strict)


def reset(section: Section, *unread: str) -> Section:
    """Return `section` with the keys that a stage does not read back at their defaults."""
    fields = type(section).model_fields
    return section.model_copy(update={name: fields[name].get_default(call_default_factory=True) for name in unread})


class Plan:
    """The jobs of an experiment.

    A row that is wrong, or cannot train in this run, is a MoaError that names the file (`where`) and the row.
    """

    def __init__(self, experiment: Experiment, where: str) -> None:
        self.experiment = experiment
        self.evaluation: list[Preference] = experiment.evaluation_preferences()
        try:
            self.rows: dict[str, Method] = catalogue.rows(experiment)
            self._refuse_preferences_that_read_alike()
            refuse_endless(self.sources())
        except MoaError as error:
            raise _mistakes(where, [str(error), *self._rows_left_out()]) from None
        mistakes = self._rows_left_out()
        for method in self.rows.values():
            try:
                method.check(method.loop(experiment.ppo), experiment.preferences.dirichlet)
            except MoaError as error:
                mistakes.append(str(error))
        if mistakes:
            raise _mistakes(where, mistakes)

    def _rows_left_out(self) -> list[str]:
        """Return what is wrong with the sections of rows; those that this run leaves out are checked all the same."""
        found = []
        for row, section in self.experiment.methods.items():
            try:
                catalogue.load(row, section, list(self.experiment.objectives))
            except MoaError as error:
                found.append(str(error))
        return found

    def _refuse_preferences_that_read_alike(self) -> None:
        """Refuse explicit points that one policy could not tell apart, because their text is the same."""
        if not any(row.conditioned for row in self.rows.values()):
            return
        preferences, form = self.experiment.preferences, self.experiment.conditioning.format
        for key, points in (
            ("training", self.experiment.training_preferences()),
            ("evaluation", self.evaluation),
        ):
            if getattr(preferences, key).points is not None:
                told = [preference_text(point, list(self.experiment.objectives), form) for point in points]
                how = f", as conditioning.format: {form} tells them"
                refuse_twice(points, told, f"preferences.{key}.points", how)

    @cached_property
    def policies(self) -> dict[tuple[str, str], Policy]:
        """Every policy that the run trains, by row and name."""
        return {(policy.row, policy.name): policy for row in self.rows for policy in self.policies_of(row)}

    def policies_of(self, row: str) -> list[Policy]:
        """Return the policies that `row` answers with, its own and borrowed ones."""
        return self.rows[row].policies(self.evaluation)

    def trained_rewards(self, judges: bool) -> list[str]:
        """Return the rewards that a job of this run trains; without `judges`, those that training itself needs."""
        needed = self.scoring(judges).rewards
        return [name for name in self.experiment.trained_rewards() if name in needed]

    # Sections, one per stage.

    def task(self) -> schema.TaskSection:
        return schema.TaskSection(task=self.experiment.task)

    def prompts(self) -> schema.PromptsSection:
        return schema.PromptsSection(task=self.experiment.task, data=self.experiment.data)

    def reward(self, name: str) -> schema.RewardSection:
        return schema.RewardSection(task=self.experiment.task, reward=name, spec=self.experiment.rewards[name])

    def scoring(self, judges: bool) -> schema.ScoringSection:
        """Return objectives and their rewards; judges are evaluation's alone, so a new judge retrains nothing."""
        objectives = {k: o if judges else reset(o, "judge") for k, o in self.experiment.objectives.items()}
        named = {name for o in objectives.values() for name in (o.reward, o.judge)}
        rewards: dict[str, Reward] = {
            name: reset(spec, *LIMITS) if isinstance(spec, Endpoint) else spec
            for name, spec in self.experiment.rewards.items()
            if name in named
        }
        return schema.ScoringSection(task=self.experiment.task, objectives=objectives, rewards=rewards)

    def endpoints(self) -> dict[str, Endpoint]:
        """Return the endpoints that the run asks, with how they are asked, which no section holds."""
        return {name: spec for name, spec in self.experiment.used_rewards().items() if isinstance(spec, Endpoint)}

    def base(self) -> schema.BaseSection:
        experiment, model = self.experiment, self.experiment.model
        if not (model.sft and model.sft.lora):
            model = reset(model, "lora")
        return schema.BaseSection(
            task=experiment.task,
            model=model,
            conditioning=experiment.conditioning,
            objectives=list(experiment.objectives),
        )

    def reference(self) -> schema.ReferenceSection:
        experiment = self.experiment
        return schema.ReferenceSection(
            **dict(self.scoring(judges=False)),
            model=reset(experiment.model, "lora", "gradient_checkpointing"),
            conditioning=reset(experiment.conditioning, "template", "format", "warm_start"),
            generation=reset(experiment.generation, "evaluation_temperature", "evaluation_top_p", "samples"),
            evaluation=reset(experiment.evaluation, "bootstrap"),
        )

    def train(self, row: str) -> schema.TrainSection:
        experiment, method = self.experiment, self.rows[row]
        varied = method.conditioned and method.answers == "policy"  # else every policy has weights of its own
        return schema.TrainSection(
            **dict(self.scoring(judges=False)),
            model=experiment.model,
            conditioning=self._conditioning(row),
            generation=reset(
                experiment.generation, "evaluation_temperature", "evaluation_top_p", "samples", "batch_size"
            ),
            ppo=method.loop(experiment.ppo),
            training=experiment.training_preferences() if varied else [],
            dirichlet=experiment.preferences.dirichlet if varied else None,
            settings=self._settings(row),
        )

    def generate(self, row: str) -> schema.GenerateSection:
        experiment = self.experiment
        return schema.GenerateSection(
            task=experiment.task,
            model=reset(experiment.model, "lora", "gradient_checkpointing"),
            conditioning=self._conditioning(row),
            generation=reset(experiment.generation, "temperature", "top_p"),
            objectives=list(experiment.objectives),
            evaluation=self.evaluation if self.rows[row].steerable else [],
            settings=self._settings(row),
            scoring=self.scoring(judges=False) if self.rows[row].reads_rewards else None,
        )

    def evaluate(self) -> schema.EvaluateSection:
        experiment = self.experiment
        return schema.EvaluateSection(
            task=experiment.task,
            objectives=experiment.objectives,
            evaluation=reset(experiment.evaluation, "reference_responses"),
            methods=experiment.run.methods,
            seeds=experiment.run.seeds,
            payoff_row=self._row_of("single_objective"),
            reference_row=self._row_of("reference"),
        )

    def _conditioning(self, row: str) -> keys.Conditioning:
        method = self.rows[row]
        reads_preference = method.conditioned or method.answers == "external"
        return reset(self.experiment.conditioning, "warm_start", *(() if reads_preference else ("template", "format")))

    def _settings(self, row: str) -> dict[str, Any]:
        return self.rows[row].settings.model_copy(update={"kind": self._kind(row)}).model_dump()

    def _row_of(self, kind: str) -> str | None:
        """Return the first evaluated row of a kind of method."""
        return next((row for row in self.experiment.run.methods if self._kind(row) == kind), None)

    def _kind(self, row: str) -> str:
        return self.rows[row].settings.kind or row

    def weights(self, row: str, policy: str) -> str:
        """Return a policy's fixed weights as JSON; 'null' where the preference varies or does not exist."""
        return json.dumps(self.policies[row, policy].weights)

    # What a job's result depends on besides its inputs and its section.

    def code(self, stage: str, *, rewards: Mapping[str, Reward] | None = None, row: str | None = None) -> str:
        """Return the hash of a stage's logic.

        That is its module, the kinds of its rewards, the user's functions, the row's method, and for the stage train
        the row's trainer. What is imported by name is not seen by the hash of who imports it.
        """
        specs = list((rewards or {}).values())
        modules = [f"moa.stages.{stage}", *(f"moa.rewards.{spec.kind}" for spec in specs)]
        if row is not None:
            modules.append(f"moa.methods.{self._kind(row)}")
        if row is not None and stage == "train":
            modules.append(f"moa.trainers.{self.rows[row].trainer}")
        own = [spec.function.partition(":")[0] for spec in specs if isinstance(spec, Python)]
        return code_hash(*modules) + (code_hash(*own, root=Path.cwd()) if own else "")

    def data_sources(self) -> list[str]:
        """Return where prompts and texts come from."""
        data = self.experiment.data
        return [data.source, *([data.responses.source] if data.responses else [])]

    def files(self, *, rewards: Mapping[str, Reward] | None = None, sources: Iterable[str] = ()) -> str:
        """Return the state of the local files and folders among `sources` and the classifiers of `rewards`."""
        classifiers = [spec.source for spec in (rewards or {}).values() if isinstance(spec, Classifier)]
        return local_state(*sources, *classifiers)

    def reward_files(self, name: str) -> str:
        """Return the state of the local data, and model, that a reward is trained from."""
        spec = self.experiment.rewards[name]
        assert isinstance(spec, Linear | Transformer), f"reward {name} is not trained here"
        return self.files(sources=[spec.data.source, *([spec.source] if isinstance(spec, Transformer) else [])])

    def answering_rewards(self, row: str) -> dict[str, Reward]:
        """Return the rewards that `row` reads to answer; none for most."""
        return self.scoring(judges=False).rewards if self.rows[row].reads_rewards else {}

    def train_files(self, row: str) -> str:
        """Return the state of the local files that `row`'s training reads: its rewards' and its own data sets."""
        return self.files(rewards=self.scoring(judges=False).rewards, sources=self.rows[row].sources())

    def generate_files(self, row: str) -> str:
        """Return the state of the local files that `row` answers with.

        These are an external row's, and those of the rewards that it reads.
        """
        external = self.rows[row].answers == "external"
        sources = (
            [str(value) for value in self._settings(row).values() if isinstance(value, str | Path)] if external else []
        )
        return self.files(rewards=self.answering_rewards(row), sources=sources)

    def shared_sources(self) -> set[str]:
        """Return every source of prompts, texts, models and rewards, hub ids and local paths."""
        sources = {*self.data_sources(), self.experiment.model.source}
        for spec in self.scoring(judges=True).rewards.values():
            sources |= {spec.source} if isinstance(spec, Classifier | Transformer) else set()
            sources |= {spec.data.source} if isinstance(spec, Linear | Transformer) else set()
        return sources

    def sources(self) -> set[str]:
        """Return every source of the run, those of its rows included."""
        return self.shared_sources() | {source for row in self.rows.values() for source in row.sources()}

    def remote(self) -> bool:
        """Return whether some source of the experiment comes over the network."""
        return _remote(self.shared_sources())

    def remote_rows(self) -> bool:
        """Return whether some row's own source comes over the network: an external row's model, MODPO's pairs."""
        return _remote(source for row in self.rows.values() for source in row.sources())

    def neural(self, rewards: Mapping[str, Reward]) -> bool:
        """Return whether scoring `rewards` runs a transformer."""
        return any(isinstance(spec, Classifier | Transformer) for spec in rewards.values())


def _mistakes(where: str, found: Iterable[str]) -> MoaError:
    """Return one error for all mistakes, a line each, that names the file; the same line stands there once."""
    lines = dict.fromkeys(line for text in found for line in text.splitlines())
    return MoaError("\n".join(f"{where}: {line}" for line in lines))


def _remote(sources: Iterable[str]) -> bool:
    return any(source not in ("embedded", "scratch") and not Path(source).expanduser().exists() for source in sources)


def finished_runs(results: Path, task: str) -> list[Path]:
    """Return run.parquet of every other task that is complete on disk, so that database and index show them too.

    A task is complete when every file that its run lists is there and unchanged; one that is being made anew is left
    out, and said to be, until it has finished. Only files younger than the list are hashed.
    """
    found = []
    for path in sorted(results.glob("*/run.parquet")):
        if path.parent.name == task:
            continue
        if _complete(path):
            found.append(path)
        else:
            terminal.note(
                f"Task '{path.parent.name}' has changed since its run finished: the database leaves it out until it is"
                " run again."
            )
    return found


def _complete(run: Path) -> bool:
    from moa.store import tables

    try:
        files = json.loads(tables.read(tables.RUNS, run)["files"][0].as_py())
    except MoaError:
        return False
    written = run.stat().st_mtime
    for name, recorded in files.items():
        path = run.parent / name
        if not path.exists() or (path.stat().st_mtime > written and file_hash(path) != recorded):
            return False
    return True
