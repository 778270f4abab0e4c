"""Stage generate end to end on tiny models: every way of answering, and results that depend on nothing else."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from moa.errors import MoaError
from moa.experiment.keys import Conditioning, Model
from moa.experiment.schema import GenerateSection
from moa.lm import answering
from moa.lm import grid as grids
from moa.lm.answering import Base, Prompting
from moa.lm.generation import Rollout, Sampler
from moa.lm.reader import Reader
from moa.stages import generate
from moa.store import inputs, tables
from moa.store.provenance import text_hash
from tests import tiny_models
from tests.unit.test_fluency import by_hand

GRID = [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
PROMPTS = ["The lamp", "My sister", "It", "This old radio that we bought"]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, a base, and the policies a, b (corners) and c (conditioned)."""
    folder = tmp_path_factory.mktemp("world")
    rows = [
        {"task": "t", "prompt_id": text_hash(p), "split": "train" if p == "It" else "evaluation", "prompt": p}
        for p in PROMPTS
    ]
    tables.write(tables.PROMPTS, rows, folder / "prompts.parquet")
    tiny_models.save_base(folder / "base")
    for seed, (name, weights) in enumerate([("a", (1.0, 0.0)), ("b", (0.0, 1.0)), ("c", None)]):
        tiny_models.save_adapter(folder / name, seed=seed, name=name, weights=weights, conditioned=name == "c")
    return folder


def run(
    world: Path,
    out: Path,
    row: str,
    policies: str = "",
    *,
    seed: int = 0,
    grid: list[tuple[float, ...]] | None = None,
    **settings: Any,
) -> Rows:
    generation = {
        "max_new_tokens": 6,
        "evaluation_temperature": 1.0,
        "batch_size": 2,
        "samples": settings.pop("samples", 1),
    }
    section = GenerateSection.model_validate(
        {
            "task": "t",
            "model": {"source": "x"},
            "conditioning": {},
            "generation": generation,
            "objectives": ["a", "b"],
            "evaluation": grid or GRID,
            "settings": settings,
        }
    )
    generate.main(
        Namespace(
            section=section.model_dump_json(),
            row=row,
            seed=seed,
            prompts=world / "prompts.parquet",
            base=world / "base",
            policies=[world / name for name in policies],
            out=out / f"{row}.parquet",
            costs=out / "costs.parquet",
        )  # fmt: skip
    )
    return tables.read(tables.GENERATIONS, out / f"{row}.parquet").to_pylist()


def texts(rows: Rows, **where: Any) -> list[str]:
    return [r["response"] for r in rows if all(r[k] == v for k, v in where.items())]


def test_a_conditioned_policy_answers_the_whole_grid(world: Path, tmp_path: Path) -> None:
    rows = run(world, tmp_path, "linear", "c", samples=2)
    assert len(rows) == 3 * 3 * 2, "points, evaluation prompts, samples"
    assert {(r["point"], tuple(r["preference"])) for r in rows} == set(enumerate(GRID))
    assert {r["prompt_id"] for r in rows} == {text_hash(p) for p in PROMPTS if p != "It"}, (
        "train prompts are not evaluated"
    )
    assert {(r["method"], r["seed"], r["policy"]) for r in rows} == {("linear", 0, "c")}
    assert texts(rows, sample=0) != texts(rows, sample=1)
    (cost,) = tables.read(tables.COSTS, tmp_path / "costs.parquet").to_pylist()
    assert (cost["stage"], cost["method"]) == ("generate", "linear")
    assert cost["tokens"] > sum(r["tokens"] for r in rows), "generated, and read for the NLL"


