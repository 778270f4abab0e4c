"""Stage reference: the reference policy's responses give every objective its scale, and text its bounds of fluency.

The scale includes the hypervolume's reference point.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moa.errors import MoaError
from moa.experiment.schema import ReferenceSection
from moa.job import command
from moa.lm import answering, fluency, grid
from moa.lm.answering import Answerer, Base, Prompting, Sampling
from moa.lm.conditioning import continuing
from moa.lm.generation import Decoding
from moa.lm.grid import Question
from moa.metrics import normaliser
from moa.metrics.normaliser import HIGH, LOW
from moa.rewards import scoring
from moa.store import inputs, tables
from moa.store.provenance import text_hash
from moa.store.tables import Row

log = logging.getLogger("moa")
MIDDLE = 0.5


def answer(section: ReferenceSection, base: Answerer, asked: Sequence[Question]) -> list[Row]:
    """Return the reference policy's responses, decoded as in training, as rows of REFERENCE_RESPONSES."""
    generation = section.generation
    clock = command.Progress(f"{section.task} reference", len(asked))
    sampling = Sampling(Decoding.training(generation), generation.batch_size, "reference")
    texts = base.texts([prompt["prompt"] for prompt, _ in asked], None)
    found = answering.respond(base, texts, sampling, clock.add)
    read = fluency.measure(base.model, base.tokenizer, texts, [r.text for r in found], base.context)
    key = {"task": section.task, "method": "reference", "seed": 0, "point": 0, "preference": None}
    return [
        {**key, "policy": "reference", **grid.row(question, response), "nll": nll}
        for question, response, nll in zip(asked, found, read.nll, strict=True)
    ]


def score(
    section: ReferenceSection, models: Sequence[Path], prompts: list[str], rows: Sequence[Row]
) -> tuple[list[Row], dict[str, NDArray[np.float32]], dict[str, scoring.Scorer]]:
    """Return rows of REFERENCE_SCORES, each objective's rewards (n,), and the rewards and judges that gave them."""
    made: list[Row] = []
    rewards: dict[str, NDArray[np.float32]] = {}
    named = [name for o in section.objectives.values() for name in (o.reward, o.judge) if name is not None]
    used = scoring.load_several({name: section.rewards[name] for name in named}, models)
    for objective, declared in section.objectives.items():
        for role, name in (("reward", declared.reward), ("judge", declared.judge)):
            if name is None:
                continue
            scores = scoring.score(name, used[name], prompts, [r["response"] for r in rows], floor=None)
            if role == "reward":
                rewards[objective] = scores.values
            for row, value, truncated in zip(rows, scores.values.tolist(), scores.truncated.tolist(), strict=True):
                key = {k: row[k] for k in ("task", "method", "seed", "point", "prompt_id", "sample")}
                made.append({**key, "objective": objective, "role": role, "score": value, "truncated": truncated})
    return made, rewards, used


def scale(section: ReferenceSection, objective: str, scores: NDArray[np.float32]) -> Row:
    """Return one objective's row of NORMALISER, without its hash."""
    name = section.objectives[objective].reward
    given = (section.evaluation.reference_point or {}).get(objective)
    what = f"reward {name} of objective '{objective}'"
    columns = normaliser.fit(what, scores, scoring.bounds(section.rewards[name]), given)
    return {"task": section.task, "objective": objective, **columns}


def normaliser_rows(
    section: ReferenceSection, rows: Sequence[Row], rewards: dict[str, NDArray[np.float32]]
) -> list[Row]:
    """Return table NORMALISER; the hash covers settings, responses and scores."""
    settings = section.model_dump_json()
    texts = [part for r in rows for part in (r["prompt_id"], r["response"])]
    made = []
    for objective, scores in rewards.items():
        row = scale(section, objective, scores)
        shown = (row[column] for column in ("low", "high", "mean", "reference_point"))
        log.info("%s: 0 is %.4g, 1 is %.4g, mean %.4g, reference point %.4g", objective, *shown)
        made.append({**row, "hash": text_hash(settings, objective, *texts, scores.astype("<f4").tobytes().hex())})
    return made


def held_out(section: ReferenceSection, base: Answerer, path: Path) -> tuple[list[Row], int]:
    """Return table FLUENCY, and the tokens read: what fluent text costs the reference policy, by length."""
    rows = [r for r in tables.read(tables.TEXTS, path).to_pylist() if r["split"] == "heldout"]
    if not rows:
        raise MoaError(f"{path}: no held-out texts, so nothing says what fluent text is; raise data.heldout_texts")
    texts = base.texts([r["prompt"] for r in rows], None)
    responses = continuing(texts, [r["response"] for r in rows])
    read = fluency.measure(base.model, base.tokenizer, texts, responses, base.context)
    count = sum(len(row) > 0 for row in read.losses)
    if not count:
        raise MoaError(f"{path}: every held-out response is empty; name data.text or data.response")
    made = [
        {"task": section.task, "tokens": length, "low": low, "high": high, "median": median, "n": count}
        for length, (low, median, high) in enumerate(fluency.band(read.losses, (LOW, MIDDLE, HIGH)).tolist(), 1)
    ]
    for row in (made[0], made[-1]):
        shown = (row["tokens"], row["median"], row["low"], row["high"], count)
        log.info("held-out text, first %d tokens: %.2f nats per token (1 %% %.2f, 99 %% %.2f), %d texts", *shown)
    return made, read.tokens


def main(args: argparse.Namespace) -> None:
    """Write tables REFERENCE_RESPONSES, REFERENCE_SCORES, NORMALISER, FLUENCY and COSTS."""
    section = ReferenceSection.model_validate_json(args.section)
    cost = command.Cost(section.task, "reference_scores")
    prompting = Prompting(list(section.objectives), section.conditioning)
    base = answering.load(Base(args.base, section.model), [], "policy", prompting)
    asked = grid.reference_questions(inputs.prompts(args.prompts, "train"), section.evaluation.reference_responses)
    rows = answer(section, base, asked)
    cost.batch = base.batch
    scores, rewards, used = score(section, args.models, [prompt["prompt"] for prompt, _ in asked], rows)
    fluent, read = held_out(section, base, args.texts)
    tables.write(tables.REFERENCE_RESPONSES, rows, args.responses)
    tables.write(tables.REFERENCE_SCORES, scores, args.scores, scoring.notes(used))
    tables.write(tables.NORMALISER, normaliser_rows(section, rows, rewards), args.normaliser)
    tables.write(tables.FLUENCY, fluent, args.fluency)
    cost.tokens = sum(r["tokens"] for r in rows) + read + sum(scorer.tokens for scorer in used.values())
    cost.write(args.costs)


if __name__ == "__main__":
    paths = ("prompts", "texts", "base", "models*", "responses", "scores", "normaliser", "fluency", "costs")
    command.run(main, command.parser(__doc__, *paths))
