"""A run of the workflow that reads its data from a hub, and the lock that it obeys."""

import os
import subprocess
import sys
from pathlib import Path

from moa.store.lock import LOCK
from tests import hub_server
from tests.workflow import snake


def test_a_run_through_the_environment(tmp_path: Path) -> None:
    """HF_ENDPOINT and its like as a user sets them: dry run, run, moved branch, moved lock; a job that reads data."""
    texts = "".join(
        f'{{"text": "The lamp number {i} is fine and it stands on a table."}}\n' for i in range(60)
    ).encode()
    experiment = """
task: mine
run: {methods: [reference], seeds: [0]}
data: {source: who/data, text: text, texts: 20, heldout_texts: 4, train_prompts: 4, evaluation_prompts: 2}
model: {source: scratch, scratch: {}, sft: {}}
objectives: {sentiment: {reward: vader}, short: {reward: short}}
rewards: {vader: {kind: vader}, short: {kind: conciseness}}
"""
    (tmp_path / "mine.yaml").write_text(experiment)
    with hub_server.serving() as found:
        first = found.dataset("who/data").commit({"train.jsonl": texts})
        here = {**os.environ, **hub_server.environment(found, tmp_path / "cache"), "PYTHONPATH": str(snake.ROOT)}

        def run(*more: str) -> str:
            command = [sys.executable, "-m", "moa.cli", "run", "mine.yaml", "--cores", "1", *more, "prompts"]
            done = subprocess.run(
                command, cwd=tmp_path, env=here, capture_output=True, text=True, timeout=snake.PATIENCE, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout + done.stderr

        assert "would be looked up on the hub: dataset who/data, revision main" in run("-n") and not found.asked
        assert f"dataset who/data, revision main is {first}" in run()
        prompts = tmp_path / "results" / "mine" / "prompts.parquet"
        made = prompts.stat().st_mtime_ns
        second = found.dataset("who/data").commit(
            {"train.jsonl": texts + b'{"text": "The new lamp is here and fine."}\n'}
        )
        found.asked.clear()
        run()
        assert prompts.stat().st_mtime_ns == made and not found.asked, "a moved branch changes nothing"
        (tmp_path / LOCK).unlink()
        assert f"is {second}" in run() and prompts.stat().st_mtime_ns != made, "another commit, another job"
