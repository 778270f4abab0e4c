"""Talking to a policy: where its base and settings come from, and what is refused before anything is loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from moa.errors import MoaError
from moa.lm import answering
from moa.respond import answers, find, respond, weigh
from tests import tiny_task

HALF = {"a": 0.5, "b": 0.5}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_task.save(tmp_path_factory.mktemp("results") / "t")


def test_a_conditioned_policy(task: Path) -> None:
    folder = task / "policies" / "linear" / "policy" / "s3"
    answer = respond(folder, "The lamp", HALF)
    assert answer and answer == respond(folder, "The lamp", {"b": 0.5, "a": 0.5}), (
        "the same call, the same answer; any order"
    )
    assert answer != respond(folder, "The lamp", {"a": 1.0, "b": 0.0}), "the preference is in the prompt"
    assert respond(folder.parent, "The lamp", HALF) == answer, "the policy's folder without its seed"


def test_what_is_not_named_weighs_nothing(task: Path) -> None:
    folder = task / "policies" / "linear" / "policy" / "s3"
    assert respond(folder, "The lamp", {"a": 1.0}) == respond(folder, "The lamp", {"a": 1.0, "b": 0.0})


def test_several_preferences_load_the_model_once(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer is the one that its preference gets alone: the draws are the same."""
    loaded: list[object] = []
    real = answering.load
    monkeypatch.setattr(answering, "load", lambda *given: loaded.append(given) or real(*given))
    row, points = task / "policies" / "rewarded_soups", [HALF, {"b": 1.0}]
    source = find(row, None)
    together = answers(source, "The lamp", [weigh(source, p, row) for p in points])
    assert len(loaded) == 1
    assert together == [respond(row, "The lamp", p) for p in points] and together[0] != together[1]


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
    path.write_text(yaml.safe_dump({**tiny_task.EXPERIMENT, "generation": {"max_new_tokens": 1}}))
    folder = task / "policies" / "linear" / "policy" / "s3"
    assert len(respond(folder, "The lamp", HALF, path)) < len(respond(folder, "The lamp", HALF))


@pytest.mark.parametrize(
    ("row", "preference", "message"),
    [
        ("linear/policy/s3", {"a": 0.5, "bb": 0.5}, "no objective 'bb'. Did you mean|no objective 'bb'. Known: a, b"),
        ("linear/policy/s3", {"a": 0.9}, "--preference: .0.9, 0.0. is off the simplex"),
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


def test_a_folder_that_lies_in_none() -> None:
    with pytest.raises(MoaError, match="/nowhere: no policy.json here"):
        respond(Path("/nowhere"), "The lamp", HALF)


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
