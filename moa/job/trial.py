"""Runs a reduced experiment in a folder of its own, so that the user's results, database and reports are untouched.

The folder, `.moa/trial/<task>/`, holds links to everything of the working folder but what runs write there, so that
relative paths and a user's modules are found as in the run.
"""

import re
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moa.errors import MoaError
from moa.job import start
from moa.job.process import exclusive
from moa.store import terminal

WRITTEN = frozenset({"results", "reports", "logs", ".snakemake", ".moa"})  # by runs; a trial has its own
DONE = re.compile(r"(\d+) of (\d+) steps \(\d+%\) done")
FAILED = re.compile(r"Error in rule (\w+):")
LOG = re.compile(r"    log: (\S+)")
TAIL = 15  # lines of a failed job's log


@dataclass(frozen=True)
class Failure:
    """A job that failed: its rule, and its log."""

    rule: str
    log: Path


def folder(here: Path, task: str) -> Path:
    """Return where a task's trial runs."""
    return here / ".moa" / "trial" / task


def run(here: Path, task: str, experiment: str, tell: Callable[[str], None]) -> Path:
    """Run the workflow on the experiment file with content `experiment`; return the folder, results in it.

    `tell` is called with a line whenever a job has ended.

    Raises:
        MoaError: another trial of the task is running; or a job failed: its rule, and the end of its log.
    """
    place = folder(here, task)
    with exclusive(place.with_name(f"{task}.lock")):
        link(here, place)
        file = place / ".moa" / "trial.yaml"  # beside no link: writing through one would change a file of the user's
        file.parent.mkdir()
        file.write_text(experiment, encoding="utf-8")
        status, failures, last = _snakemake(place, file.relative_to(place), tell)
    if status:
        raise MoaError("\n".join(map(_described, failures)) or f"the trial ended with status {status}: {last}")
    return place


def link(here: Path, place: Path) -> None:
    """Make the folder `place` anew, with links to what stands in `here` and is not written by runs."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for path in here.iterdir():
        if path.name not in WRITTEN:
            (place / path.name).symlink_to(path.absolute())


def _snakemake(place: Path, file: Path, tell: Callable[[str], None]) -> tuple[int, list[Failure], str]:
    """Return Snakemake's status, the jobs that failed, and its last lines."""
    command = start.command(file, ["--nocolor"])
    failures, rule, last = list[Failure](), "", deque[str](maxlen=TAIL)
    with subprocess.Popen(
        command,
        cwd=place,
        env=start.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as child:
        assert child.stderr is not None
        # A terminal sends Ctrl-C to both: Snakemake ends its jobs, and this process waits until it has.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        ended = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        try:
            for line in child.stderr:
                last.append(line.rstrip())
                if done := DONE.search(line):
                    tell(f"trial: {done[1]} of {done[2]} jobs done")
                rule = found[1] if (found := FAILED.search(line)) else rule
                if rule and (named := LOG.match(line)):
                    failures.append(Failure(rule, place / named[1].rstrip(",")))
                    rule = ""
            status = child.wait()
        finally:
            signal.signal(signal.SIGINT, before)
            signal.signal(signal.SIGTERM, ended)
    distinct = list(dict.fromkeys(failures))
    return status, distinct, " | ".join(line for line in last if line)


def _described(failure: Failure) -> str:
    """Return the rule and the job's own mistake, or the end of its log where it ended with a trace."""
    try:
        lines = [line for line in failure.log.read_text(encoding="utf-8", errors="replace").splitlines() if line]
    except OSError:
        lines = []
    what = f"the trial's job {failure.rule} failed"
    mistake = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None)
    if mistake is not None:
        return f"{what}: {mistake} (its log: {failure.log})"
    return "\n".join([f"{what}; the end of {failure.log}:", *lines[-TAIL:]])


def remove(place: Path) -> None:
    """Remove a trial's folder; what its links point to stays."""
    shutil.rmtree(place, ignore_errors=True)


def say(line: str) -> None:
    """Print a line of progress where a person reads it."""
    terminal.note(line)
