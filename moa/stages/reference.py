"""Stage reference: responses of the reference policy give every objective its scale, and the hypervolume its reference point."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa.errors import MoaError
from moa.experiment.schema import ReferenceSection
from moa.job import command
from moa.lm import answering, fluency
from moa.lm.generation import Decoding
from moa.rewards import scoring
from moa.store import tables
from moa.store.provenance import text_hash

log = logging.getLogger("moa")
LOW, MIDDLE, HIGH = 0.01, 0.5, 0.99  # quantiles: the central 98 %
Row = dict[str, Any]


def choose_prompts(path: Path, count: int) -> list[tuple[Row, int]]:
    """Return `count` train prompts with a sample number, in an order that depends on their content only.

    Prompts repeat once all were used.
    """
    rows = [r for r in tables.read(tables.PROMPTS, path).to_pylist() if r["split"] == "train"]
    if not rows:
        raise MoaError(f"{path}: no train prompts")
    rows.sort(key=lambda r: text_hash("reference", r["prompt_id"]))
    return [(rows[i % len(rows)], i // len(rows)) for i in range(count)]


def answer(section: ReferenceSection, base: answering.Answerer, chosen: Sequence[tuple[Row, int]]) -> list[Row]:
    """Return the reference policy's responses, decoded as in training, as rows of REFERENCE_RESPONSES."""
    texts = base.texts([r["prompt"] for r, _ in chosen], None)
    generation = section.generation
    decoding = Decoding(generation.max_new_tokens, generation.temperature, generation.top_p)
    clock = command.Progress(f"{section.task} reference", len(texts))
    found = answering.respond(base, texts, decoding, generation.batch_size, "reference", clock.add)
    read = fluency.measure(base.model, base.tokenizer, texts, [r.text for r in found], base.context)
    key = {
        "task": section.task,
        "method": "reference",
        "seed": 0,
        "point": 0,
        "preference": None,
        "policy": "reference",
    }
    return [
        {
            **key,
            "prompt_id": row["prompt_id"],
            "sample": sample,
            "response": r.text,
            "tokens": r.tokens,
            "finished": r.finished,
            "nll": nll,
        }
        for (row, sample), r, nll in zip(chosen, found, read.nll, strict=True)
    ]


def score(
    section: ReferenceSection, models: Sequence[Path], prompts: list[str], rows: Sequence[Row]
) -> tuple[list[Row], dict[str, NDArray[np.float32]], dict[str, str], int]:
    """Return rows of REFERENCE_SCORES, each objective's rewards (n,), notes for the table, and the tokens that rewards read."""
    made: list[Row] = []
    rewards: dict[str, NDArray[np.float32]] = {}
    used: dict[str, scoring.Scorer] = {}
    tokens = 0
    for objective, declared in section.objectives.items():
        for role, name in (("reward", declared.reward), ("judge", declared.judge)):
            if name is None:
                continue
            scorer = scoring.load(name, section.rewards[name], models)
            scores = scoring.score(name, scorer, prompts, [r["response"] for r in rows], floor=None)
            tokens += scorer.tokens
            used[name] = scorer
            if role == "reward":
                rewards[objective] = scores.values
            for row, value, truncated in zip(rows, scores.values.tolist(), scores.truncated.tolist(), strict=True):
                key = {k: row[k] for k in ("task", "method", "seed", "point", "prompt_id", "sample")}
                made.append({**key, "objective": objective, "role": role, "score": value, "truncated": truncated})
    return made, rewards, scoring.notes(used), tokens


def scale(section: ReferenceSection, objective: str, scores: NDArray[np.float32]) -> Row:
    """Return one objective's row of NORMALISER, without its hash.

    Low and high are the formula's bounds where it has them, else the 1 % and 99 % quantiles.

    Raises:
        MoaError: low is not below high, so that the scale is no scale.
    """
    name = section.objectives[objective].reward
    least, most = scoring.bounds(section.rewards[name])
    values = scores.astype(np.float64)
    low = float(np.quantile(values, LOW)) if least is None else least
    high = float(np.quantile(values, HIGH)) if most is None else most
    spread = float(values.std())
    if high <= low:
        raise MoaError(
            f"reward {name} of objective '{objective}' is constant: its scale is [{low:g}, {high:g}] on {len(values)}"
            " responses of the reference policy; give another reward, or correct this one"
        )
    if spread == 0:
        log.warning(
            "reward %s of objective '%s' gave all %d responses of the reference policy the same score, %g",
            name,
            objective,
            len(values),
            values[0],
        )
    given = (section.evaluation.reference_point or {}).get(objective)
    default = float(np.quantile(values, LOW)) if least is None else least
    return {
        "task": section.task, "objective": objective, "low": low, "high": high, "mean": float(values.mean()), "std": spread,
        "floor": float(values.min()) if least is None else least, "reference_point": default if given is None else given, "n": len(values),
    }  # fmt: skip


