"""What a user has is never lost, and never made again for nothing: a database in use, a copy in another place."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from tests.workflow import snake

OLD = 1_600_000_000  # seconds; a time before any of these files was made


def copied(finished: Path, to: Path) -> Path:
    """Return a copy of a run as it arrives without its times: what was made last is the oldest file now."""
    snake.copy_project(to)
    for name in ("results", "reports", ".snakemake"):
        shutil.copytree(finished / name, to / name, copy_function=shutil.copyfile)
    files = [path for path in (to / "results").rglob("*") if path.is_file()]
    files.sort(key=lambda path: -(finished / path.relative_to(to)).stat().st_mtime)
    for i, path in enumerate(files):
        os.utime(path, (OLD + i, OLD + i))
    return to


def test_a_copy_without_its_times_runs_nothing_again(tiny_run: snake.Run, tmp_path: Path) -> None:
    there = copied(tiny_run.directory, tmp_path / "there")
    assert snake.plan(there) == set()


def test_a_policy_that_was_trained_anew_is_asked_anew(tiny_run: snake.Run, tmp_path: Path) -> None:
    """Snakemake was stopped between the two, so nothing but the files can tell the next run."""
    there = copied(tiny_run.directory, tmp_path / "there")
    done = snake.snakemake(there, "--cores", "1", "--force", "results/tiny/policies/moc/policy/s0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert snake.plan(there) == snake.after("moc")


@contextmanager
def writer(database: Path) -> Iterator[None]:
    """Let another program write a table into the database, and stay."""
    code = (
        f"import duckdb, time; c = duckdb.connect({str(database)!r}); c.execute('CREATE TABLE theirs AS SELECT 42 x');"
        " print('open', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "open\n"
            yield
        finally:
            other.kill()


def test_a_database_in_use_and_pages_survive_snakemake(finished: Path) -> None:
    database, pages = finished / "results/results.duckdb", sorted((finished / "reports").glob("*.html"))
    before = [path.read_bytes() for path in pages]
    with writer(database):
        done = snake.snakemake(finished, "--cores", "1", "-R", "build_warehouse")
        assert done.returncode == 1
        assert "results.duckdb: another process has opened the database for writing; close it" in done.stderr
        assert "Traceback" not in done.stderr
    assert snake.plan(finished) == {"build_warehouse", "build_report"}, "it is tried again"
    with duckdb.connect(str(database)) as connection:
        assert connection.execute("FROM theirs").fetchall() == [(42,)]
        assert connection.execute("SELECT count(*) FROM leaderboard").fetchone() == (len(snake.ROWS),)
    assert [path.read_bytes() for path in pages] == before


def test_pages_survive_a_report_that_fails(finished: Path) -> None:
    page = finished / "reports/index.html"
    before = page.read_bytes()
    broken = finished / "moa/report/templates/task.html.j2"
    broken.write_text(broken.read_text() + "{% nonsense %}")
    assert snake.snakemake(finished, "--cores", "1").returncode == 1
    assert page.read_bytes() == before
    assert snake.plan(finished) == {"build_report"}


@pytest.mark.parametrize("lost", ["reports/index.html", "reports/tiny.html"])
def test_a_lost_page_is_made_again(finished: Path, lost: str) -> None:
    (finished / lost).unlink()
    assert snake.plan(finished) == {"build_report"}


def eight_objectives(project: Path) -> None:
    """Give the tiny experiment eight objectives, whose training lattice of 6 divisions has 1 716 preferences."""
    path = project / snake.TINY
    text = path.read_text()
    objectives = "".join(f"  o{i}: {{reward: {'vader' if i % 2 else 'short'}}}\n" for i in range(8))
    for old, new in (
        ("  sentiment: {reward: vader}\n  conciseness: {reward: short}\n", objectives),
        ("training: {divisions: 2}", "training: {divisions: 6}"),
        ("evaluation: {divisions: 2}", "evaluation: {divisions: 1}"),
        ("steps: 3\n", "steps: 1\n"),
        ("sft: {steps: 10,", "sft: {steps: 1,"),
        ("warm_start: {share: 0.5, keep: 0.5}", "warm_start: null"),
    ):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


@pytest.mark.slow
def test_eight_objectives_with_a_fine_lattice_train(project: Path) -> None:
    """A section of 150 000 characters is longer than an argument may be; nor does it stand on the console."""
    eight_objectives(project)
    target = "results/tiny/policies/linear/policy/s0"
    planned = snake.snakemake(project, "-n", "-p", target)
    assert planned.returncode == 0 and len(planned.stdout + planned.stderr) < 30_000
    assert max(path.stat().st_size for path in (project / ".moa/sections").iterdir()) > 128 * 1024
    assert sorted(path.name for path in project.iterdir() if path.name in ("results", "logs")) == []
    done = snake.snakemake(project, "--cores", "2", target)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert (project / target / "policy.json").is_file()
    assert snake.plan(project, target) == set()
