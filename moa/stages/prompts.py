"""Prompts with disjoint splits, and texts for fine-tuning, from the embedded corpus or from a dataset (docs/data.md).

Order, splits and ids follow from the content and `data.seed`, not from the order of rows: the same rows give the same
bytes. A response starts with the space that separates it from its prompt, so that prompt + response is the whole text.
"""

import argparse
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from moa.errors import MoaError
from moa.experiment.keys import Data, Responses
from moa.experiment.schema import PromptsSection
from moa.job.command import Cost, parser, run
from moa.store import tables
from moa.store.provenance import text_hash
from moa.tasks import reviews
from moa.tasks.duplicates import Near, common, normalise
from moa.tasks.files import locate
from moa.tasks.tabular import read_rows, text_of
from moa.tasks.text import clean, encodable, first_sentences, first_turn, split_after, split_opening

log = logging.getLogger("moa")


@dataclass(frozen=True)
class Item:
    """A usable row. `content` says what the row is about: the whole text, or the prompt where prompts are given."""

    prompt: str
    response: str  # '' where the source holds prompts only
    content: str


@dataclass(frozen=True)
class Sets:
    """What the stage writes; no two of the lists share content."""

    texts: list[Item]
    heldout: list[Item]
    train: list[str]
    evaluation: list[str]


class Source:
    """The usable rows of one source, and how many rows each filter took."""

    def __init__(self, where: str, rows: int) -> None:
        self.where = where
        self.rows = rows
        self.taken: Counter[str] = Counter()

    def filter(self, items: Iterable[Item], keep: Callable[[Item], bool], reason: str) -> list[Item]:
        given = list(items)
        kept = [item for item in given if keep(item)]
        self.taken[reason] += len(given) - len(kept)
        return kept

    def report(self) -> str:
        took = ", ".join(f"{count} {reason}" for reason, count in self.taken.items() if count)
        return f"{self.where}: {self.rows} rows" + (f"; left out: {took}" if took else "; none left out")

    def need(self, key: str, asked: int, found: int) -> None:
        """Raise a MoaError if fewer rows than `asked` for by data.`key` are left."""
        if found < asked:
            raise MoaError(
                f"data.{key}: {asked} asked for, {found} left ({self.report()}); lower data.{key}, loosen the filters,"
                " or give more data"
            )


def prepare(data: Data) -> Sets:
    """Return prompts and texts as `data` declares them.

    Raises:
        MoaError: unreadable source, or fewer rows than asked for.
    """
    return embedded(data) if data.source == "embedded" else from_dataset(data)


def embedded(data: Data) -> Sets:
    """Return the generated review corpus."""
    corpus = reviews.generate(data.texts, data.heldout_texts, data.train_prompts, data.evaluation_prompts, data.seed)
    texts, heldout = (
        [Item(r.prompt, r.response, r.prompt + r.response) for r in part] for part in (corpus.texts, corpus.heldout)
    )
    return Sets(texts, heldout, corpus.train_prompts, corpus.evaluation_prompts)


def from_dataset(data: Data) -> Sets:
    """Return the splits of a dataset.

    Evaluation prompts are taken first, then held-out texts, then what trains and resembles neither.
    """
    source, pool = _read(data, data.split)
    evaluation_source, candidates = _read_evaluation(data, source, pool)
    evaluation = _distinct(candidates, data.evaluation_prompts)
    evaluation_source.need("evaluation_prompts", data.evaluation_prompts, len(evaluation))
    kept_out = {item.content for item in evaluation}
    pool = source.filter(pool, lambda item: item.content not in kept_out, "used for evaluation")

    text_source, text_pool = _read_responses(data, data.responses) if data.responses else (source, pool)
    heldout = text_pool[: data.heldout_texts]
    text_source.need("heldout_texts", data.heldout_texts, len(heldout))
    text_source.taken["held out"] += len(heldout)
    shared = common(
        [
            item.content
            for both in zip_longest(pool, () if data.responses is None else text_pool)
            for item in both
            if item
        ]
    )
    if shared:
        log.info("near-duplicates: %d sequences of three words that many texts share do not count", len(shared))
    seen = Near((item.content for item in (*evaluation, *heldout)), shared)
    trained = text_source.filter(
        text_pool[data.heldout_texts :],
        lambda item: not seen.matches(item.content),
        "near-duplicates of evaluation or held-out texts",
    )
    text_source.need("texts", data.texts, len(trained))

    near = Near((item.prompt for item in evaluation), shared)
    # From the end, so that prompts and texts overlap only where rows are few.
    others = reversed(trained if data.responses is None else pool)
    rest = source.filter(
        _distinct(others), lambda item: not near.matches(item.prompt), "near-duplicates of evaluation prompts"
    )
    source.need("train_prompts", data.train_prompts, len(rest))
    for part in dict.fromkeys((source, evaluation_source, text_source)):
        log.info(part.report())
    return Sets(
        trained[: data.texts], heldout, [i.prompt for i in rest[: data.train_prompts]], [i.prompt for i in evaluation]
    )


def _read(data: Data, split: str) -> tuple[Source, list[Item]]:
    column = data.text or data.prompt
    assert column is not None, "Data's validator demands text or prompt"
    rows = read_rows(
        data.source, data.revision, data.subset, split, [column, *([data.response] if data.response else [])]
    )
    source = Source(f"{data.source}, split {split}", len(rows))
    items = (
        _from_prompts(rows, column, data.response, data, source)
        if data.text is None
        else _from_texts(rows, column, data, source)
    )
    return source, _usable(items, data, source)


