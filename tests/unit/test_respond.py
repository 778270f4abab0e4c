"""Talking to a policy: where its base and settings come from, and what is refused before anything is loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from moa.errors import MoaError
from moa.experiment.keys import Conditioning, Generation, Model
from moa.experiment.schema import parse
from moa.respond import find, respond
from moa.store import tables
from tests import tiny_models

HALF = {"a": 0.5, "b": 0.5}
EXPERIMENT = {
    "task": "t",
    "run": {"methods": ["linear", "rewarded_soups", "mod", "pama", "reference", "morlhf", "best_of_n"], "seeds": [0]},
    "data": {"source": "embedded"},
    "model": {"source": "x"},
    "objectives": {"a": {"reward": "vader"}, "b": {"reward": "short"}},
    "rewards": {"vader": {"kind": "vader"}, "short": {"kind": "conciseness"}},
    "generation": {"max_new_tokens": 6},
}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/t with a base, a conditioned policy, two corners, and the run's record."""
    folder = tmp_path_factory.mktemp("results") / "t"
    tiny_models.save_base(folder / "base")
    settings = {"conditioning": Conditioning(), "generation": Generation(max_new_tokens=6), "model": Model(source="x")}
    for seed, (row, name, weights) in enumerate(
        [("linear", "policy", None), ("single_objective", "a", (1.0, 0.0)), ("single_objective", "b", (0.0, 1.0))]
    ):
        path = tiny_models.save_adapter(
            folder / "policies" / row / name / "s3", seed=seed, name=name, weights=weights, conditioned=row == "linear"
        )
        card = json.loads((path / "policy.json").read_text()) | {k: v.model_dump() for k, v in settings.items()}
        (path / "policy.json").write_text(json.dumps(card))
    columns = {"code": "", "git": "", "versions": "{}", "hardware": "", "files": "{}", "policies": "{}"}
    record = {"task": "t", "config": parse(EXPERIMENT).model_dump_json(), "objectives": ["a", "b"], **columns}
    tables.write(tables.RUNS, [{k: record[k] for k in tables.RUNS.columns}], folder / "run.parquet")
    return folder


def test_a_conditioned_policy(task: Path) -> None:
    folder = task / "policies" / "linear" / "policy" / "s3"
    answer = respond(folder, "The lamp", HALF)
    assert answer and answer == respond(folder, "The lamp", {"b": 0.5, "a": 0.5}), (
        "the same call, the same answer; any order"
    )
    assert answer != respond(folder, "The lamp", {"a": 1.0, "b": 0.0}), "the preference is in the prompt"
    assert respond(folder.parent, "The lamp", HALF) == answer, "the policy's folder without its seed"


def test_a_row_that_mixes_borrowed_policies(task: Path) -> None:
    row = task / "policies" / "rewarded_soups"
    assert not row.exists(), "a row that trains nothing has no folder"
    source = find(row, None)
    assert (source.way, [p.parent.name for p in source.folders]) == ("soup", ["a", "b"])
    assert respond(row, "The lamp", {"a": 1.0, "b": 0.0}) == respond(
        task / "policies" / "single_objective", "The lamp", {"a": 0.9, "b": 0.1}
    )


def test_a_mixture_of_borrowed_policies(task: Path) -> None:
    row = task / "policies" / "mod"
    assert (find(row, None).way, [p.parent.name for p in find(row, None).folders]) == ("mixture", ["a", "b"])
    assert respond(row, "The lamp", HALF) == respond(row, "The lamp", HALF) != ""
    assert respond(row, "The lamp", {"a": 1.0, "b": 0.0}) == respond(
        task / "policies" / "single_objective", "The lamp", {"a": 1.0, "b": 0.0}
    )


def test_the_reference(task: Path) -> None:
    assert respond(task / "policies" / "reference", "The lamp")


def test_an_experiment_file_instead_of_the_record(task: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**EXPERIMENT, "generation": {"max_new_tokens": 1}}))
    folder = task / "policies" / "linear" / "policy" / "s3"
    assert len(respond(folder, "The lamp", HALF, path)) < len(respond(folder, "The lamp", HALF))


@pytest.mark.parametrize(
    ("row", "preference", "message"),
    [
        ("linear/policy/s3", {"a": 0.5, "bb": 0.5}, "no objective 'bb'. Did you mean|no objective 'bb'. Known: a, b"),
        ("linear/policy/s3", {"a": 1.0}, "no weight for b"),
        ("linear/policy/s3", {"a": 0.9, "b": 0.3}, "off the simplex"),
        ("linear/policy/s3", None, "give a preference, e.g. --preference a=0.5,b=0.5"),
        ("single_objective/a/s3", HALF, "takes no preference"),
        (
            "rewarded_soup",
            HALF,
            "neither a policy's folder nor a row of this experiment. Did you mean 'rewarded_soups'",
        ),
        ("pama", None, "row 'pama' answers with this policy, which is not trained yet"),
        (
            "best_of_n",
            HALF,
            "row 'best_of_n' chooses among responses by their rewards, which this command does not load",
        ),
        ("linear/policy/s4", HALF, "no policy.json here"),
    ],
)
def test_refused(task: Path, row: str, preference: dict[str, float] | None, message: str) -> None:
    with pytest.raises(MoaError, match=message):
        respond(task / "policies" / row, "The lamp", preference)


def test_a_policy_without_its_base(task: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(task / "policies", tmp_path / "t" / "policies"))
    with pytest.raises(MoaError, match="the base model is not there"):
        respond(copy / "linear" / "policy" / "s3", "The lamp", HALF)


def test_an_outdated_card(task: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(task, tmp_path / "t")) / "policies" / "linear" / "policy" / "s3"
    card: dict[str, Any] = json.loads((copy / "policy.json").read_text())
    del card["conditioning"]
    (copy / "policy.json").write_text(json.dumps(card))
    with pytest.raises(MoaError, match="policy.json: incomplete or outdated .*conditioning.*give --experiment"):
        respond(copy, "The lamp", HALF)


def test_a_base_that_the_policy_was_not_trained_on(task: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(task, tmp_path / "t")
    path = copy / "policies/linear/policy/s3/policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_hash": "0" * 64}))
    with pytest.raises(MoaError, match="policies/linear/policy/s3: this policy was trained on another base"):
        respond(path.parent, "The lamp", HALF)
