"""Goes on after a crash: removes Snakemake's lock once no Snakemake process works in the folder any more.

A killed Snakemake leaves its lock behind, and jobs that notice its death within a second (moa/job/process.py).
Processes on other machines that share the folder cannot be seen from here.
"""

import shutil
import sys
import time
from pathlib import Path

import psutil

from moa.errors import MoaError
from moa.store import terminal

NOTHING = "nothing to unlock"
ORPHAN_SECONDS = 30.0  # a job that is still importing its libraries dies when it has done so


def locks(folder: Path) -> list[Path]:
    """Return the lock files that some Snakemake left in `folder`."""
    return sorted((folder / ".snakemake" / "locks").glob("*.lock"))


def _working(folder: Path, mark: str) -> list[int]:
    """Return the ids of processes that work in `folder` and have an argument which is `mark` or a module below it.

    This process and its ancestors (make, the shell, Snakemake itself at parse) do not count.
    """
    here = folder.resolve()
    own = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        arguments = process.info["cmdline"] or []
        if process.info["pid"] in own or not any(Path(a).name == mark or a.startswith(mark + ".") for a in arguments):
            continue
        try:
            if Path(process.cwd()) == here and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.info["pid"])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # ended meanwhile, or another user's
    return found


def unlock(folder: Path) -> str:
    """Remove a stale lock and what dead jobs left half-written; return what was done.

    Raises:
        MoaError: a Snakemake process, or a job of one, still works in `folder`; the message names its id.
    """
    alive = _working(folder, "snakemake")
    if alive:
        raise MoaError(
            f"snakemake (process {alive[0]}) works in {folder.resolve()}; wait for it, or end it with: kill -INT"
            f" {alive[0]}"
        )
    deadline = time.monotonic() + ORPHAN_SECONDS
    while (jobs := _working(folder, "moa.stages")) and time.monotonic() < deadline:
        time.sleep(0.2)
    if jobs:
        raise MoaError(
            f"a job (process {jobs[0]}) still works in {folder.resolve()}; wait for it, or end it with: kill {jobs[0]}"
        )
    stale = locks(folder)
    for path in stale:
        path.unlink(missing_ok=True)
    left = [path for path in (folder / "results").rglob(".*.tmp") if path.exists()]
    for path in left:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = [f"removed the lock of a snakemake that is gone ({len(stale)} files)"] if stale else []
    done += [f"removed {len(left)} half-written outputs"] if left else []
    return "; ".join(done) or NOTHING


def warn_of_stale_lock(folder: Path) -> None:
    """Say before Snakemake's own, longer message that `moa unlock` mends a lock whose owner is dead."""
    if locks(folder) and not _working(folder, "snakemake") and "--unlock" not in sys.argv:
        terminal.note(
            "A snakemake that is gone left its lock here. Remove it with:  moa unlock   (finished outputs are kept)"
        )
