"""Killed at any moment, the run goes on: no orphan, no torn output, nothing done twice."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.workflow import snake

pytestmark = pytest.mark.slow


@contextmanager
def running(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run snakemake in the background; whatever is left of it is gone afterwards."""
    log = (directory / "background.log").open("wb")
    process = subprocess.Popen(
        snake.command(*arguments, "--configfile", snake.TINY),
        cwd=directory,
        env=snake.environment(),
        stdout=log,
        stderr=log,
    )
    try:
        yield process
    finally:
        for left in [process.pid, *jobs_in(directory)]:
            if psutil.pid_exists(left):
                os.kill(left, signal.SIGKILL)
        process.wait()


def jobs_in(directory: Path) -> list[int]:
    """Return the processes of stages that work in `directory`."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if any(a.startswith("moa.stages.") for a in process.info["cmdline"] or []):
            try:
                if Path(process.cwd()) == directory.resolve() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.info["pid"])
            except psutil.NoSuchProcess:
                continue
    return found


def wait(until: Callable[[], object], seconds: float, what: str) -> float:
    began = time.perf_counter()
    while not until():
        assert time.perf_counter() - began < seconds, f"no {what} within {seconds} s"
        time.sleep(0.05)
    return time.perf_counter() - began


GRACE = 20.0  # seconds; a second where the machine is idle
LONGER = ("--config", "ppo={steps: 60}", "run={methods: [moc]}")


def test_kill_minus_nine_of_snakemake(finished: Path) -> None:
    """Snakemake dies while a policy trains: the job follows within seconds, and the next run resumes."""
    checkpoints = finished / ".moa" / "checkpoints"
    with running(finished, "train", "--cores", "1", *LONGER) as process:
        # a checkpoint still being written is no place to resume from
        wait(lambda: any(checkpoints.glob("*/*/step-*")), snake.PATIENCE, "complete checkpoint")
        assert len(jobs_in(finished)) == 1
        process.kill()
        process.wait()
        wait(lambda: not jobs_in(finished), GRACE, "end of the orphan")
    assert not (finished / "results/tiny/curves/moc/policy/s0.parquet").exists()
    assert snake.snakemake(finished, "train", "--cores", "1", *LONGER).returncode == 1
    assert "removed the lock" in snake.moa(finished, "unlock").stdout
    done = snake.snakemake(finished, "train", "--cores", "1", *LONGER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert snake.jobs(done.stdout + done.stderr) == {"train_policy moc/policy"}
    assert "resum" in (finished / "logs/tiny/train/moc/policy/s0.log").read_text()


def test_kill_minus_nine_of_snakemake_while_a_job_still_starts(finished: Path) -> None:
    """A job that has not even imported what it needs follows as well, so that the lock can go."""
    with running(finished, "train", "--cores", "1", *LONGER) as process:
        wait(lambda: jobs_in(finished), snake.PATIENCE, "job")
        process.kill()
        process.wait()
        wait(lambda: not jobs_in(finished), GRACE, "end of the orphan")
    assert not any((finished / ".moa" / "checkpoints").glob("*/*/step-*")), "it had not begun to train"
    assert "removed the lock" in snake.moa(finished, "unlock").stdout


def test_kill_minus_nine_of_a_job(finished: Path) -> None:
    """The job dies: snakemake says so, removes its output, and the next run makes it, without an unlock."""
    with running(finished, "train", "--cores", "1", *LONGER) as process:
        wait(lambda: jobs_in(finished), snake.PATIENCE, "job")
        time.sleep(1.0)
        os.kill(jobs_in(finished)[0], signal.SIGKILL)
        assert process.wait(timeout=snake.PATIENCE) == 1
    assert not (finished / "results/tiny/policies/moc/policy/s0").exists()
    assert snake.plan(finished, "train", *LONGER) == {"train_policy moc/policy"}


def test_interrupt_by_the_user(finished: Path) -> None:
    """Ctrl-C reaches snakemake and its jobs: both end, no lock stays behind."""
    # a suite started in the background ignores Ctrl-C, and so would its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with running(finished, "train", "--cores", "1", *LONGER) as process:
        wait(lambda: jobs_in(finished), snake.PATIENCE, "job")
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        for job in jobs_in(finished):
            os.kill(job, signal.SIGINT)
        assert process.wait(timeout=snake.PATIENCE) == 1
        wait(lambda: not jobs_in(finished), GRACE, "end of the job")
    assert not list((finished / ".snakemake" / "locks").glob("*"))
    assert snake.plan(finished, "train", *LONGER) == {"train_policy moc/policy"}
