"""`moa check --trial`: every stage in a folder of its own, with the user's data and rewards; failures name the job."""

import json
from pathlib import Path

import pytest
import yaml

from tests.workflow import snake

pytestmark = pytest.mark.slow

REWARD = """
from pathlib import Path

BOOK = Path("words/kind.txt").read_text().split()  # relative to the working folder


def score(prompts, responses):
    return [float(any(word in response for word in BOOK)) for response in responses]
"""
STUBBORN = """
def score(prompts, responses):
    if len(responses) > 2:
        raise ValueError("only two at a time")
    return [1.0, 0.0]
"""


def experiment(folder: Path, reward: str) -> Path:
    """Write tests/tiny.yaml with one row, data beside the folder and a reward in it, and results of an earlier run."""
    tiny = yaml.safe_load((snake.ROOT / snake.TINY).read_text())
    texts = [
        {"text": f"{a} {b} {c} is {d} today and so is that {a}"}
        for a in "abcd"
        for b in "efgh"
        for c in "ijkl"
        for d in ("fine", "bad")
    ]
    (folder.parent / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    tiny["data"] = {"source": "../texts.jsonl", "text": "text", "texts": 16, "heldout_texts": 4, "train_prompts": 8}
    tiny["data"]["evaluation_prompts"] = 4
    tiny["run"] = {"methods": ["moc"], "seeds": [0, 1]}
    tiny["objectives"]["sentiment"] = {"reward": "kind"}
    tiny["rewards"]["kind"] = {"kind": "python", "function": "kindness:score", "low": 0, "high": 1}
    tiny["ppo"]["steps"] = 30
    (folder / "words").mkdir(parents=True)
    (folder / "words" / "kind.txt").write_text("fine good")
    (folder / "kindness.py").write_text(reward)
    (folder / "mine.yaml").write_text(yaml.safe_dump(tiny))
    (folder / "results").mkdir()
    (folder / "results" / "results.duckdb").write_text("the user's")
    return folder


def test_a_trial_goes_through_every_stage_and_touches_no_result(tmp_path: Path) -> None:
    """The data is named relative to the folder, and lies outside of it; the reward reads a file of the folder."""
    folder = experiment(tmp_path / "work", REWARD)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = snake.moa(folder, "check", "--trial", "mine.yaml")
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    for stage in ("prompts", "text_scores", "base", "reference_scores", "train", "generate", "score"):
        assert f"\n  {stage} " in done.stdout, done.stdout
    assert "30 steps instead of 3: about" in done.stdout and "1 x 2 seeds" in done.stdout
    assert "reward kind: kindness:score gave 1, 0 to two short texts" in done.stdout  # ' is fine.', ' is not.'
    after = {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if ".moa" not in path.parts and "__pycache__" not in path.parts
    }
    assert after.keys() == before.keys()
    assert (folder / "results" / "results.duckdb").read_text() == "the user's"
    assert not (folder / ".moa" / "trial" / "tiny").exists()


def test_a_job_that_fails_is_named_with_its_mistake(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "work", STUBBORN)
    done = snake.moa(folder, "check", "--trial", "mine.yaml")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: the trial's job score_texts failed: reward kind: raised ValueError: only two at a")
    assert Path(line.rpartition("its log: ")[2].removesuffix(")")).is_file()


def test_a_plan_refuses_what_is_not_there(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "work", REWARD)
    (folder / "kindness.py").unlink()
    (folder.parent / "texts.jsonl").unlink()
    planned = snake.moa(folder, "run", "mine.yaml", "-n")
    assert planned.returncode == 1 and "Traceback" not in planned.stderr
    assert "mine.yaml: data: ../texts.jsonl: no such file" in planned.stderr
    assert "mine.yaml: rewards.kind.function: no module 'kindness'" in planned.stderr