def normaliser(section: ReferenceSection, rows: Sequence[Row], rewards: dict[str, NDArray[np.float32]]) -> list[Row]:
    """Return table NORMALISER; the hash covers settings, responses and scores."""
    settings = section.model_dump_json()
    texts = [part for r in rows for part in (r["prompt_id"], r["response"])]
    made = []
    for objective, scores in rewards.items():
        row = scale(section, objective, scores)
        log.info(
            "%s: 0 is %.4g, 1 is %.4g, mean %.4g, reference point %.4g",
            objective,
            row["low"],
            row["high"],
            row["mean"],
            row["reference_point"],
        )
        made.append({**row, "hash": text_hash(settings, objective, *texts, scores.astype("<f4").tobytes().hex())})
    return made


def held_out(section: ReferenceSection, base: answering.Answerer, path: Path) -> tuple[list[Row], int]:
    """Return table FLUENCY, and the tokens read: what fluent text costs the reference policy, by length."""
    rows = [r for r in tables.read(tables.TEXTS, path).to_pylist() if r["split"] == "heldout"]
    if not rows:
        raise MoaError(f"{path}: no held-out texts, so nothing says what fluent text is; raise data.heldout_texts")
    texts = base.texts([r["prompt"] for r in rows], None)
    read = fluency.measure(base.model, base.tokenizer, texts, [r["response"] for r in rows], base.context)
    count = sum(len(row) > 0 for row in read.losses)
    if not count:
        raise MoaError(f"{path}: every held-out response is empty; name data.text or data.response")
    made = [
        {"task": section.task, "tokens": length, "low": low, "high": high, "median": median, "n": count}
        for length, (low, median, high) in enumerate(fluency.band(read.losses, (LOW, MIDDLE, HIGH)).tolist(), 1)
    ]
    for row in (made[0], made[-1]):
        log.info(
            "held-out text, first %d tokens: %.2f nats per token (1 %% %.2f, 99 %% %.2f), %d texts",
            row["tokens"],
            row["median"],
            row["low"],
            row["high"],
            count,
        )
    return made, read.tokens


def main(args: argparse.Namespace) -> None:
    """Write tables REFERENCE_RESPONSES, REFERENCE_SCORES, NORMALISER, FLUENCY and COSTS."""
    section = ReferenceSection.model_validate_json(args.section)
    cost = command.Cost(section.task, "reference_scores")
    base = answering.load(
        args.base,
        section.model,
        [],
        way="policy",
        objectives=list(section.objectives),
        shown=section.conditioning,
        conditioned=False,
    )
    chosen = choose_prompts(args.prompts, section.evaluation.reference_responses)
    rows = answer(section, base, chosen)
    cost.batch = base.batch
    scores, rewards, notes, read_by_rewards = score(section, args.models, [r["prompt"] for r, _ in chosen], rows)
    fluent, read = held_out(section, base, args.texts)
    tables.write(tables.REFERENCE_RESPONSES, rows, args.responses)
    tables.write(tables.REFERENCE_SCORES, scores, args.scores, notes)
    tables.write(tables.NORMALISER, normaliser(section, rows, rewards), args.normaliser)
    tables.write(tables.FLUENCY, fluent, args.fluency)
    cost.tokens = sum(r["tokens"] for r in rows) + read + read_by_rewards
    cost.write(args.costs)


if __name__ == "__main__":
    command.run(
        main,
        command.parser(
            __doc__, "prompts", "texts", "base", "models*", "responses", "scores", "normaliser", "fluency", "costs"
        ),
    )
