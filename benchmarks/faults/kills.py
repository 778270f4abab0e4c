"""Random kills: a run from an empty folder is killed several times, in every stage, and goes on by the same command.

At its end every result is compared byte for byte with an undisturbed run. After every kill all tables that are there
must be whole, and no job may outlive its Snakemake for long.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.faults import compare
from benchmarks.faults.trial import TRACE, Place, Trial, Verdict, end_group
from benchmarks.faults.world import World, environment, remove_outputs, run_command

HOW = "moa run from an empty folder, killed several times at random moments, each time the same command again"
STAGES = (
    *("rewards", "prompts", "texts", "base", "reference", "train", "best_of_n", "generate", "score"),
    *("evaluate", "manifest", "warehouse", "report"),
)
WAYS = (
    *("KILL group", "KILL group", "KILL job", "KILL job", "KILL snakemake", "KILL snakemake"),
    *("TERM snakemake", "TERM group", "TERM job", "INT group", "TERM moa"),
    *("KILL moa", "KILL moa", "KILL moa"),  # two kills: its Snakemake is left alone, and is killed, too
    *("KILL warm", "KILL warm", "KILL fork", "KILL fork"),
)
ROLES = {"snakemake": "snakemake", "moa.cli": "moa", "moa.job.warm": "warm"}
PER_RUN = (20, 30)  # least and most kills of one run: beginning anew is what takes time
UNDONE = ("best_of_n", "generate", "score", "manifest", "evaluate")  # a run that is whole loses one's files
REACH = 0.6  # of the kills are in a named stage, the others anywhere
LONG = ("base", "reference", "train", "best_of_n", "generate")  # they load torch
# A kill comes so late at most after its stage, or the command, began: shares of the undisturbed run's seconds.
WINDOWS = {"long": 0.08, "short": 0.03, "any": 0.1}
PATIENCE = 900.0  # seconds of one attempt
ORPHANS = 30.0  # seconds that a job may outlive its Snakemake
ATTEMPTS = 4  # of the same command after the last kill


@dataclass(frozen=True)
class Kill:
    """One kill: which signal to whom, in which stage ('' anywhere), and when, from 0 to 1 in its window."""

    way: str
    stage: str
    moment: float

    def __str__(self) -> str:
        return f"{self.way} in {self.stage or 'any stage'} at {self.moment:.2f}"

    def after(self, run: float) -> float:
        """Return the seconds after the beginning of the stage, or of the command; `run` seconds is a whole run."""
        window = "any" if not self.stage else "long" if self.stage in LONG else "short"
        return self.moment * WINDOWS[window] * run


def schedule(draw: random.Random, kills: int) -> list[Kill]:
    """Return kills in the order of the stages, some anywhere between."""
    stages = sorted(draw.choices(STAGES, k=kills), key=STAGES.index)
    return [Kill(draw.choice(WAYS), stage if draw.random() < REACH else "", draw.random()) for stage in stages]


def processes(folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """Yield the processes that work in the folder, and what they are: moa, snakemake, warm, its fork, or a stage."""
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        stage = next((a.removeprefix("moa.stages.") for a in arguments if a.startswith("moa.stages.")), "")
        role = stage or next((name for word, name in ROLES.items() if word in arguments), "")
        with suppress(psutil.Error, OSError):
            works_here = role and "-c" not in arguments and Path(process.cwd()) == folder
            if works_here and process.status() != psutil.STATUS_ZOMBIE:
                parent = process.parent() if role == "warm" else None
                yield process, "fork" if parent is not None and "moa.job.warm" in parent.cmdline() else role


class Attempt:
    """One attempt at the run: `moa run`, in a process group of its own."""

    def __init__(self, world: World, folder: Path) -> None:
        self.folder, self.seconds = folder, world.seconds
        # beside the folder, whose disk may be full
        self.log = folder.with_name(f"{folder.name}.attempt-{len(list(folder.parent.glob(f'{folder.name}.a*'))):02d}")
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                run_command(world.experiment),
                cwd=folder,
                env=environment(world.package),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, stage: str) -> bool:
        """Wait until a job of the stage, or of a later one, runs; False where the attempt has ended before."""
        fitting = STAGES[STAGES.index(stage) :] if stage else ()
        ends = time.perf_counter() + PATIENCE
        while self.process.poll() is None and time.perf_counter() < ends:
            if not stage or any(role in fitting for _, role in processes(self.folder)):
                return True
            time.sleep(0.05)
        return False

    def kill(self, kill: Kill) -> str:
        """Send the signal; return what was running, or '' where there was nothing left to kill."""
        if not self.wait_for(kill.stage):
            return ""
        ends = time.perf_counter() + kill.after(self.seconds)
        while time.perf_counter() < ends and self.process.poll() is None:
            time.sleep(0.02)
        name, _, whom = kill.way.partition(" ")
        number = getattr(signal, f"SIG{name}")
        found = list(processes(self.folder))
        running = ", ".join(sorted({role for _, role in found}))
        if self.process.poll() is not None or not found:
            return ""
        if whom == "group":
            os.killpg(self.process.pid, number)
            return running
        some = [p for p, role in found if (role == whom if whom != "job" else role in STAGES)]
        for process in some[:1]:
            with suppress(psutil.Error):
                process.send_signal(number)
        return running if some else ""

    def end(self) -> str:
        """Wait until the attempt and its Snakemake are gone; return what is wrong with how they went."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            return f"hung for {PATIENCE:.0f} s"
        began = time.perf_counter()
        while left := [role for _, role in processes(self.folder)]:
            if time.perf_counter() - began > ORPHANS:
                return f"{', '.join(left)} still runs after {ORPHANS:.0f} s"
            time.sleep(0.1)
        return ""


