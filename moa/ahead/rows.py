"""All rows of what is local, read as the jobs will read them: the same functions, so the same mistakes and messages."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from moa.ahead import named
from moa.ahead.local import collecting, size, under
from moa.ahead.named import Table
from moa.errors import MoaError
from moa.experiment.rewards import Linear, Transformer
from moa.plan import Plan
from moa.rewards.labelled import examples
from moa.stages.prompts import Sets, prepare
from moa.store.provenance import text_hash
from moa.tasks.preference_pairs import read_pairs

LARGE = 100 * 2**20  # bytes of a table; above, `moa check` looks at its columns alone
FEW = 2000  # texts and prompts of the embedded corpus that are looked at


@dataclass
class Seen:
    """What reading told: mistakes, what was not looked at, and what jobs would log of it (rows that were left out)."""

    mistakes: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def read(plan: Plan, seen: Seen) -> Sets | None:
    """Read every local table of the run, and note in `seen` what that told.

    Returns:
        the prompts and texts of the run; None where they are not known.
    """
    trained: dict[str, set[str]] = {}
    with listening(seen.said):
        sets = _prompts(plan, seen)
        for name, spec in plan.scoring(judges=True).rewards.items():
            if isinstance(spec, Linear | Transformer) and readable(table(plan, f"rewards.{name}.data"), seen.unseen):
                with collecting(seen.mistakes):
                    trained[name] = _trained_on(name, spec)
        seen.mistakes += _shared_prompts(plan, trained)
        for key, source in named.pairs(plan).items():
            if readable(table(plan, key), seen.unseen):
                with collecting(seen.mistakes):
                    read_pairs(key, source, [] if sets is None else sets.evaluation)
    return sets


@contextmanager
def listening(said: list[str]) -> Iterator[None]:
    """Add what the block logs to `said`, in place of standard error."""
    log, handler = logging.getLogger("moa"), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before


def table(plan: Plan, key: str) -> Table:
    """Return the table that the experiment names under `key`."""
    return next(found for found in named.tables(plan) if found.key == key)


def readable(found: Table, unseen: list[str]) -> bool:
    """Return whether a table is local, there, and small enough to be read in seconds; what is not goes to `unseen`."""
    try:
        files = found.files
    except MoaError:
        return False  # the plan's checks say so
    if files is None:
        unseen.append(f"{found.key}: hub data set {found.source}, split {found.split}")
    elif size(files) > LARGE:
        unseen.append(f"{found.key}: rows of {found.source}, split {found.split} ({size(files) / 2**20:,.0f} MiB)")
    return files is not None and size(files) <= LARGE


def _prompts(plan: Plan, seen: Seen) -> Sets | None:
    """Return prompts and texts as the stage makes them; of the embedded corpus a few where a model will read them."""
    data = plan.experiment.data
    if data.source == "embedded":
        if any(settings.responses is not None for settings in named.externals(plan).values()):
            return prepare(data)  # all of it: the answers must be to these prompts
        if plan.experiment.model.source == "scratch":
            return None  # nothing can be wrong with them, and what reads them is made in the run
        return prepare(data.model_copy(update={"texts": min(data.texts, FEW), "train_prompts": FEW}))
    if all([readable(found, seen.unseen) for found in named.prompts(plan)]):
        with collecting(seen.mistakes):
            try:
                return prepare(data)
            except MoaError as error:
                raise under("data", error) from None
    return None


def _trained_on(name: str, spec: Linear | Transformer) -> set[str]:
    """Return the prompts, or texts, that a reward is trained on."""
    try:
        training, _ = examples(name, spec.data, spec.template, spec.heldout)
        return {example.group for example in training}
    except MoaError as error:
        raise under(f"rewards.{name}.data", error) from None


def _shared_prompts(plan: Plan, trained: dict[str, set[str]]) -> Iterator[str]:
    """Yield a line for every judge that is trained on prompts of its reward, of whatever file."""
    for name, objective in plan.experiment.objectives.items():
        both = trained.get(objective.reward, set()) & trained.get(objective.judge or "", set())
        if both:
            yield (
                f"objectives.{name}.judge: {objective.judge} and {objective.reward} are trained on {len(both)} of the"
                f" same prompts, first {min(both)[:60]!r}; train them on two halves, data.part: [0, 0.5] and [0.5, 1]"
            )


def answers(plan: Plan, sets: Sets | None, seen: Seen) -> None:
    """Check the files of responses that external rows answer with: columns, and an answer to every prompt."""
    for row, settings in named.externals(plan).items():
        if settings.responses is None:
            continue
        if sets is None:
            seen.unseen.append(f"methods.{row}.responses: whether {settings.responses} answers every evaluation prompt")
            continue
        from moa.lm import responses  # loads transformers

        asked = [{"prompt_id": text_hash(prompt), "prompt": prompt} for prompt in sets.evaluation]
        grid = plan.rows[row].evaluation_preferences(plan.evaluation)
        with collecting(seen.mistakes):
            responses.read(settings.responses, row, asked, grid, _unread)


def _unread(texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
    """Stand for the tokenizer that counts an answer's tokens: they are not asked for here."""
    return {"input_ids": [[] for _ in texts]}