def _read_evaluation(data: Data, source: Source, pool: list[Item]) -> tuple[Source, list[Item]]:
    if data.evaluation_split is None:
        return source, pool
    files = locate(data.source, data.subset, data.evaluation_split)
    if files is not None and files == locate(data.source, data.subset, data.split):
        raise MoaError(
            f"data.evaluation_split: {files[0]} serves both '{data.split}' and '{data.evaluation_split}'; leave"
            " evaluation_split out, or give a folder with a file for each split"
        )
    return _read(data, data.evaluation_split)


def _read_responses(data: Data, responses: Responses) -> tuple[Source, list[Item]]:
    rows = read_rows(
        responses.source, responses.revision, responses.subset, responses.split, [responses.prompt, responses.response]
    )
    source = Source(f"{responses.source}, split {responses.split}", len(rows))
    return source, _usable(_from_prompts(rows, responses.prompt, responses.response, data, source), data, source)


def _from_texts(rows: list[dict[str, Any]], column: str, data: Data, source: Source) -> list[Item]:
    items = []
    for row in rows:
        text = text_of(source.where, row, column)
        item = _dialogue(encodable(text), data) if data.prompt_end is not None else _opening(text, data)
        if item is None:
            source.taken[
                (
                    "without a response after prompt_end"
                    if data.prompt_end is not None
                    else "too short to be split into prompt and response"
                )
            ] += 1
        else:
            items.append(item)
    return items


def _opening(text: str, data: Data) -> Item | None:
    text = clean(text)
    text = text if data.sentences is None else first_sentences(text, data.sentences)
    parts = split_opening(text, *data.opening_words)
    return Item(*parts, text) if parts else None


def _dialogue(text: str, data: Data) -> Item | None:
    """Split a dialogue; it is not cleaned, because line breaks matter."""
    assert data.prompt_end is not None
    if data.prompt_start is not None:
        parts = first_turn(text, data.prompt_start, data.prompt_end)
    else:
        parts = split_after(text, data.prompt_end)
    return Item(parts[0], _response(parts[1], data), parts[0]) if parts else None


def _from_prompts(
    rows: list[dict[str, Any]], prompt: str, response: str | None, data: Data, source: Source
) -> list[Item]:
    made = []
    for row in rows:
        question = encodable(text_of(source.where, row, prompt))
        made.append(Item(question, _response(text_of(source.where, row, response), data) if response else "", question))
    made = source.filter(made, lambda item: bool(item.prompt.strip()), "with a blank prompt")
    return source.filter(made, lambda item: bool(item.response.strip()), "with a blank response") if response else made


def _response(text: str, data: Data) -> str:
    text = encodable(text).strip()
    return " " + (text if data.sentences is None else first_sentences(clean(text), data.sentences))


def _usable(items: list[Item], data: Data, source: Source) -> list[Item]:
    """Filter by length, drop exact duplicates, and order by content and seed."""
    (low, high), (text_low, text_high) = data.prompt_characters, data.text_characters
    items = source.filter(items, lambda i: low <= len(i.prompt) <= high, "outside prompt_characters")
    # Lengths of texts say nothing about rows that are prompts only.
    items = source.filter(
        items,
        lambda i: not i.response or text_low <= len(i.prompt) + len(i.response) <= text_high,
        "outside text_characters",
    )
    distinct = list(dict.fromkeys(items))
    source.taken["exact duplicates"] += len(items) - len(distinct)
    return sorted(distinct, key=lambda i: (text_hash(str(data.seed), i.content), i.response))


def _distinct(items: Iterable[Item], count: int | None = None) -> list[Item]:
    """The first `count` items (or all) whose prompts differ in more than case and punctuation."""
    found: dict[str, Item] = {}
    for item in items:
        if count is not None and len(found) == count:
            break
        found.setdefault(normalise(item.prompt), item)
    return list(found.values())


def rows(task: str, sets: Sets) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the rows of tables PROMPTS and TEXTS."""
    prompts = [
        {"task": task, "prompt_id": text_hash(prompt), "split": split, "prompt": prompt}
        for split, part in (("train", sets.train), ("evaluation", sets.evaluation))
        for prompt in part
    ]
    texts = [
        {
            "task": task,
            "text_id": text_hash(item.prompt, item.response),
            "split": split,
            "prompt": item.prompt,
            "response": item.response,
        }
        for split, part in (("train", sets.texts), ("heldout", sets.heldout))
        for item in part
    ]
    return prompts, texts


def main(arguments: argparse.Namespace) -> None:
    """Write the tables PROMPTS, TEXTS and COSTS."""
    section = PromptsSection.model_validate_json(arguments.section)
    cost = Cost(section.task, "prompts")
    sets = prepare(section.data)
    prompts, texts = rows(section.task, sets)
    tables.write(tables.PROMPTS, prompts, arguments.prompts)
    tables.write(tables.TEXTS, texts, arguments.texts)
    log.info(
        "prompts: %d train, %d evaluation; texts: %d train, %d held out",
        *(len(p) for p in (sets.train, sets.evaluation, sets.texts, sets.heldout)),
    )
    cost.write(arguments.costs)


if __name__ == "__main__":
    run(main, parser(__doc__, "prompts", "texts", "costs"))
