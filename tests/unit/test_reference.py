"""Stage reference: the scale of every objective and the bounds of fluent text, by hand where it counts."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moa.errors import MoaError
from moa.experiment.schema import ReferenceSection
from moa.stages import reference
from moa.store import inputs, tables
from moa.store.provenance import text_hash
from tests import tiny_models
from tests.unit.test_fluency import by_hand

REWARDS = {
    "bounded": {"kind": "conciseness", "full": 2, "zero": 60},
    "open": {"kind": "python", "function": "tests.tiny_models:length"},
    "judge": {"kind": "python", "function": "tests.tiny_models:length"},
}
NAMES = {name: (f"{name}.parquet", name) for name in ("responses", "scores", "normaliser", "fluency", "costs")}


def section(**changes: Any) -> ReferenceSection:
    given = {
        "task": "t",
        "objectives": {"a": {"reward": "bounded", "judge": "judge"}, "b": {"reward": "open"}},
        "rewards": REWARDS,
        "model": {"source": "x"},
        "conditioning": {},
        "generation": {"max_new_tokens": 6, "temperature": 1.0, "batch_size": 4},
        "evaluation": {"reference_responses": 20},
    }
    return ReferenceSection.model_validate({**given, **changes})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    reviews = tiny_models.texts()[:14]
    prompts = [
        {"task": "t", "prompt_id": text_hash(r.prompt), "split": "evaluation" if i < 2 else "train", "prompt": r.prompt}
        for i, r in enumerate(reviews)
    ]
    texts = [
        {
            "task": "t",
            "text_id": str(i),
            "split": "heldout" if i < 5 else "train",
            "prompt": r.prompt,
            "response": r.response[:40],
        }
        for i, r in enumerate(reviews)
    ]
    tables.write(tables.PROMPTS, prompts, folder / "prompts.parquet")
    tables.write(tables.TEXTS, texts, folder / "texts.parquet")
    tiny_models.save_base(folder / "base")
    return folder


def run(world: Path, out: Path, made: ReferenceSection) -> dict[str, list[dict[str, Any]]]:
    paths = {name: out / f"{name}.parquet" for name in NAMES}
    reference.main(
        Namespace(
            section=made.model_dump_json(),
            prompts=world / "prompts.parquet",
            texts=world / "texts.parquet",
            base=world / "base",
            models=[],
            **paths,
        )
    )
    declared = {
        "responses": tables.REFERENCE_RESPONSES,
        "scores": tables.REFERENCE_SCORES,
        "normaliser": tables.NORMALISER,
        "fluency": tables.FLUENCY,
        "costs": tables.COSTS,
    }
    return {name: tables.read(table, paths[name]).to_pylist() for name, table in declared.items()}


def test_the_stage(world: Path, tmp_path: Path) -> None:
    made = run(world, tmp_path / "x", section())
    rows = made["responses"]
    assert len(rows) == 20
    assert {(r["method"], r["seed"], r["point"], r["preference"], r["policy"]) for r in rows} == {
        ("reference", 0, 0, None, "reference")
    }
    assert max(r["sample"] for r in rows) == 1, "12 train prompts, so 8 of them answer twice"
    evaluation = {text_hash(r.prompt) for r in tiny_models.texts()[:2]}
    assert not evaluation & {r["prompt_id"] for r in rows}

    lengths = np.array([len(r["response"]) for r in rows], float)
    assert {(r["objective"], r["role"]) for r in made["scores"]} == {("a", "reward"), ("a", "judge"), ("b", "reward")}
    assert [r["score"] for r in made["scores"] if r["objective"] == "b"] == lengths.tolist()
    a, b = sorted(made["normaliser"], key=lambda r: r["objective"])
    assert (a["low"], a["high"], a["floor"], a["reference_point"]) == (0.0, 1.0, 0.0, 0.0), "the formula's bounds"
    assert (b["low"], b["high"]) == pytest.approx((np.quantile(lengths, 0.01), np.quantile(lengths, 0.99)))
    assert (b["floor"], b["reference_point"]) == pytest.approx((lengths.min(), np.quantile(lengths, 0.01)))
    assert (b["mean"], b["std"], b["n"]) == pytest.approx((lengths.mean(), lengths.std(), 20))

    heldout = [by_hand(tiny_models.model(), r.prompt, r.response[:40]) for r in tiny_models.texts()[:5]]
    whole = made["fluency"][-1]
    assert (whole["low"], whole["median"], whole["high"]) == pytest.approx(
        tuple(np.quantile(heldout, (0.01, 0.5, 0.99))), abs=1e-3
    )
    lengths = [
        len(tiny_models.tokenizer()(r.response[:40], add_special_tokens=False)["input_ids"])
        for r in tiny_models.texts()[:5]
    ]
    assert [(r["tokens"], r["n"]) for r in made["fluency"]] == [(t, 5) for t in range(1, max(lengths) + 1)]
    assert made["costs"][0]["tokens"] > sum(r["tokens"] for r in rows)

    again = run(world, tmp_path / "y", section())
    assert {k: v for k, v in again.items() if k != "costs"} == {k: v for k, v in made.items() if k != "costs"}, (
        "reproducible, hash included"
    )
    other = run(world, tmp_path / "z", section(generation={"max_new_tokens": 5, "temperature": 1.0}))
    assert other["normaliser"][0]["hash"] != made["normaliser"][0]["hash"]


def test_a_declared_reference_point() -> None:
    given = section(evaluation={"reference_point": {"b": -3.0}})
    assert reference.scale(given, "b", np.array([1, 2], np.float32))["reference_point"] == -3.0
    assert reference.scale(given, "a", np.array([0.1, 0.2], np.float32))["reference_point"] == 0.0


def test_a_constant_reward_is_named() -> None:
    with pytest.raises(
        MoaError, match=r"reward open of objective 'b' is constant: its scale is \[3, 3\] on 5 responses"
    ):
        reference.scale(section(), "b", np.full(5, 3, np.float32))


def test_no_train_prompts(tmp_path: Path) -> None:
    tables.write(
        tables.PROMPTS, [{"task": "t", "prompt_id": "x", "split": "evaluation", "prompt": "It"}], tmp_path / "p.parquet"
    )
    with pytest.raises(MoaError, match="no train prompts"):
        inputs.prompts(tmp_path / "p.parquet", "train")


def test_no_held_out_texts(world: Path, tmp_path: Path) -> None:
    tables.write(tables.TEXTS, [], tmp_path / "texts.parquet")
    with pytest.raises(MoaError, match="no held-out texts.*raise data.heldout_texts"):
        reference.held_out(section(), None, tmp_path / "texts.parquet")  # type: ignore[arg-type]
