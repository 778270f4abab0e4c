"""What an experiment names outside of itself: tables, folders with models, functions; each with its key.

Only what the run uses is listed: a reward that no objective names is not read.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from moa.errors import MoaError
from moa.experiment.pairs import PairSource
from moa.experiment.rewards import Classifier, Linear, Python, Reward, Transformer
from moa.methods import external
from moa.plan import Plan
from moa.tasks.files import locate


@dataclass(frozen=True)
class Table:
    """Rows that a job will read.

    Attributes:
        key: where the experiment names it.
        columns: that are read.
        least: rows that the run needs at the very least.
    """

    key: str
    source: str
    subset: str | None
    split: str
    columns: tuple[str, ...]
    least: int = 1

    @property
    def files(self) -> list[Path] | None:
        """The local files; None for a hub id; a MoaError, with the key, for a path that is not there."""
        try:
            return locate(self.source, self.subset, self.split)
        except MoaError as error:
            raise MoaError(f"{self.key}: {error}") from None


@dataclass(frozen=True)
class Weights:
    """A model that jobs will load: `key` names it, `what` says in a word what it is."""

    key: str
    source: str
    what: str
    classifier: bool = False

    @property
    def folder(self) -> Path | None:
        """The local folder; None for a hub id; a MoaError for what can be neither."""
        path = expanded(self.source)
        if path.is_dir():
            return path
        if self.source.startswith((".", "/", "~")) or self.source.count("/") > 1 or path.exists():
            raise MoaError(f"{self.key}: {self.source} is no folder, and no hub id; name a folder with a model")
        return None


def nothing(plan: Plan) -> bool:
    """Return whether an experiment needs nothing but this package: no file, model, server or code of somebody else."""
    outside = (tables(plan), models(plan), functions(plan), externals(plan), plan.endpoints())
    return not any(outside)


def tables(plan: Plan) -> list[Table]:
    """Return every table that jobs of the run read, the prompts' first."""
    found = prompts(plan)
    for name, spec in plan.scoring(judges=True).rewards.items():
        if isinstance(spec, Linear | Transformer):
            data = spec.data
            texts = (data.chosen, data.rejected) if data.chosen else (data.text,)
            columns = tuple(c for c in (*texts, data.prompt, data.label, data.target) if c is not None)
            found.append(Table(f"rewards.{name}.data", data.source, data.subset, data.split, columns, 2))
    for key, source in pairs(plan).items():
        columns = tuple(c for c in (source.prompt, source.chosen, source.rejected) if c is not None)
        found.append(Table(key, source.source, source.subset, source.split, columns))
    return found


def prompts(plan: Plan) -> list[Table]:
    """Return the tables of `data`, none for the embedded corpus; a row gives one text and one prompt at most."""
    data = plan.experiment.data
    if data.source == "embedded":
        return []
    texts, answered = data.texts + data.heldout_texts, data.responses
    columns = tuple(c for c in (data.text, data.prompt, data.response) if c is not None)
    least = data.train_prompts if answered else texts
    own = Table("data", data.source, data.subset, data.split, columns, least)
    if data.evaluation_split is None:
        found = [replace(own, least=least + data.evaluation_prompts)]
    else:
        found = [own, replace(own, split=data.evaluation_split, least=data.evaluation_prompts)]
    if answered:
        both = (answered.prompt, answered.response)
        found.append(Table("data.responses", answered.source, answered.subset, answered.split, both, texts))
    return found


def pairs(plan: Plan) -> dict[str, PairSource]:
    """Return the preference pairs that rows read, by their key."""
    return {
        f"methods.{row}.{name}": value
        for row, method in plan.rows.items()
        for name, value in method.settings
        if isinstance(value, PairSource)
    }


def models(plan: Plan) -> list[Weights]:
    """Return every model that jobs of the run load, the base first; not one that is trained from nothing."""
    base = plan.experiment.model.source
    found = [] if base == "scratch" else [Weights("model.source", base, "base")]
    for name, spec in plan.scoring(judges=True).rewards.items():
        if isinstance(spec, Classifier | Transformer):
            key = f"rewards.{name}.source"
            found.append(Weights(key, spec.source, f"reward {name}", isinstance(spec, Classifier)))
    for row, settings in externals(plan).items():
        if settings.model is not None:
            found.append(Weights(f"methods.{row}.model", settings.model, f"row {row}"))
    return found


def externals(plan: Plan) -> dict[str, external.Settings]:
    """Return the settings of the rows that answer with something of the user's."""
    return {row: m.settings for row, m in plan.rows.items() if isinstance(m.settings, external.Settings)}


def functions(plan: Plan) -> dict[str, Python]:
    """Return the user's own rewards."""
    used: dict[str, Reward] = plan.scoring(judges=True).rewards
    return {name: spec for name, spec in used.items() if isinstance(spec, Python)}


def expanded(source: str) -> Path:
    """Return a source as a path, '~' filled in."""
    return Path(source).expanduser()
