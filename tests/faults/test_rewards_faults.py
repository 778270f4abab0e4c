"""Rewards that are broken, missing or not what they claim to be: one clear message, nothing half written."""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from moa.errors import MoaError
from moa.experiment.rewards import Classifier, Linear
from moa.job.process import Job
from moa.rewards import scoring
from moa.rewards.python import PythonScorer
from tests import tiny_rewards

PROMPTS, RESPONSES = ["first prompt", "second", "third"], ["one", "", "three"]


def divide(prompts: list[str], responses: list[str]) -> list[float]:
    return [1 / 0 for _ in responses]


def interrupted(prompts: list[str], responses: list[str]) -> list[float]:
    raise KeyboardInterrupt  # as Ctrl-C does, except in the background of a shell, which ignores the signal


def endless(prompts: list[str], responses: list[str]) -> list[float]:
    return endless(prompts, responses)


class Silent(BaseException):
    def __str__(self) -> str:
        raise OSError("no message either")


def silent(prompts: list[str], responses: list[str]) -> list[float]:
    raise Silent


def loud(prompts: list[str], responses: list[str]) -> list[float]:
    raise ValueError("x" * 1_000_000)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            divide,
            (
                r"reward own: raised ZeroDivisionError: division by zero \(first of 2 prompts: 'first prompt'\);"
                r" correct the reward"
            ),
        ),
        (
            lambda p, r: [1.0],
            "reward own: returned 1 scores for 2 responses .*first prompt.* return one number per response",
        ),
        (lambda p, r: [[1.0], [2.0]], r"the score of response 'one' is \[1.0\], not a number"),
        (lambda p, r: 3.0, "the function returned 3.0 .* return a list with one number per response"),
        (lambda p, r: None, "the function returned None"),
        (
            lambda p, r: ["high", "low"],
            "the score of response 'one' is 'high', not a number .a str.; return a list with",
        ),
        (lambda p, r: [0.5, "0.5"], "the score of response 'three' is '0.5', not a number"),
        (lambda p, r: [0.5, None], r"the score of response 'three' is None, not a number .a NoneType."),
        (lambda p, r: [1j, 0.5], "the score of response 'one' is 1j, not a number"),
        (lambda p, r: [10**400, 0.5], "the score of response 'one' is 10000.*not a number .int too large"),
        (
            lambda p, r: {"one": 1.0, "three": 2.0},
            "the function returned {'one': 1.0, 'three': 2.0} .first of 2 prompts",
        ),
        (lambda p, r: "12", "the function returned '12' "),
        (lambda p, r: np.zeros((2, 3)), r"the score of response 'one' is \[0.0, 0.0, 0.0\], not a number"),
        (lambda p, r: torch.zeros(()), "the function returned 0.0 "),
        (lambda p, r: torch.zeros(2, 2), r"the score of response 'one' is \[0.0, 0.0\], not a number"),
        (lambda p, r: itertools.count(), "returned more than 2 scores for 2 responses"),
        (
            lambda p, r: sys.exit(3),
            r"reward own: ended the program, exit\(3\) .*; correct the reward at .*test_rewards_f",
        ),
        (interrupted, "reward own: interrupted .first of 2 prompts: 'first prompt'.; run the same command again"),
        (endless, "reward own: raised RecursionError: maximum recursion depth exceeded"),
        (silent, "reward own: raised Silent: without a message"),
        (loud, "reward own: raised ValueError: x{300} .first of 2 prompts"),
        (lambda p, r: input("score? "), "reward own: raised EOFError"),
        (
            lambda p, r: [0.0, float("nan")],
            "score nan in row 2 .prompt 'third', response 'three'.*must be a finite float32",
        ),
        (lambda p, r: [float("-inf"), 0.0], "score -inf in row 0 .prompt 'first prompt'"),
        (lambda p, r: [1e300, 0.0], "score inf in row 0"),  # finite in Python, not as float32
    ],
)
def test_what_a_reward_returns_is_checked(function: Callable[..., object], message: str) -> None:
    with pytest.raises(MoaError, match=message):
        scoring.score("own", PythonScorer("own", function), PROMPTS, RESPONSES, 0.0)


