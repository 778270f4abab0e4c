"""The stages that train rewards and score texts and responses: tables in, tables out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from moa.errors import MoaError
from moa.job import command
from moa.stages import rewards, score, texts
from moa.store import tables
from tests import tiny_rewards

PROMPTS = {"p1": "the plot", "p2": "a film"}
RESPONSES = {  # (prompt, point): response
    ("p1", 0): "a bright film",
    ("p1", 1): "",
    ("p2", 0): "it was dull and very bad",
    ("p2", 1): " \n",
}
NORMALISER = {"low": 0.0, "high": 1.0, "mean": 0.5, "std": 0.1, "reference_point": 0.0, "n": 20, "hash": "0"}


def response_row(prompt: str, point: int, response: str) -> dict[str, Any]:
    return {
        "task": "t",
        "method": "moc",
        "seed": 3,
        "point": point,
        "preference": [float(point), 1.0 - point],
        "prompt_id": prompt,
        "sample": 0,
        "policy": "policy",
        "response": response,
        "tokens": 5,
        "finished": True,
        "nll": None,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """prompts, generations, normaliser (floors 0.25 of objective a, -7 of b) and texts."""
    prompts = [
        {"task": "t", "prompt_id": key, "split": "evaluation", "prompt": prompt} for key, prompt in PROMPTS.items()
    ]
    tables.write(tables.PROMPTS, prompts, tmp_path / "prompts.parquet")
    tables.write(
        tables.GENERATIONS,
        [response_row(*key, text) for key, text in RESPONSES.items()],
        tmp_path / "generations.parquet",
    )
    floors = {"a": 0.25, "b": -7.0}
    normaliser = [{"task": "t", "objective": o, "floor": floor, **NORMALISER} for o, floor in floors.items()]
    tables.write(tables.NORMALISER, normaliser, tmp_path / "normaliser.parquet")
    written = [
        {"task": "t", "text_id": f"x{i}", "split": "train", "prompt": "the", "response": r}
        for i, r in enumerate(["film " * 28, "", "bad"])
    ]
    tables.write(tables.TEXTS, written, tmp_path / "texts.parquet")
    return tmp_path


def section(objectives: dict[str, Any], declared: dict[str, Any]) -> str:
    return json.dumps({"task": "t", "objectives": objectives, "rewards": declared})


def score_arguments(folder: Path, text: str) -> list[str]:
    inputs = [f"--{name}={folder / name}.parquet" for name in ("generations", "prompts", "normaliser")]
    return [
        "--section",
        text,
        *inputs,
        f"--scores={folder / 'scores.parquet'}",
        f"--costs={folder / 'costs' / 'score.parquet'}",
    ]


def run_score(folder: Path, text: str) -> list[dict[str, Any]]:
    parser = command.parser(score.__doc__, "generations", "prompts", "normaliser", "models*", "scores", "costs")
    score.main(parser.parse_args(score_arguments(folder, text)))
    return tables.read(tables.SCORES, folder / "scores.parquet").to_pylist()


def values(rows: list[dict[str, Any]], objective: str, role: str) -> dict[tuple[str, int], float]:
    return {(r["prompt_id"], r["point"]): r["score"] for r in rows if (r["objective"], r["role"]) == (objective, role)}


def test_every_response_gets_every_score(folder: Path) -> None:
    classifier = {
        "kind": "classifier",
        "source": str(tiny_rewards.gpt2(folder / "gpt2")),
        "max_length": 4,
        "template": "{prompt} {response}",
    }
    text = section(
        {"a": {"reward": "size", "judge": "model"}, "b": {"reward": "model", "judge": "size"}},
        {"size": {"kind": "length", "divisor": 24, "low": 0, "high": 9}, "model": classifier},
    )
    rows = run_score(folder, text)
    assert len(rows) == 4 * 4 and {(r["task"], r["method"], r["seed"], r["sample"]) for r in rows} == {
        ("t", "moc", 3, 0)
    }
    # Lengths 13 and 24 over 24; blank responses get the formula's lower bound 0, not the normaliser's 0.25.
    expected = {("p1", 0): 13 / 24, ("p1", 1): 0.0, ("p2", 0): 1.0, ("p2", 1): 0.0}
    assert values(rows, "a", "reward") == pytest.approx(expected)
    assert values(rows, "b", "judge") == values(rows, "a", "reward")
    # The model has no bound: a blank response gets the normaliser's floor as reward, the smallest score here as judge.
    as_reward, as_judge = values(rows, "b", "reward"), values(rows, "a", "judge")
    assert (as_reward["p1", 1], as_reward["p2", 1]) == (-7.0, -7.0)
    smallest = min(as_judge["p1", 0], as_judge["p2", 0])
    assert (as_judge["p1", 1], as_judge["p2", 1]) == (smallest, smallest)
    assert as_reward["p1", 0] == as_judge["p1", 0] != as_judge["p2", 0]
    # Of 'the plot a bright film' the prompt is cut; 'it was dull and very bad' alone has more than 4 words.
    assert {
        r["prompt_id"]: r["truncated"]
        for r in rows
        if r["role"] == "judge" and r["objective"] == "a" and r["point"] == 0
    } == {"p1": False, "p2": True}
    cost = tables.read(tables.COSTS, folder / "costs" / "score.parquet").to_pylist()[0]
    # 2 texts of 4 tokens, which the model reads once as judge and as reward
    assert (cost["stage"], cost["method"], cost["seed"], cost["tokens"], cost["models"]) == (
        "score",
        "moc",
        3,
        8,
        0,
    )


def test_bfloat16_deviation_stands_in_the_files_metadata(folder: Path) -> None:
    source = str(tiny_rewards.bert(folder / "bert"))
    declared = {
        dtype: {"kind": "classifier", "source": source, "max_length": 32, "dtype": dtype}
        for dtype in ("float32", "bfloat16")
    }
    run_score(folder, section({"a": {"reward": "float32"}, "b": {"reward": "bfloat16"}}, declared))
    metadata = pq.read_schema(folder / "scores.parquet").metadata
    deviation = json.loads(metadata[b"moa.deviation"])
    assert list(deviation) == ["bfloat16"] and 0 <= deviation["bfloat16"] < 0.3
    assert metadata[b"moa.table"] == b"scores"


def test_a_policy_that_only_writes_blanks_is_still_judged(folder: Path) -> None:
    blank = [response_row(*key, " ") for key in RESPONSES]
    tables.write(tables.GENERATIONS, blank, folder / "generations.parquet")
    source = str(tiny_rewards.bert(folder / "bert"))
    text = section(
        {"a": {"reward": "short", "judge": "model"}},
        {"short": {"kind": "conciseness"}, "model": {"kind": "classifier", "source": source, "max_length": 32}},
    )
    rows = run_score(folder, text)
    assert set(values(rows, "a", "reward").values()) == {0.0}
    # the judge's smallest score of the prompts
    expected = min(tiny_rewards.plain(Path(source), prompt)[0] for prompt in PROMPTS.values())
    assert list(values(rows, "a", "judge").values()) == pytest.approx([expected] * 4, abs=1e-5)


def test_texts_are_scored_with_rewards_and_never_with_judges(folder: Path) -> None:
    text = section(
        {"a": {"reward": "size", "judge": "mood"}},
        {"size": {"kind": "length"}, "mood": {"kind": "python", "function": "not_there:f"}},
    )
    parser = command.parser(texts.__doc__, "texts", "models*", "scores", "costs")
    arguments = [
        "--section",
        text,
        f"--texts={folder / 'texts.parquet'}",
        f"--scores={folder / 'out.parquet'}",
        f"--costs={folder / 'c.parquet'}",
    ]
    texts.main(parser.parse_args(arguments))
    rows = tables.read(tables.TEXT_SCORES, folder / "out.parquet").to_pylist()
    # 28 * 5 = 140 characters: 1; blank: the lower bound 0.5; 3 characters: raised to 0.5
    assert [(r["text_id"], r["objective"], r["role"], r["score"]) for r in rows] == [
        ("x0", "a", "reward", 1.0),
        ("x1", "a", "reward", 0.5),
        ("x2", "a", "reward", 0.5),
    ]
    assert tables.read(tables.COSTS, folder / "c.parquet").to_pylist()[0]["stage"] == "text_scores"


def test_training_a_reward_and_scoring_with_it(folder: Path) -> None:
    data = folder / "rows.csv"
    data.write_text(
        "text,label\n" + "".join(f"film {i} was {'bright' if i % 2 else 'dull'},{i % 2}\n" for i in range(60))
    )
    spec = {"kind": "linear", "features": 1024, "data": {"source": str(data), "label": "label"}}
    arguments = [
        "--section",
        json.dumps({"task": "t", "reward": "mood", "spec": spec}),
        f"--model={folder / 'rewards' / 'mood'}",
        f"--costs={folder / 'c.parquet'}",
    ]
    arguments += ["--checkpoints", str(folder / "checkpoints"), "--depends", ""]
    rewards.main(command.parser(rewards.__doc__, "checkpoints", "model", "costs", depends=str).parse_args(arguments))
    cost = tables.read(tables.COSTS, folder / "c.parquet").to_pylist()[0]
    assert (cost["stage"], cost["job"], cost["models"], cost["tokens"]) == ("rewards", "mood", 1, 0)
    parser = command.parser(score.__doc__, "generations", "prompts", "normaliser", "models*", "scores", "costs")
    scored = [
        *score_arguments(folder, section({"a": {"reward": "mood"}}, {"mood": spec})),
        "--models",
        str(folder / "rewards" / "mood"),
    ]
    score.main(parser.parse_args(scored))
    found = values(tables.read(tables.SCORES, folder / "scores.parquet").to_pylist(), "a", "reward")
    assert found["p1", 0] > 0 > found["p2", 0]  # 'a bright film', 'it was dull and very bad'
    assert found["p1", 1] == found["p2", 0], "the least that was seen, below the normaliser's floor of 0.25"


def test_scoring_twice_gives_the_same_bytes(folder: Path) -> None:
    text = section(
        {"a": {"reward": "mood"}, "b": {"reward": "short"}},
        {"mood": {"kind": "vader"}, "short": {"kind": "readability"}},
    )
    run_score(folder, text)
    first = (folder / "scores.parquet").read_bytes()
    run_score(folder, text)
    assert (folder / "scores.parquet").read_bytes() == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_id": "p9"}, "prompt_id p9 is not in .*prompts.parquet; the responses belong to other prompts"),
        (None, "no responses to score"),
    ],
)
def test_responses_that_do_not_belong(folder: Path, change: dict[str, Any] | None, message: str) -> None:
    rows = [] if change is None else [{**response_row("p1", 0, "x"), **change}]
    tables.write(tables.GENERATIONS, rows, folder / "generations.parquet")
    with pytest.raises(MoaError, match=message):
        run_score(folder, section({"a": {"reward": "mood"}}, {"mood": {"kind": "vader"}}))


def test_a_normaliser_without_the_objective(folder: Path) -> None:
    with pytest.raises(MoaError, match=r"no row for objective 'c' \(it has a, b\)"):
        run_score(folder, section({"c": {"reward": "mood"}}, {"mood": {"kind": "vader"}}))


def test_a_reward_that_raises_ends_the_command_with_one_line_and_no_output(folder: Path) -> None:
    (folder / "mine.py").write_text("def f(prompts, responses):\n    return [float(r) for r in responses]\n")
    text = section({"a": {"reward": "own"}}, {"own": {"kind": "python", "function": "mine:f"}})
    environment = {"PYTHONPATH": str(Path.cwd()), "PATH": ""}
    ran = subprocess.run(
        [sys.executable, "-m", "moa.stages.score", *score_arguments(folder, text)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "error: reward own: raised ValueError: could not convert string to float: 'a bright film' (first of 2 prompts:"
        " 'the plot')"
    )
    assert ran.stderr.count("Traceback") == 1 and 'mine.py", line 2' in ran.stderr  # the function's own, in the log
    assert not (folder / "scores.parquet").exists() and not (folder / "costs").exists()


def test_scores_are_float32_and_unrounded(folder: Path) -> None:
    rows = run_score(
        folder, section({"a": {"reward": "size"}}, {"size": {"kind": "length", "divisor": 7, "low": 0, "high": 9}})
    )
    assert values(rows, "a", "reward")["p1", 0] == np.float32(13 / 7)
