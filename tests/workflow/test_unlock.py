"""moa unlock: removes the lock of a dead Snakemake, never that of a living one."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moa.errors import MoaError
from moa.job import unlock
from tests.workflow import snake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    locks = tmp_path / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").write_text("results/results.duckdb\n")
    return tmp_path


def sleeper(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a process that works in `folder` and has these arguments."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *arguments], cwd=folder)
    time.sleep(0.2)
    return process


def test_a_stale_lock_is_removed_and_so_is_what_dead_jobs_left(folder: Path) -> None:
    half = folder / "results" / "tiny" / ".base.1234.tmp"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_text("half")
    (folder / "results" / "tiny" / ".scores.parquet.1.tmp").write_text("half")
    (folder / "results" / "tiny" / "scores.parquet").write_text("whole")
    assert (
        unlock.unlock(folder)
        == "removed the lock of a snakemake that is gone (1 files); removed 2 half-written outputs"
    )
    assert unlock.locks(folder) == []
    assert [p.name for p in (folder / "results" / "tiny").iterdir()] == ["scores.parquet"]
    assert unlock.unlock(folder) == "nothing to unlock"


def test_a_living_snakemake_keeps_its_lock(folder: Path) -> None:
    process = sleeper(folder, "snakemake", "--cores", "all")
    try:
        with pytest.raises(MoaError, match=rf"snakemake \(process {process.pid}\) works in"):
            unlock.unlock(folder)
        assert len(unlock.locks(folder)) == 1
    finally:
        process.kill()
        process.wait()
    assert unlock.unlock(folder).startswith("removed the lock")


def test_a_snakemake_of_another_folder_does_not_count(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    process = sleeper(tmp_path_factory.mktemp("other"), "snakemake")
    try:
        assert unlock.unlock(folder).startswith("removed the lock")
    finally:
        process.kill()
        process.wait()


def test_it_waits_for_jobs_that_are_about_to_die(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = sleeper(folder, "-m", "moa.stages.train")
    try:
        monkeypatch.setattr(unlock, "ORPHAN_SECONDS", 0.5)
        with pytest.raises(MoaError, match=rf"a job \(process {process.pid}\) still works"):
            unlock.unlock(folder)
    finally:
        process.kill()
        process.wait()
    assert unlock.unlock(folder).startswith("removed the lock")


def test_snakemake_says_what_to_do_about_a_stale_lock(project: Path) -> None:
    locks = project / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    for name in ("0.input.lock", "0.output.lock"):
        (locks / name).write_text("results/tiny/prompts.parquet\n")
    refused = snake.snakemake(project, "prompts", "--cores", "1")
    assert refused.returncode == 1
    assert "A snakemake that is gone left its lock here. Remove it with:  moa unlock" in refused.stderr
    freed = snake.moa(project, "unlock")
    assert (freed.returncode, freed.stdout) == (0, "removed the lock of a snakemake that is gone (2 files)\n")
    assert "moa unlock" not in snake.snakemake(project, "prompts", "-n").stderr


def test_the_command_refuses_in_one_line(folder: Path) -> None:
    process = sleeper(folder, "snakemake")
    try:
        refused = subprocess.run(
            [sys.executable, "-m", "moa.cli", "unlock"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(snake.ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        process.kill()
        process.wait()
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: snakemake (process {process.pid}) works in {folder}")
    assert refused.stderr.count("\n") == 1