def test_the_batch_that_fitted_is_on_record(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that had to halve its batches says so; draws do not depend on it."""
    run(world, tmp_path / "roomy", "linear", "c")
    draw = Sampler.draw

    def small_gpu(sampler: Sampler, reader: Reader, prompts: list[str], *rest: Any) -> Rollout:
        if len(prompts) > 1:
            raise torch.OutOfMemoryError
        return draw(sampler, reader, prompts, *rest)

    monkeypatch.setattr(Sampler, "draw", small_gpu)
    run(world, tmp_path / "tight", "linear", "c")
    assert [
        tables.read(tables.COSTS, tmp_path / name / "costs.parquet")["batch"].to_pylist() for name in ("roomy", "tight")
    ] == [[2], [1]]
    roomy, tight = (
        tables.read(tables.GENERATIONS, tmp_path / name / "linear.parquet").drop_columns(["nll"])
        for name in ("roomy", "tight")
    )
    assert roomy.equals(tight)


def test_the_same_run_gives_the_same_bytes(world: Path, tmp_path: Path) -> None:
    files = []
    for name in ("x", "y"):
        run(world, tmp_path / name, "linear", "c")
        files.append((tmp_path / name / "linear.parquet").read_bytes())
    assert files[0] == files[1]
    assert texts(run(world, tmp_path, "linear", "c", seed=1)) != texts(run(world, tmp_path, "linear", "c"))


def test_a_point_does_not_depend_on_later_ones(world: Path, tmp_path: Path) -> None:
    whole = run(world, tmp_path, "linear", "c")
    alone = run(world, tmp_path, "linear", "c", grid=GRID[:1])
    assert texts(alone, point=0) == texts(whole, point=0)
    assert [r["nll"] for r in alone] == pytest.approx([r["nll"] for r in whole if r["point"] == 0], abs=1e-4)


def test_nll_is_the_references_to_the_plain_prompt(world: Path, tmp_path: Path) -> None:
    """Not the policy's own, and without the preference in the prompt."""
    names = {text_hash(p): p for p in PROMPTS}
    for row in run(world, tmp_path, "linear", "c")[:4]:
        assert row["nll"] == pytest.approx(
            by_hand(tiny_models.model(), names[row["prompt_id"]], row["response"]), abs=1e-3
        )


def test_the_reference_answers_once(world: Path, tmp_path: Path) -> None:
    rows = run(world, tmp_path, "reference")
    assert {(r["point"], r["preference"], r["policy"]) for r in rows} == {(0, None, "reference")}


def test_soup_and_nearest(world: Path, tmp_path: Path) -> None:
    soup = run(world, tmp_path, "rewarded_soups", "ab")
    assert [next(r["policy"] for r in soup if r["point"] == i) for i in range(3)] == ["1 b", "0.5 a + 0.5 b", "1 a"]
    corners = run(world, tmp_path, "single_objective", "ab")
    assert [(r["point"], r["policy"]) for r in corners[::3]] == [(0, "a"), (1, "b")]


def test_an_external_adapter_with_an_added_token_is_read_by_the_base_as_it_was(world: Path, tmp_path: Path) -> None:
    """321 embeddings answer; how fluent the answers are is said by the reference, which has 320."""
    folder, _ = tiny_models.save_resized_adapter(tmp_path / "adapter", world / "base")
    rows = run(world, tmp_path, "theirs", kind="external", adapter=str(folder))
    found = [row["nll"] for row in rows]
    prompting = Prompting(["a", "b"], Conditioning())
    reference = answering.load(Base(world / "base", Model(source="x")), [], "policy", prompting)
    prompts = inputs.prompts(world / "prompts.parquet", "evaluation")
    grids.add_fluency(reference, prompts, rows)
    assert [row["nll"] for row in rows] == pytest.approx(found, abs=1e-5)


def test_external_adapter(world: Path, tmp_path: Path) -> None:
    rows = run(world, tmp_path, "theirs", kind="external", adapter=str(world / "c" / "adapter"), conditioned=True)
    assert texts(rows) == texts(run(world, tmp_path, "linear", "c")), "the same adapter, the same answers"
    assert len(run(world, tmp_path, "theirs", kind="external", adapter=str(world / "c"))) == 3, (
        "unconditioned: one point"
    )


def test_external_model(world: Path, tmp_path: Path) -> None:
    """Another model answers; the NLL stays that of this experiment's reference."""
    other = tiny_models.save_base(tmp_path / "other", seed=7)
    rows = run(world, tmp_path, "theirs", kind="external", model=str(other))
    assert texts(rows) != texts(run(world, tmp_path, "reference"))
    assert {r["policy"] for r in rows} == {"external"}
    names = {text_hash(p): p for p in PROMPTS}
    assert rows[0]["nll"] == pytest.approx(
        by_hand(tiny_models.model(), names[rows[0]["prompt_id"]], rows[0]["response"]), abs=1e-3
    )


def responses(path: Path, **columns: list[Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_external_responses(world: Path, tmp_path: Path) -> None:
    evaluated = [p for p in PROMPTS if p != "It"]
    path = responses(tmp_path / "r.parquet", prompt=[*evaluated, "It"], response=[" is good.", "", " x", " unused"])
    rows = run(world, tmp_path, "theirs", kind="external", responses=str(path))
    assert [(r["response"], r["tokens"] > 0, r["nll"] is None) for r in rows] == [
        (" is good.", True, False),
        ("", False, True),
        (" x", True, False),
    ]


def test_external_responses_with_preferences(world: Path, tmp_path: Path) -> None:
    ids = [text_hash(p) for p in PROMPTS if p != "It"]
    columns = {
        "prompt_id": ids * 3,
        "response": [f" {i}" for i in range(9)],
        "preference": [list(p) for p in GRID for _ in ids],
    }
    rows = run(
        world,
        tmp_path,
        "theirs",
        kind="external",
        responses=str(responses(tmp_path / "r.parquet", **columns)),
        conditioned=True,
    )
    assert [(r["point"], r["response"]) for r in rows] == [(i // 3, f" {i}") for i in range(9)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"prompt": ["The lamp"], "response": ["x"]},
            r"theirs.responses .*2 of 3 pairs of preference and evaluation prompt have fewer than 1",
        ),
        ({"prompt": ["Unknown"], "response": ["x"]}, r"3 of 3 pairs"),
        ({"prompt": ["The lamp"], "text": ["x"]}, r"columns \['prompt', 'text'\]; needs `response`"),
        ({"response": ["x"]}, r"needs `response` and `prompt` or `prompt_id`"),
        ({"prompt": ["The lamp"], "response": [None]}, "row 0 holds no text as response"),
        ({"prompt": [], "response": []}, "no rows"),
    ],
)
def test_unfit_external_responses(world: Path, tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(MoaError, match=message):
        run(world, tmp_path, "theirs", kind="external", responses=str(responses(tmp_path / "r.parquet", **columns)))


def test_external_responses_off_the_grid(world: Path, tmp_path: Path) -> None:
    path = responses(tmp_path / "r.parquet", prompt=["The lamp"], response=["x"], preference=[[0.9, 0.1]])
    with pytest.raises(MoaError, match=r"row 0: preference \[0.9, 0.1\] is not among the evaluation preferences"):
        run(world, tmp_path, "theirs", kind="external", responses=str(path), conditioned=True)
    (tmp_path / "r.parquet").write_text("no parquet")
    with pytest.raises(MoaError, match=r"methods.theirs.responses .*r.parquet: not a readable parquet file"):
        run(world, tmp_path, "theirs", kind="external", responses=str(path))


def test_no_evaluation_prompts(world: Path, tmp_path: Path) -> None:
    rows = [{"task": "t", "prompt_id": "x", "split": "train", "prompt": "It"}]
    tables.write(tables.PROMPTS, rows, tmp_path / "prompts.parquet")
    with pytest.raises(MoaError, match="no evaluation prompts"):
        inputs.prompts(tmp_path / "prompts.parquet", "evaluation")