def alone(world: World, folder: Path, wrong: list[str]) -> list[str]:
    """Kill the Snakemake whose `moa run` is gone; until then the same command must say that it still works.

    Returns the kill in words; what is not right is added to `wrong`.
    """
    time.sleep(0.2)  # a signal is passed on
    left = [p for p, role in processes(folder) if role == "snakemake"]
    if not left:
        return []
    second = Attempt(world, folder)
    with suppress(subprocess.TimeoutExpired):
        second.process.wait(ORPHANS + PATIENCE)
    sweep(second.process)
    if second.process.returncode == 1 and "works in" not in second.output and "running" not in second.output:
        wrong.append(f"a second moa run beside a Snakemake says: {second.output.strip()[-200:]}")
    with suppress(psutil.NoSuchProcess):
        left[0].send_signal(signal.SIGKILL)
        return ["KILL snakemake, left alone"]
    return []


def torn(folder: Path) -> list[str]:
    """Return the tables that cannot be read; whatever stands under its own name must be whole."""
    found = []
    for path in (folder / "results").rglob("*.parquet"):
        if path.name.startswith("."):
            continue
        try:
            pq.read_table(path, use_threads=False, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            found.append(f"{path.name}: {str(error)[:80]}")
    return found


@dataclass(frozen=True)
class Run:
    """One run with its kills."""

    world: World
    kills: tuple[Kill, ...]
    begin: Path | None = None  # a folder whose copy the run begins with; None: the experiment's inputs alone

    def __call__(self, place: Place) -> Verdict:
        folder = place.folder.resolve()
        if self.begin is not None:
            shutil.copytree(self.begin, folder, symlinks=True, dirs_exist_ok=True)
        else:
            for name in self.world.inputs:
                shutil.copy2(self.world.folder / name, folder)
        done: list[str] = []
        wrong: list[str] = []
        for kill in self.kills:
            if self._finished(kill, folder, done, wrong) and self._undo(kill, folder):
                self._finished(kill, folder, done, wrong)
        status, said = self._go_on(folder)
        different = compare.differences(self.world.folder / "results", folder / "results") if status == 0 else []
        different += [f"{p.name} is left over" for p in (folder / "results").rglob(".*.tmp")] if status == 0 else []
        if not (folder / "reports" / "index.html").exists():
            wrong.append("no report at the end")
        if status:
            wrong.append(f"status {status} after {ATTEMPTS} attempts: {said}")
        survived = not wrong and not different
        return Verdict(
            survived,
            not different if status == 0 else None,
            "as undisturbed" if survived else "differs" if different else "failed",
            ("; ".join(wrong) or "; ".join(done))[:3000],
            "; ".join(different[:12]),
            len(done),
        )

    def _finished(self, kill: Kill, folder: Path, done: list[str], wrong: list[str]) -> bool:
        """Attempt the run and kill it; return whether it was at its end before."""
        attempt = Attempt(self.world, folder)
        try:
            running = attempt.kill(kill)
            if running and kill.way == "KILL moa":
                done += alone(self.world, folder, wrong)
            if why := attempt.end():
                wrong.append(f"{kill}: {why}")
        finally:
            sweep(attempt.process)
        if running:
            done.append(f"{kill} ({running})")
        if TRACE in attempt.output and not kill.way.startswith(("TERM", "INT")):
            wrong.append(f"{kill}: a trace in {attempt.log.name}")
        wrong += [f"{kill}: torn {name}" for name in torn(folder)]
        return not running and attempt.process.returncode == 0

    def _undo(self, kill: Kill, folder: Path) -> bool:
        """Remove what a stage has written, so that there is something to kill again; False where no job is known."""
        stage = kill.stage if kill.stage in UNDONE else UNDONE[-1]
        for command in (c for c in self.world.commands if c.stage == stage):
            remove_outputs(command, folder)
            return True
        return False

    def _go_on(self, folder: Path) -> tuple[int, str]:
        """Give the same command until it ends well."""
        for _ in range(ATTEMPTS):
            attempt = Attempt(self.world, folder)
            try:
                why = attempt.end()
            finally:
                sweep(attempt.process)
            status = attempt.process.returncode
            lines = attempt.output.strip().splitlines()
            if status == 0 and not why:
                return 0, ""
        return status or 1, why or " / ".join(lines[-3:])


def sweep(process: "subprocess.Popen[bytes]") -> None:
    """End what is left of an attempt, so that it cannot disturb the next trial; after a failure alone there is any."""
    end_group(process.pid)
    process.wait()


def trials(world: World, seed: int, runs: int) -> list[Trial]:
    """Return runs with several kills each; the first has none: two undisturbed runs must be equal."""
    found = [Run(world, ())]
    for number in range(1, runs + 1):
        draw = random.Random(f"{seed} kills {number}")
        found.append(Run(world, tuple(schedule(draw, draw.randint(*PER_RUN)))))
    return [
        Trial("kill", i, "; ".join(map(str, run.kills)) or "no kill: two undisturbed runs", HOW, run)
        for i, run in enumerate(found)
    ]
