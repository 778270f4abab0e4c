"""A data set's own preference pairs: a prompt, the response that somebody chose, and the one that was rejected.

A response starts with the space that separates it from its prompt, as everywhere (moa/stages/prompts.py).
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from moa.errors import MoaError
from moa.experiment.pairs import PairSource
from moa.tasks.duplicates import Near, common
from moa.tasks.tabular import read_rows, text_of
from moa.tasks.text import encodable, split_after

log = logging.getLogger("moa")
SPEAKER = re.compile(r"^\s*\w+:\s*")


class Pair(NamedTuple):
    """One comparison."""

    prompt: str
    chosen: str
    rejected: str


def read_pairs(where: str, source: PairSource, evaluation: Iterable[str]) -> list[Pair]:
    """Return the usable pairs in the file's order, each once; what was left out, and why, is logged.

    Args:
        where: the key that names `source`, for messages.
        source: file and columns.
        evaluation: prompts that evaluation uses; pairs whose prompt, or a turn of it, nearly is one are left out.

    Raises:
        MoaError: unreadable source, a column that is not text, or no usable pair.
    """
    columns = [c for c in (source.prompt, source.chosen, source.rejected) if c is not None]
    rows = read_rows(source.source, source.revision, source.subset, source.split, columns)
    pairs = [_pair(row, source, f"{where}, row {number} of {source.source}") for number, row in enumerate(rows)]
    near = Near(evaluation, common([pair.prompt for pair in pairs if pair]))
    taken, found = Counter[str](), dict[Pair, None]()
    for pair in pairs:
        reason = (
            _unusable(pair, near, source.text_characters)
            if pair
            else "without the frame, of several turns, or without a common prompt"
        )
        if reason is None and pair in found:
            reason = "exact duplicates"
        if reason is None and pair is not None:
            found[pair] = None
        else:
            taken[str(reason)] += 1
    left_out = ", ".join(f"{count} {reason}" for reason, count in taken.items()) or "none"
    if not found:
        raise MoaError(
            f"{where}: none of the {len(rows)} rows of {source.source} is a usable pair ({left_out}); correct the"
            " columns, or leave `pairs` out"
        )
    log.info("%s: %d pairs of %s; left out: %s", where, len(found), source.source, left_out)
    return list(found)


def _pair(row: dict[str, Any], source: PairSource, where: str) -> Pair | None:
    """Return a row's pair; None where two dialogues differ before their last turn, or the prompt has no frame."""
    chosen, rejected = (encodable(text_of(where, row, column)) for column in (source.chosen, source.rejected))
    if source.prompt is not None:
        prompt = encodable(text_of(where, row, source.prompt))
    else:
        assert source.prompt_end is not None, "PairSource's validator demands prompt or prompt_end"
        first, second = split_after(chosen, source.prompt_end), split_after(rejected, source.prompt_end)
        if first is None or second is None or first[0] != second[0]:
            return None
        prompt, chosen, rejected = first[0], first[1], second[1]
    bare = prompt if source.frame is None else _unframed(prompt, source.frame)
    return None if bare is None else Pair(bare, _response(chosen), _response(rejected))


def _unframed(prompt: str, frame: str) -> str | None:
    """Return what stands in the frame, None where the frame is missing or stands there more than once."""
    before, after = (part.strip() for part in frame.split("{prompt}"))
    text = prompt.strip()
    if not (text.startswith(before) and text.endswith(after)):
        return None
    inner = text[len(before) : len(text) - len(after)].strip()
    return None if any(mark and mark in inner for mark in (before, after)) else inner


def _response(text: str) -> str:
    return " " + text.strip()


def _unusable(pair: Pair, near: Near, characters: tuple[int, int]) -> str | None:
    if not all(map(str.strip, pair)):
        return "with a blank prompt or response"
    if pair.chosen == pair.rejected:
        return "with equal responses"
    low, high = characters
    if not all(low <= len(pair.prompt) + len(response) <= high for response in (pair.chosen, pair.rejected)):
        return "outside text_characters"
    return (
        "near-duplicates of evaluation prompts" if any(map(near.matches, (pair.prompt, *_turns(pair.prompt)))) else None
    )


def _turns(prompt: str) -> list[str]:
    """Return a dialogue's paragraphs without the speaker's name in front: 'Human: Why?' is 'Why?'."""
    return [SPEAKER.sub("", part) for part in prompt.splitlines() if part.strip()]