@pytest.mark.parametrize(
    "returned",
    [
        [1.0, 2.0],
        (1, 2),
        (float(n) for n in (1, 2)),
        np.array([1, 2], np.float16),
        torch.tensor([1.0, 2.0], requires_grad=True),
        torch.tensor([1, 2], dtype=torch.bfloat16),
        [torch.tensor(1.0, requires_grad=True), np.float32(2)],
        [True, 2],
    ],
)
def test_what_holds_one_number_per_response_is_taken(returned: object) -> None:
    found = scoring.score("own", PythonScorer("own", lambda p, r: returned), ["p", "p"], ["a", "b"], None)
    assert found.values.tolist() == [1.0, 2.0]


def test_a_reward_that_changes_its_arguments_does_no_harm() -> None:
    def greedy(prompts: list[str], responses: list[str]) -> list[float]:
        found = [float(len(r)) for r in responses]
        responses.clear()
        return found

    responses = list(RESPONSES)
    assert scoring.score("own", PythonScorer("own", greedy), PROMPTS, responses, 0.0).values.tolist() == [3.0, 0.0, 5.0]
    assert responses == RESPONSES


def load(source: Path | str, **settings: object) -> scoring.Scorer:
    return scoring.load(
        "harm",
        Classifier.model_validate({"kind": "classifier", "source": str(source), "max_length": 32, **settings}),
        [],
        "cpu",
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"logit": 2}, r"reward harm: logit is 2, but .* has 2 logit\(s\), counted from 0"),
        ({"minus_logit": 7}, "minus_logit is 7"),
        ({"max_length": 65}, "max_length is 65, but the model reads at most 64 tokens; set max_length to 64 or less"),
    ],
)
def test_a_declaration_that_the_model_cannot_meet(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(MoaError, match=message):
        load(tiny_rewards.bert(tmp_path / "bert"), **settings)


def test_a_model_without_classification_head_is_not_scored_with_a_random_one(tmp_path: Path) -> None:
    folder = tiny_rewards.gpt2(tmp_path / "gpt2")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {key: value for key, value in weights.items() if key != "score.weight"},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(MoaError, match="has no weights for score.weight, so its scores would be random"):
        load(folder)


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(MoaError, match="reward harm: no folder ./rewards/harm; correct `source`"):
        load("./rewards/harm")


def test_a_hub_model_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        MoaError,
        match=(
            "reward harm: cannot load nobody/no-such-reward at revision abc .* check `source`, `revision` and the"
            " network"
        ),
    ):
        load("nobody/no-such-reward", revision="abc")


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = tiny_rewards.bert(tmp_path / "bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(MoaError, match="cannot load .*holds model.safetensors"):
        load(folder)


def test_truncated_weights(tmp_path: Path) -> None:
    folder = tiny_rewards.bert(tmp_path / "bert")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(MoaError, match="cannot load"):
        load(folder)


def test_a_model_that_gives_nan(tmp_path: Path) -> None:
    """Finite weights whose sums are not: inf - inf."""
    folder = tiny_rewards.bert(tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {**weights, "classifier.weight": weights["classifier.weight"].sign() * 3e38},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(MoaError, match="reward harm: score (nan|inf|-inf) in row 1 .prompt 'p', response 'good film'"):
        scoring.score("harm", load(folder), ["p", "p"], ["", "good film"], 0.0)


def rows(**columns: list) -> pa.Table:
    return pa.table(columns)


TEXTS = [f"film number {i}" for i in range(20)]


@pytest.mark.parametrize(
    ("table", "data", "message"),
    [
        (
            rows(text=TEXTS, label=["pos"] * 10 + ["neg"] * 10),
            {"label": "label"},
            r"one class only; label 'label' has the values 'neg', 'pos' and `positive` is \[1\]",
        ),
        (rows(text=TEXTS, label=[1] * 20), {"label": "label"}, "the training rows of .* hold one class only"),
        (rows(text=TEXTS, label=[1, 0] * 10), {"label": "lable"}, "no column 'lable'; .*Did you mean 'label'"),
        (
            rows(text=list(range(20)), label=[1, 0] * 10),
            {"label": "label"},
            r"rewards.mood.data, row 0 of .*: column 'text' holds int \(0\), expected text",
        ),
        (
            rows(text=TEXTS, stars=["five"] * 20),
            {"target": "stars"},
            "row 0 of .*: target 'stars' is 'five', expected a finite number",
        ),
        (rows(text=TEXTS, stars=[1.0, float("inf")] * 10), {"target": "stars"}, "row 1 of .*: target 'stars' is inf"),
        (rows(text=TEXTS, stars=[2.0] * 20), {"target": "stars"}, "all have the target 2; there is nothing to learn"),
        (
            rows(text=TEXTS, text2=TEXTS),
            {"chosen": "text", "rejected": "text2"},
            "the training rows of .* are 0, at least 1 are needed",
        ),
        (
            rows(text=["the same"] * 20, label=[1, 0] * 10),
            {"label": "label"},
            "the training rows of .* are 0, at least 2 are needed",
        ),
        (
            rows(text=pa.array([], pa.string()), label=pa.array([], pa.int64())),
            {"label": "label"},
            "no rows; the dataset is empty",
        ),
    ],
)
def test_data_that_cannot_train_a_reward(tmp_path: Path, table: pa.Table, data: dict, message: str) -> None:
    pq.write_table(table, tmp_path / "rows.parquet")
    spec = Linear.model_validate(
        {"kind": "linear", "features": 256, "data": {"source": str(tmp_path / "rows.parquet"), **data}}
    )
    (tmp_path / "mood").mkdir()
    with pytest.raises(MoaError, match=message):
        scoring.train("mood", spec, tmp_path / "mood", Job(tmp_path))
    assert not list((tmp_path / "mood").iterdir())


def test_a_kind_that_is_not_trained_here(tmp_path: Path) -> None:
    with pytest.raises(
        MoaError, match="rewards.harm: kind 'classifier' is not trained here; kinds that are: linear, transformer"
    ):
        scoring.train("harm", Classifier(kind="classifier", source="x"), tmp_path, Job(tmp_path))


@pytest.fixture
def mood(tmp_path: Path) -> tuple[Linear, Path]:
    pq.write_table(
        rows(text=[f"{t} was {'good' if i % 2 else 'bad'}" for i, t in enumerate(TEXTS * 2)], label=[0, 1] * 20),
        tmp_path / "rows.parquet",
    )
    spec = Linear.model_validate(
        {
            "kind": "linear",
            "features": 256,
            "heldout": 0.4,
            "data": {"source": str(tmp_path / "rows.parquet"), "label": "label"},
        }
    )
    (tmp_path / "mood").mkdir()
    scoring.train("mood", spec, tmp_path / "mood", Job(tmp_path))
    return spec, tmp_path / "mood"


def test_a_trained_reward_whose_weights_are_damaged(mood: tuple[Linear, Path]) -> None:
    spec, folder = mood
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:100])
    with pytest.raises(MoaError, match="model.safetensors: not a linear reward .*; delete the folder"):
        scoring.load("mood", spec, [folder])
    save_file({"other": load_file_of(data, folder)["idf"]}, weights)
    with pytest.raises(MoaError, match="not a linear reward .'idf'"):
        scoring.load("mood", spec, [folder])
    weights.unlink()
    with pytest.raises(MoaError, match="not a linear reward .*No such file"):
        scoring.load("mood", spec, [folder])


def load_file_of(data: bytes, folder: Path) -> dict:
    (folder / "copy.safetensors").write_bytes(data)
    return load_file(folder / "copy.safetensors")


@pytest.mark.parametrize(
    "card",
    [b"", b"{", b"[]", b'{"reward": "mood"}', b'{"settings": 7}', b"\x89PNG", b'{"settings": "caf\xe9"}', b"[" * 10**5],
)
def test_a_trained_reward_whose_card_is_damaged(mood: tuple[Linear, Path], card: bytes) -> None:
    spec, folder = mood
    (folder / "reward.json").write_bytes(card)
    with pytest.raises(MoaError, match="reward.json: (not|not readable as) a reward's card"):
        scoring.load("mood", spec, [folder])
