"""Full disks: a small tmpfs where it may be mounted, and a limit on the size of files everywhere.

Every job is tried on a disk that is full before its last output is whole. It must say so in one line and leave nothing
torn. With space again, the same job must give the right results.
"""

import os
import resource
import shutil
import signal
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults import compare
from benchmarks.faults.kills import Attempt, sweep, torn
from benchmarks.faults.trial import TRACE, End, Place, Trial, Verdict
from benchmarks.faults.world import Command, World, remove_outputs, repeat, write_inputs

HOW = "one job in a fork on a tmpfs that is nearly full, or under a limit on file sizes; then again with space"
WORDS = ("no space left", "free some space")
MARGINS = (0.0, 0.3, 0.7, 0.95)  # of what the job writes, free before it begins
PAGE = 4096


def mountable() -> bool:
    """Return whether this user may mount a tmpfs."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    folder = Path("/tmp") / f"moa-faults-mount-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True)
    if done.returncode == 0:
        subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()
    return done.returncode == 0


def mount(stack: ExitStack, folder: Path) -> None:
    """Mount a tmpfs on the folder until the stack ends."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512m", "none", str(folder)], check=True)
    stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=False)


def resize(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def used(folder: Path) -> int:
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def size(folder: Path, command: Command) -> int:
    """Return the bytes of a command's outputs, in whole pages."""
    found = 0
    for output in command.outputs:
        path = folder / output
        for part in path.rglob("*") if path.is_dir() else [path]:
            found += -(-part.stat().st_size // PAGE) * PAGE if part.is_file() else 0
    return found


@dataclass(frozen=True)
class Disk:
    """One job without space."""

    world: World
    command: Command
    margin: float
    mounted: bool

    def __call__(self, place: Place) -> Verdict:
        writes = size(self.world.right(self.command), self.command)
        with ExitStack() as stack:
            if self.mounted:
                mount(stack, place.folder)
            self.world.copy(place.folder)
            end = self._without_space(place, int(writes * self.margin))
            first = self._judge(end, place)
            if self.mounted:
                resize(place.folder, 2**29)
            again = repeat(self.command, place)
            different = self.world.differences(self.command, place.folder) if again.status == 0 else ["it failed again"]
        said = f"{first or 'one line'}: {end.complaint[:200]}; then {again.complaint[:200] or 'went on'}"
        wrong = first or ("; ".join(different) and "not mended by space")
        outcome = "recovered" if not wrong else "unclear"
        return Verdict(not wrong, not different, outcome, said, "; ".join(different[:6]))

    def _without_space(self, place: Place, free: int) -> End:
        if self.mounted:
            remove_outputs(self.command, place.folder)
            resize(place.folder, used(place.folder) + free // PAGE * PAGE)
            return repeat(self.command, place)

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does by itself
            largest = max(1, free // 2)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

        return repeat(self.command, place, limit)

    def _judge(self, end: End, place: Place) -> str:
        if broken := torn(place.folder):
            return f"torn {broken[0]}"
        if end.status == 0:
            different = self.world.differences(self.command, place.folder)
            return f"status 0, but {different[0]}" if different else ""
        return end.unclear(*WORDS)


@dataclass(frozen=True)
class Whole:
    """A whole run on a tmpfs that is full at a random moment, and then is not."""

    world: World

    def __call__(self, place: Place) -> Verdict:
        total = sum(p.stat().st_size for p in (self.world.folder / "results").rglob("*") if p.is_file())
        with ExitStack() as stack:
            mount(stack, place.folder)
            write_inputs(place.folder)
            resize(place.folder, 200 * 1024 + int(total * place.random.uniform(0.1, 0.9)))
            statuses, outputs = [], []
            for attempt_size in (0, 2**29, 2**29):
                if attempt_size:
                    resize(place.folder, attempt_size)
                attempt = Attempt(self.world, place.folder)
                try:
                    why = attempt.end()
                finally:
                    sweep(attempt.process)
                statuses.append(attempt.process.returncode)
                outputs.append(attempt.output)
            different = compare.differences(self.world.folder / "results", place.folder / "results")
        first = outputs[0]
        wrong = why
        if statuses[0] == 0:
            wrong = ""  # the disk sufficed
        elif TRACE in first:
            wrong = "a trace: " + first[first.rfind(TRACE) :][-300:]
        elif not any(words in first for words in WORDS):
            wrong = "it does not say that the disk is full"
        if statuses[-1]:
            wrong = f"status {statuses[-1]} with space: {outputs[-1][-300:]}"
        survived = not wrong and not different
        return Verdict(survived, not different, "recovered" if survived else "unclear", wrong, "; ".join(different[:6]))


def trials(world: World) -> list[Trial]:
    """Return a trial per job, way and margin, and a whole run."""
    tmpfs = mountable()
    found: list[tuple[str, Disk | Whole]] = []
    for command in world.commands:
        if command.stage == "moa":
            continue
        for i, margin in enumerate(MARGINS):
            mounted = tmpfs and i % 2 == 0
            what = "tmpfs" if mounted else "limit on file sizes"
            found.append(
                (
                    f"{command.stage} {command.row}, {what}, {margin:.0%} of its output free",
                    Disk(world, command, margin, mounted),
                )
            )
    if tmpfs:
        found.append(("a whole run on a tmpfs", Whole(world)))
    return [Trial("disk", i, what, HOW, trial) for i, (what, trial) in enumerate(found)]
