"""Stage best_of_n: the reference policy's n responses per evaluation prompt, of which the rewards choose one per preference.

It stands in for the stage generate where a row's method is best of n, and writes the same tables. Notation: W requests
(evaluation prompts times samples), n candidates each, K objectives.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moa.errors import MoaError
from moa.experiment.preferences import Preference
from moa.experiment.schema import GenerateSection, ScoringSection
from moa.job import command
from moa.lm import answering
from moa.lm.generation import Decoding
from moa.methods import best_of_n, catalogue
from moa.rewards import scoring
from moa.stages import generate
from moa.store import tables

Request = tuple[generate.Row, int]  # prompt, sample


def sample(
    section: GenerateSection,
    base: answering.Answerer,
    requests: Sequence[Request],
    n: int,
    seed: int,
    clock: command.Progress,
) -> list[answering.Response]:
    """Return W n responses to the plain prompts, a request's candidates beside each other, decoded as everywhere."""
    generation = section.generation
    decoding = Decoding(generation.max_new_tokens, generation.evaluation_temperature, generation.evaluation_top_p)
    texts = base.texts([prompt["prompt"] for prompt, _ in requests for _ in range(n)], None)
    return answering.respond(base, texts, decoding, generation.batch_size, f"best of {n} {seed}", clock.add)


def rate(
    section: ScoringSection, normaliser: Path, models: Sequence[Path], prompts: list[str], responses: list[str]
) -> tuple[NDArray[np.float64], int]:
    """Return rewards (len(responses), K) on the normaliser's scale, and the tokens that they read.

    Blank responses get the floor.

    Raises:
        MoaError: the normaliser lacks an objective, or a reward fails.
    """
    scales = {row["objective"]: row for row in tables.read(tables.NORMALISER, normaliser).to_pylist()}
    columns, tokens = [], 0
    for objective, declared in section.objectives.items():
        if objective not in scales:
            raise MoaError(f"{normaliser}: no row for objective '{objective}'; run the stage reference_scores again")
        scale, name = scales[objective], declared.reward
        scorer = scoring.load(name, section.rewards[name], models)
        raw = scoring.score(name, scorer, prompts, responses, scale["floor"]).values.astype(np.float64)
        columns.append((raw - scale["low"]) / (scale["high"] - scale["low"]))
        tokens += scorer.tokens
    return np.stack(columns, 1), tokens


def walk(
    grid: Sequence[Preference | None],
    requests: Sequence[Request],
    found: Sequence[answering.Response],
    rewards: NDArray[np.float64],
) -> list[generate.Row]:
    """Return each request's best candidate at each preference, as rows of GENERATIONS."""
    n = len(found) // len(requests)
    rows = []
    for point, preference in enumerate(grid):
        assert preference is not None, "best of n answers preferences"
        for i, best in enumerate(best_of_n.choose(rewards.reshape(len(requests), n, -1), preference)):
            (prompt, sample), response = requests[i], found[i * n + best]
            key = {"point": point, "preference": preference, "prompt_id": prompt["prompt_id"], "sample": sample}
            rows.append(
                {
                    **key,
                    "policy": f"best of {n}",
                    "response": response.text,
                    "tokens": response.tokens,
                    "finished": response.finished,
                }
            )
    return rows


def main(args: argparse.Namespace) -> None:
    """Write tables GENERATIONS and COSTS; every candidate's tokens count, chosen or not."""
    section = GenerateSection.model_validate_json(args.section)
    method = catalogue.load(args.row, section.settings, section.objectives)
    assert isinstance(method, best_of_n.Method) and section.scoring is not None, (
        "the plan hands the rewards to this row"
    )
    cost, n = command.Cost(section.task, "generate", method=args.row, seed=args.seed), method.settings.n
    prompts = generate.evaluation_prompts(args.prompts)
    requests = [(prompt, number) for number in range(section.generation.samples) for prompt in prompts]
    base = generate.reference_of(section, args.base)
    found = sample(
        section, base, requests, n, args.seed, command.Progress(f"{args.row} s{args.seed}", len(requests) * n)
    )
    asked = [prompt["prompt"] for prompt, _ in requests for _ in range(n)]
    rewards, read = rate(section.scoring, args.normaliser, args.models, asked, [response.text for response in found])
    rows = walk(method.evaluation_preferences(section.evaluation), requests, found, rewards)
    cost.tokens = sum(response.tokens for response in found) + read
    generate.write(section, args, cost, base, prompts, rows)


if __name__ == "__main__":
    command.run(
        main,
        command.parser(
            __doc__, "prompts", "base", "policies*", "normaliser", "models*", "out", "costs", row=str, seed=int
        ),
    )
