"""Rows to train a reward on, as texts with values or as pairs, split so that nothing held out was seen.

The split is by prompt, or by text where no prompt column is named: all rows with the same prompt fall on the same side.
Which prompts are held out, and which belong to a part, is for the hash of each to say. So two files agree on every
prompt that both hold, whatever else is in them, and in whatever order. A dialogue that begins with "Human:", as those
of HH-RLHF do, or with "User:" goes by its first turn: another file may hold that alone.
"""

import logging
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from moa.errors import MoaError
from moa.experiment.rewards import Labelled
from moa.rewards.scoring import fill
from moa.store.provenance import text_hash
from moa.tasks.tabular import read_rows, text_of

log = logging.getLogger("moa")
SEED = 0  # of the sample that `rows` takes
FIRST_TURN = re.compile(r"\s*(?:Human|User):(.*?)(?:\n\s*Assistant:.*)?", re.DOTALL)


@dataclass(frozen=True)
class Example:
    """One row.

    Attributes:
        prompt: what takes the place of {prompt}, '' without such a column.
        text: what takes the place of {response}; of a pair the chosen text.
        rejected: the rejected text of a pair, '' for labelled rows.
        value: 1 or 0 for a label, the target, or 1 for a pair.
        group: prompt or text that decides the split, by its words.
    """

    prompt: str
    text: str
    rejected: str
    value: float
    group: str


def examples(name: str, data: Labelled, template: str, heldout: float) -> tuple[list[Example], list[Example]]:
    """Read `data` and return training and held-out examples.

    Args:
        name: the reward's name, for messages.
        data: source, columns and supervision.
        template: text of the reward, which decides the split where no prompt column does.
        heldout: share of the prompts (or texts) that is held out, at least one.

    Raises:
        MoaError: unreadable source; a text that is no text; a target that is no number; a label or a split with one
            class only.
    """
    responses = [data.chosen, data.rejected] if data.chosen and data.rejected else [data.text]
    value = data.label or data.target
    columns = [c for c in (*responses, data.prompt, value) if c is not None]
    rows = read_rows(data.source, data.revision, data.subset, data.split, columns)
    made = [
        _example(f"rewards.{name}.data, row {i} of {data.source}", row, data, responses, template)
        for i, row in enumerate(rows)
    ]
    first, last = data.part
    made = [e for e in made if first <= position("part", e.group) < last]
    if data.rows is not None and data.rows < len(made):
        # Not the first rows: files are often sorted by label.
        made = [made[i] for i in np.sort(np.random.default_rng(SEED).permutation(len(made))[: data.rows])]
    made = _telling(name, made, data)
    training, held = split(made, heldout)
    for part, found in (("training", training), ("held-out", held)):
        _check(f"rewards.{name}.data: the {part} rows of {data.source}", found, data, rows)
    log.info(
        "reward %s: %d rows to train on, %d held out by %s", name, len(training), len(held), data.prompt or responses[0]
    )
    return training, held


def _example(where: str, row: dict[str, Any], data: Labelled, responses: list[str], template: str) -> Example:
    prompt = text_of(where, row, data.prompt) if data.prompt else ""
    text, *rejected = (text_of(where, row, column) for column in responses)
    group = prompt if data.prompt else fill(template, prompt, text)
    return Example(prompt, text, rejected[0] if rejected else "", _value(where, row, data), opening(group))


def opening(prompt: str) -> str:
    """Return what tells a prompt from others: its first turn where it is a dialogue; case and white space aside."""
    turn = FIRST_TURN.fullmatch(prompt)
    return " ".join((turn[1] if turn else prompt).split()).casefold()


def _value(where: str, row: dict[str, Any], data: Labelled) -> float:
    if data.label is not None:
        return float(row[data.label] in data.positive)
    if data.target is None:
        return 1.0
    target = row[data.target]
    if isinstance(target, str) or not isinstance(target, int | float) or not math.isfinite(target):
        raise MoaError(
            f"{where}: target '{data.target}' is {target!r}, expected a finite number; drop such rows, or name another"
            " column"
        )
    return float(target)


def _telling(name: str, made: list[Example], data: Labelled) -> list[Example]:
    """Leave out rows that tell nothing: pairs of one text twice, and labelled rows without a text."""
    kept = [e for e in made if e.text != e.rejected]
    if len(kept) < len(made):
        what = "pairs whose texts are the same" if data.chosen else "rows without a text"
        log.info("reward %s: left out %d %s", name, len(made) - len(kept), what)
    return kept


def position(what: str, group: str) -> float:
    """Return a group's place in [0, 1), by its hash; places for one purpose (`what`) say nothing of another's."""
    return int(text_hash(f"{SEED}", what, group), 16) / 16**16


def split(made: list[Example], heldout: float) -> tuple[list[Example], list[Example]]:
    """Return training and held-out examples; `heldout` is the expected share of groups held out.

    At least one group is, and where there are two classes at least one of each: few rows may have none by hash.
    """
    places = {e.group: position("held out", e.group) for e in made}
    held = {group for group, place in places.items() if place < heldout}
    values = {e.value for e in made}
    for value in values if len(values) == 2 else {None}:
        groups = {e.group for e in made if value in (e.value, None)}
        if groups and not groups & held:
            held.add(min(groups, key=lambda group: places[group]))
    return [e for e in made if e.group not in held], [e for e in made if e.group in held]


def _check(where: str, found: list[Example], data: Labelled, rows: list[dict[str, Any]]) -> None:
    least = 1 if data.chosen else 2
    if len(found) < least:
        raise MoaError(f"{where} are {len(found)}, at least {least} are needed; give more rows, or another `heldout`")
    if data.chosen is None and len({e.value for e in found}) < 2:
        if data.target is not None:
            raise MoaError(
                f"{where} all have the target {found[0].value:g}; there is nothing to learn: give more rows, or name"
                " another column"
            )
        seen = sorted({repr(row[str(data.label)]) for row in rows})[:8]
        raise MoaError(
            f"{where} hold one class only; label '{data.label}' has the values {', '.join(seen)} and `positive` is"
            f" {data.positive}: give more rows, or correct `positive`"
        )
