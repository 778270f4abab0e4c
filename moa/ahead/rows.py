"""All rows of what is local, read as the jobs will read them: the same functions, so the same mistakes and messages."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
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


def read(plan: Plan, mistakes: list[str], unseen: list[str]) -> Sets | None:
    """Read every local table of the run; add what is wrong to `mistakes`, what is not looked at to `unseen`.

    Returns:
        the prompts and texts of the run; None where they are not known.
    """
    with quiet():
        sets = _prompts(plan, mistakes, unseen)
        for name, spec in plan.scoring(judges=True).rewards.items():
            if isinstance(spec, Linear | Transformer) and readable(table(plan, f"rewards.{name}.data"), unseen):
                with collecting(mistakes):
                    _examples(name, spec)
        for key, source in named.pairs(plan).items():
            if readable(table(plan, key), unseen):
                with collecting(mistakes):
                    read_pairs(key, source, [] if sets is None else sets.evaluation)
    return sets


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what jobs log of their data (counts of what was left out) from a check's own lines."""
    log = logging.getLogger("moa")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


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


def _prompts(plan: Plan, mistakes: list[str], unseen: list[str]) -> Sets | None:
    """Return prompts and texts as the stage makes them; of the embedded corpus a few where a model will read them."""
    data = plan.experiment.data
    if data.source == "embedded":
        if plan.experiment.model.source == "scratch":
            return None  # nothing can be wrong with them, and what reads them is made in the run
        return prepare(data.model_copy(update={"texts": min(data.texts, FEW), "train_prompts": FEW}))
    seen = [readable(found, unseen) for found in named.prompts(plan)]
    if all(seen):
        with collecting(mistakes):
            try:
                return prepare(data)
            except MoaError as error:
                raise under("data", error) from None
    return None


def _examples(name: str, spec: Linear | Transformer) -> None:
    try:
        examples(name, spec.data, spec.template, spec.heldout)
    except MoaError as error:
        raise under(f"rewards.{name}.data", error) from None


def answers(plan: Plan, sets: Sets | None, mistakes: list[str], unseen: list[str]) -> None:
    """Check the files of responses that external rows answer with: columns, and an answer to every prompt."""
    for row, settings in named.externals(plan).items():
        if settings.responses is None:
            continue
        if sets is None or plan.experiment.data.source == "embedded":
            unseen.append(f"methods.{row}.responses: whether {settings.responses} answers every evaluation prompt")
            continue
        from moa.lm import responses  # loads transformers

        asked = [{"prompt_id": text_hash(prompt), "prompt": prompt} for prompt in sets.evaluation]
        grid = plan.rows[row].evaluation_preferences(plan.evaluation)
        with collecting(mistakes):
            responses.read(settings.responses, row, asked, grid, _unread)


def _unread(texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
    """Stand for the tokenizer that counts an answer's tokens: they are not asked for here."""
    return {"input_ids": [[] for _ in texts]}
