"""Best of n: the choice by hand, on the normaliser's scale and with floors, and the stage against a second choice."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moa.errors import MoaError
from moa.experiment.schema import GenerateSection, ScoringSection
from moa.lm import answering, grid
from moa.lm.generation import Decoding
from moa.methods import best_of_n, catalogue
from moa.metrics import normaliser
from moa.rewards import objectives
from moa.stages import best_of_n as stage
from moa.stages import generate
from moa.store import tables
from moa.store.provenance import text_hash
from tests import tiny_models

GRID = [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
PROMPTS = ["The lamp", "My sister", "This old radio that we bought"]
LOW, HIGH, FLOOR = 2.0, 12.0, 3.0  # of the reward without bounds, on the reference policy's responses
SCORING = {
    "task": "t",
    "objectives": {"long": {"reward": "characters"}, "short": {"reward": "concise"}},
    "rewards": {
        "characters": {"kind": "python", "function": "tests.tiny_models:length"},
        "concise": {"kind": "conciseness", "full": 0, "zero": 7},
    },
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, a base, and a normaliser of (characters - 2) / 10 and of the second reward as it is."""
    folder = tmp_path_factory.mktemp("world")
    rows = [{"task": "t", "prompt_id": text_hash(p), "split": "evaluation", "prompt": p} for p in PROMPTS]
    tables.write(tables.PROMPTS, rows, folder / "prompts.parquet")
    tiny_models.save_base(folder / "base")
    rest = {"task": "t", "mean": 0.0, "std": 1.0, "reference_point": 0.0, "n": 9, "hash": "x"}
    scales = [
        {"objective": "long", "low": LOW, "high": HIGH, "floor": FLOOR},
        {"objective": "short", "low": 0.0, "high": 1.0, "floor": 0.0},
    ]
    tables.write(tables.NORMALISER, [{**rest, **s} for s in scales], folder / "normaliser.parquet")
    return folder


def section(n: int, **generation: Any) -> GenerateSection:
    decoding = {"max_new_tokens": 6, "evaluation_temperature": 1.0, "batch_size": 16, **generation}
    given = {
        "task": "t",
        "model": {"source": "x"},
        "conditioning": {},
        "generation": decoding,
        "objectives": ["long", "short"],
    }
    return GenerateSection.model_validate(
        {**given, "evaluation": GRID, "settings": {"kind": "best_of_n", "n": n}, "scoring": SCORING}
    )


def run(world: Path, out: Path, n: int, seed: int = 0, **generation: Any) -> list[dict[str, Any]]:
    paths = {"prompts": world / "prompts.parquet", "base": world / "base", "normaliser": world / "normaliser.parquet"}
    outputs = {"out": out / "rows.parquet", "costs": out / "costs.parquet"}
    stage.main(
        Namespace(
            section=section(n, **generation).model_dump_json(), row="mine", seed=seed, models=[], **paths, **outputs
        )
    )
    return tables.read(tables.GENERATIONS, out / "rows.parquet").to_pylist()


def test_the_choice_by_hand() -> None:
    """Two requests, three candidates, two objectives.

    At (.5, .5) the first request's utilities are .5, .6, .5: the second. The second request's are .4, .4, .3: a tie,
    the first. At (.75, .25) they are .75, .5, .25 and .4, .5, .15; at (.25, .75) .25, .7, .75 and .4, .3, .45.
    """
    rewards = np.array([[[1.0, 0.0], [0.4, 0.8], [0.0, 1.0]], [[0.4, 0.4], [0.6, 0.2], [0.0, 0.6]]])
    assert best_of_n.choose(rewards, (0.5, 0.5)) == [1, 0]
    assert best_of_n.choose(rewards, (0.75, 0.25)) == [0, 1]
    assert best_of_n.choose(rewards, (0.25, 0.75)) == [2, 2]


def test_rewards_are_normalised_and_blank_answers_get_the_floor(world: Path) -> None:
    """5 characters: (5 - 2) / 10 = .3 and 1 - 5 / 7. Blank: (floor 3 - 2) / 10 = .1, and 0, conciseness's bound.

    Nothing is clipped.
    """
    responses = ["12345", "  ", "x" * 17]
    scale = normaliser.read(world / "normaliser.parquet", ["long", "short"])
    scorer = objectives.load(ScoringSection.model_validate(SCORING), [], scale.floors)
    rewards = scale.apply(scorer(["p"] * 3, responses))
    assert rewards == pytest.approx(np.array([[0.3, 2 / 7], [0.1, 0.0], [1.5, 0.0]]), abs=1e-6)
    assert scorer.tokens == 0, "formulas read no tokens"


