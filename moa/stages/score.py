"""Score the responses of one row and seed with every objective's reward, and its judge where it has one."""

import argparse
import logging

import pyarrow as pa

from moa.errors import MoaError
from moa.experiment.schema import ScoringSection
from moa.job.command import Cost, parser, run
from moa.metrics import normaliser
from moa.rewards import scoring
from moa.store import tables
from moa.store.tables import Row

log = logging.getLogger("moa")
IDENTITY = ("method", "seed", "point", "prompt_id", "sample")


def main(arguments: argparse.Namespace) -> None:
    """Write table SCORES; every response gets a score for every objective and role."""
    section = ScoringSection.model_validate_json(arguments.section)
    cost = Cost(section.task, "score")
    generations = tables.read(tables.GENERATIONS, arguments.generations)
    if not generations.num_rows:
        raise MoaError(
            f"{arguments.generations}: no responses to score; delete it and run snakemake again: the stage generate"
            " will rerun"
        )
    cost.row.update({key: generations[key][0].as_py() for key in ("method", "seed")})
    floors = normaliser.read(arguments.normaliser, list(section.objectives)).floors
    prompts, responses = _prompts(generations, arguments), generations["response"].to_pylist()
    identity = generations.select(IDENTITY).to_pylist()
    rows: list[Row] = []
    named = _uses(section)
    used = scoring.load_several({name: section.rewards[name] for name in named}, arguments.models)
    for name, uses in named.items():
        scorer = used[name]
        for objective, role in uses:
            floor = floors[objective] if role == "reward" else _judge_floor(name, scorer, prompts, responses)
            scores = scoring.score(name, scorer, prompts, responses, floor)
            shown = (name, role, objective, len(responses), scores.values.mean(), int(scores.truncated.sum()))
            log.info("%s as %s of %s: %d responses, mean %.4g, %d cut", *shown)
            for key, value, truncated in zip(identity, scores.values.tolist(), scores.truncated.tolist(), strict=True):
                scored = {"objective": objective, "role": role, "score": value, "truncated": truncated}
                rows.append({"task": section.task, **key, **scored})
    cost.tokens = sum(scorer.tokens for scorer in used.values())
    tables.write(tables.SCORES, rows, arguments.scores, scoring.notes(used))
    cost.write(arguments.costs)


def _uses(section: ScoringSection) -> dict[str, list[tuple[str, str]]]:
    """Return the objectives and roles that each reward scores."""
    found: dict[str, list[tuple[str, str]]] = {}
    for objective, declared in section.objectives.items():
        found.setdefault(declared.reward, []).append((objective, "reward"))
        if declared.judge is not None:
            found.setdefault(declared.judge, []).append((objective, "judge"))
    return found


def _prompts(generations: pa.Table, arguments: argparse.Namespace) -> list[str]:
    known = tables.read(tables.PROMPTS, arguments.prompts)
    texts = dict(zip(known["prompt_id"].to_pylist(), known["prompt"].to_pylist(), strict=True))
    ids = generations["prompt_id"].to_pylist()
    for prompt_id in ids:
        if prompt_id not in texts:
            raise MoaError(
                f"{arguments.generations}: prompt_id {prompt_id} is not in {arguments.prompts}; "
                "the responses belong to other prompts: delete the file and run snakemake again"
            )
    return [texts[prompt_id] for prompt_id in ids]


def _judge_floor(name: str, judge: scoring.Scorer, prompts: list[str], responses: list[str]) -> float | None:
    """Return what a blank response is worth to a judge: None, the smallest score of the responses.

    Where all of them are blank it is the judge's smallest score of the prompts. Judges have no normaliser. A policy
    that collapsed to blank responses must still be evaluated, and shown as what it is.
    """
    if judge.low is not None or not all(map(scoring.is_blank, responses)):
        return None
    return float(scoring.score(name, judge, prompts, prompts, floor=None).values.min())


if __name__ == "__main__":
    run(main, parser(__doc__, "generations", "prompts", "normaliser", "models*", "scores", "costs"))
