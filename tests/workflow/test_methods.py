"""The rows that tests/tiny.yaml leaves out, on its finished run: every method's file goes from plan to leaderboard."""

from pathlib import Path

import duckdb
import pytest

from moa.methods import catalogue
from tests.workflow import snake

pytestmark = pytest.mark.slow

# external needs a model of the user's
MORE = [name for name in catalogue.names() if name not in snake.ROWS and name != "external"]


def test_every_other_method_runs(finished: Path) -> None:
    done = snake.snakemake(
        finished, "--cores", "2", "--config", f"run={{methods: [reference, single_objective, {', '.join(MORE)}]}}"
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    with duckdb.connect(str(finished / "results" / "results.duckdb"), read_only=True) as connection:
        found = {
            m: (v, p)
            for m, v, p in connection.execute("SELECT method, hypervolume, points FROM leaderboard").fetchall()
        }
    assert set(MORE) <= set(found)
    for name in MORE:
        volume, points = found[name]
        assert volume >= 0 and points == (1 if name == "mgda_ub" else 3), name  # three preferences; MGDA-UB has none
