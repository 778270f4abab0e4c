"""Stage best_of_n: the rewards choose among the reference policy's n responses per evaluation prompt.

They choose once per preference. The stage stands in for generate where a row's method is best of n, and writes the same
tables. Notation: W questions (evaluation prompts times samples), n candidates each, K objectives.
"""

import argparse
import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moa.experiment.preferences import Preference
from moa.experiment.schema import GenerateSection
from moa.job import command
from moa.lm import answering, grid
from moa.lm.answering import Base, Prompting, Response, Sampling
from moa.lm.generation import Decoding
from moa.lm.grid import Question
from moa.methods import best_of_n, catalogue
from moa.metrics import normaliser
from moa.rewards import objectives
from moa.store import inputs, tables
from moa.store.tables import Row

log = logging.getLogger("moa")


def walk(
    points: Sequence[Preference | None],
    asked: Sequence[Question],
    found: Sequence[Response],
    rewards: NDArray[np.float64],
) -> list[Row]:
    """Return each question's best candidate at each preference, as rows of GENERATIONS."""
    n = len(found) // len(asked)
    rows = []
    for point, preference in enumerate(points):
        assert preference is not None, "best of n answers preferences"
        for i, best in enumerate(best_of_n.choose(rewards.reshape(len(asked), n, -1), preference)):
            key = {"point": point, "preference": preference, "policy": f"best of {n}"}
            rows.append({**key, **grid.row(asked[i], found[i * n + best])})
    return rows


def main(args: argparse.Namespace) -> None:
    """Write tables GENERATIONS and COSTS; every candidate's tokens count, chosen or not."""
    section = GenerateSection.model_validate_json(args.section)
    method = catalogue.load(args.row, section.settings, section.objectives)
    assert isinstance(method, best_of_n.Method) and section.scoring is not None, "the plan hands it the rewards"
    cost, n = command.Cost(section.task, "generate", method=args.row, seed=args.seed), method.settings.n
    scale = normaliser.read(args.normaliser, section.objectives)
    prompts, generation = inputs.prompts(args.prompts, "evaluation"), section.generation
    asked = grid.questions(prompts, generation.samples)
    prompting = Prompting(section.objectives, section.conditioning)
    base = answering.load(Base(args.base, section.model), [], "policy", prompting)
    candidates = [prompt["prompt"] for prompt, _ in asked for _ in range(n)]  # of a question beside each other
    clock = command.Progress(f"{args.row} s{args.seed}", len(candidates))
    sampling = Sampling(Decoding.evaluation(generation), generation.batch_size, f"best of {n} {args.seed}")
    found = answering.respond(base, base.texts(candidates, None), sampling, clock.add)
    scorer = objectives.load(section.scoring, args.models, scale.floors)
    raw = scorer(candidates, [response.text for response in found]).astype(np.float64)
    rows = walk(method.evaluation_preferences(section.evaluation), asked, found, scale.apply(raw))
    cost.tokens, cost.batch = sum(response.tokens for response in found), base.batch
    cost.tokens += scorer.tokens + grid.add_fluency(base, prompts, rows)
    key = {"task": section.task, "method": args.row, "seed": args.seed}
    tables.write(tables.GENERATIONS, [{**key, **r} for r in rows], args.out)
    log.info("%s: %s", args.row, grid.describe(rows))
    cost.write(args.costs)


if __name__ == "__main__":
    paths = ("prompts", "base", "policies*", "normaliser", "models*", "out", "costs")
    command.run(main, command.parser(__doc__, *paths, row=str, seed=int))
