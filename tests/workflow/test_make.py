"""`make run`: goes on after a crash by itself, and ends with the leaderboard."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow import snake


def ready(directory: Path) -> Path:
    """Add a Makefile whose set-up is done: it uses the environment of these tests."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "requirements.lock.txt", "pyproject.toml"):
        shutil.copy(snake.ROOT / name, directory / name)
    python = directory / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    (directory / ".venv" / ".ready").touch()
    return directory


@pytest.fixture
def made(finished: Path) -> Path:
    return ready(finished)


def make(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=directory,
        env=snake.environment(),
        capture_output=True,
        text=True,
        timeout=snake.PATIENCE,
        check=False,
    )


def test_make_run_after_a_crash(made: Path) -> None:
    """A dead snakemake's lock and a half-written output are removed, the rest is made, the leaderboard printed."""
    locks = made / ".snakemake" / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    (locks / "0.output.lock").write_text("results/results.duckdb\n")
    (made / "results" / ".results.duckdb.1.tmp").write_text("half")
    (made / "reports" / "index.html").unlink()
    run = make(made, "run", f"ARGS=--configfile {snake.TINY}")
    output = run.stdout + run.stderr
    assert run.returncode == 0, output
    assert "removed the lock of a snakemake that is gone (1 files); removed 1 half-written outputs" in run.stdout
    assert snake.jobs(output) == {"build_report"}
    assert output.count("hypervolume on the normalised scale") == 1
    assert f"Report: {made / 'reports' / 'index.html'}" in output
    again = make(made, "run", f"ARGS=--configfile {snake.TINY}")
    assert "Nothing to be done" in again.stdout + again.stderr
    assert again.stdout.count("hypervolume on the normalised scale") == 1


def test_make_run_stops_at_a_mistake(made: Path) -> None:
    run = make(made, "run", f"ARGS=--configfile {snake.TINY} --config task=a/b")
    assert run.returncode != 0
    assert "task: a name is made of letters" in run.stderr
    assert "hypervolume" not in run.stdout


@pytest.mark.parametrize("mark", ["-n", "--dry-run --quiet"])
def test_a_dry_run_prints_no_leaderboard(mark: str, project: Path) -> None:
    """Nor the error that there is none yet; make prints the commands that it runs."""
    run = make(ready(project), "run", f"ARGS=--configfile {snake.TINY} {mark}")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "moa run config.yaml" in run.stdout and "hypervolume" not in run.stdout
    assert not (project / "results" / "tiny").exists()
    assert f"--configfile {snake.TINY}" in run.stderr and "--configfile config.yaml" not in run.stderr
