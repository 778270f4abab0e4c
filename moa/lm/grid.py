"""Answers over a grid of preferences, as rows of table GENERATIONS, and how fluent they are.

A question is a prompt's row with the number of the response to it: (prompt, sample).
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

from moa.errors import MoaError
from moa.experiment.preferences import Preference
from moa.lm import answering, fluency
from moa.lm.adapters import PeftModel
from moa.lm.answering import Answerer, Response, Sampling
from moa.store.provenance import text_hash
from moa.store.tables import Row

Question = tuple[Row, int]


def questions(prompts: Sequence[Row], samples: int) -> list[Question]:
    """Return every prompt `samples` times, all first responses before the second ones."""
    return [(prompt, sample) for sample in range(samples) for prompt in prompts]


def reference_questions(prompts: Sequence[Row], count: int) -> list[Question]:
    """Return what the reference policy is asked: `count` train prompts, in an order that depends on their content only.

    Prompts repeat once all were used.
    """
    if not prompts:
        raise MoaError("no train prompts; give at least one")
    rows = sorted(prompts, key=lambda r: text_hash("reference", r["prompt_id"]))
    return [(rows[i % len(rows)], i // len(rows)) for i in range(count)]


def row(question: Question, response: Response) -> Row:
    """Return what a response adds to its row of GENERATIONS."""
    (prompt, sample), said = question, response
    columns = {"response": said.text, "tokens": said.tokens, "finished": said.finished}
    return {"prompt_id": prompt["prompt_id"], "sample": sample, **columns}


def walk(
    answerer: Answerer,
    asked: Sequence[Question],
    grid: Sequence[Preference | None],
    sampling: Sampling,
    progress: Callable[[int], None] | None = None,
) -> list[Row]:
    """Answer every question at every preference.

    What a response draws depends on the sampling's seed, the point's number and its own alone.
    """
    rows = []
    for point, preference in enumerate(grid):
        policy = answerer.switch(preference)
        texts = answerer.texts([prompt["prompt"] for prompt, _ in asked], preference)
        drawn = replace(sampling, seed=f"{sampling.seed} {point}")
        found = answering.respond(answerer, texts, drawn, progress)
        key = {"point": point, "preference": preference, "policy": policy}
        rows += [{**key, **row(question, response)} for question, response in zip(asked, found, strict=True)]
    return rows


def describe(rows: Sequence[Row]) -> str:
    """Return how many responses there are, how long, and how many were cut."""
    count, points = len(rows), len({r["point"] for r in rows})
    length, cut = sum(r["tokens"] for r in rows) / count, sum(not r["finished"] for r in rows) / count
    return f"{count} responses at {points} points, mean {length:.1f} tokens, {100 * cut:.0f} % unfinished"


def add_fluency(reference: Answerer, prompts: Sequence[Row], rows: Sequence[Row]) -> int:
    """Add each response's NLL under the reference policy, its adapters off; return the tokens read."""
    built = reference.texts([p["prompt"] for p in prompts], None)
    by_id = {p["prompt_id"]: text for p, text in zip(prompts, built, strict=True)}
    model = reference.model
    asked, said = [by_id[r["prompt_id"]] for r in rows], [r["response"] for r in rows]
    with model.disable_adapter() if isinstance(model, PeftModel) else nullcontext():
        read = fluency.measure(model, reference.tokenizer, asked, said, reference.context)
    for answer, nll in zip(rows, read.nll, strict=True):
        answer["nll"] = nll
    return read.tokens