def test_an_objective_without_a_scale(world: Path) -> None:
    with pytest.raises(MoaError, match=r"normaliser.parquet: no row for objective 'wide' \(it has long, short\)"):
        normaliser.read(world / "normaliser.parquet", ["wide", "short"])


def test_the_stage_chooses_among_one_set_of_responses(world: Path, tmp_path: Path) -> None:
    """All preferences choose among the same 8 responses per prompt and sample, drawn once.

    The choice is made anew here. At (.5, .5) lengths a < 7 <= b are worth as much where b = 10 - 3 a / 7: never, so
    that rounding decides no tie.
    """
    rows = run(world, tmp_path, 8, samples=2)
    assert len(rows) == len(GRID) * len(PROMPTS) * 2
    assert {(r["method"], r["policy"]) for r in rows} == {("mine", "best of 8")}
    base = generate.reference_of(section(8, samples=2), world / "base")
    requests = grid.questions([{"prompt": p, "prompt_id": text_hash(p)} for p in PROMPTS], 2)
    asked = base.texts([prompt["prompt"] for prompt, _ in requests for _ in range(8)], None)
    decoding = Decoding.evaluation(section(8).generation)
    drawn = answering.respond(base, asked, answering.Sampling(decoding, 16, "best of 8 0"))
    for row in rows:
        first = 8 * next(
            i for i, (p, s) in enumerate(requests) if (p["prompt_id"], s) == (row["prompt_id"], row["sample"])
        )
        candidates = [r.text for r in drawn[first : first + 8]]
        assert len(set(candidates)) > 1
        w, v = row["preference"]
        # No response is blank here: the end token never comes first, and a blank one would have the floor.
        utilities = [
            w * ((FLOOR if c.isspace() else len(c)) - LOW) / (HIGH - LOW)
            + v * (0 if c.isspace() else max(0, 1 - len(c) / 7))
            for c in candidates
        ]
        assert row["response"] == candidates[utilities.index(max(utilities))]
    (cost,) = tables.read(tables.COSTS, tmp_path / "costs.parquet").to_pylist()
    read = grid.add_fluency(base, [{"prompt": p, "prompt_id": text_hash(p)} for p in PROMPTS], rows)
    assert (cost["stage"], cost["tokens"]) == (
        "generate",
        sum(r.tokens for r in drawn) + read,
    ), "every candidate counts, chosen or not"
    assert cost["batch"] == 16


def test_more_candidates_are_no_worse_and_the_preference_steers(world: Path, tmp_path: Path) -> None:
    rows = run(world, tmp_path, 12)
    by_point = [[len(r["response"]) for r in rows if r["point"] == point] for point in range(3)]
    assert all(longest >= middle >= shortest for longest, middle, shortest in zip(*by_point, strict=True))
    assert sum(by_point[0]) > sum(by_point[2])
    alone = run(world, tmp_path, 1)
    assert len({r["response"] for r in alone}) <= len(PROMPTS), "one candidate leaves no choice"


def test_the_same_run_gives_the_same_bytes(world: Path, tmp_path: Path) -> None:
    files = []
    for _ in range(2):
        run(world, tmp_path, 4)
        files.append((tmp_path / "rows.parquet").read_bytes())
    assert files[0] == files[1]
    assert [r["response"] for r in run(world, tmp_path, 4, seed=1)] != [r["response"] for r in run(world, tmp_path, 4)]


def test_settings() -> None:
    method = catalogue.load("mine", {"kind": "best_of_n"}, ["a", "b"])
    assert method.settings.model_dump() == {"kind": "best_of_n", "n": 16}
    assert (method.policies(GRID), method.evaluation_preferences(GRID)) == ([], GRID)  # type: ignore[arg-type]
    with pytest.raises(MoaError, match=r"methods.mine.n: .*greater than or equal to 1 \(got 0\)"):
        catalogue.load("mine", {"kind": "best_of_n", "n": 0}, ["a", "b"])
