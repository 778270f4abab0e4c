"""The fault campaign: kills, damaged and hostile files, hostile SQL, full disks, rewards that fail.

    python -m benchmarks.faults --minutes 60 --page docs/reliability.md

It prints a table of what was tried, what survived, and whether the results' bytes were those of an undisturbed run.
Rows go to a Parquet file beside this script. `--only damaged-17` with the same seed repeats one trial; `--work` keeps
the finished runs that the trials begin from, so that a repetition is quick. Exit status 1: something failed.
"""

import argparse
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.faults import (
    damaged,
    disk,
    hostile_data,
    hostile_experiments,
    hostile_models,
    kills,
    page,
    rewards,
    statements,
    world,
)
from benchmarks.faults.trial import Place, Trial, Verdict, row

OUT = Path(__file__).with_name("faults.parquet")
# Threads and libraries as jobs have them; forks inherit what is imported here.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false")
os.environ.pop("MOA_PARENT", None)
# Groups in their order, and the share of the time that each has where it does not suffice for all; what a group leaves
# is for the next ones.
SHARES = {
    "kills": 0.7,
    "sql": 0.05,
    "experiments": 0.03,
    "data": 0.02,
    "models": 0.05,
    "damaged": 0.05,
    "own": 0.02,
    "rewards": 0.04,
    "disk": 0.04,
}
KINDS = {  # whose group is not their own name
    "kill": "kills",
    "statement": "sql",
    "reward": "rewards",
    "checkpoint": "damaged",
    "damaged-own": "own",
    "hostile-experiment": "experiments",
    "hostile-data": "data",
    "hostile-model": "models",
}
LIGHT = ("moa.cli", "moa.plan", "moa.store.sql", "moa.respond")
HEAVY = (
    *(f"moa.stages.{name}" for name in world.OUTPUTS),
    *(f"moa.rewards.{name}" for name in ("classifier", "conciseness", "linear", "python", "transformer", "vader")),
    "moa.trainers.ppo",
)


class Campaign:
    """The trials of each group, and where they work."""

    def __init__(self, work: Path, seed: int, runs: int) -> None:
        self.work, self.seed, self.runs = work, seed, runs
        self.main: Callable[[], world.World] = cache(lambda: world.main_world(work))
        self.models: Callable[[], world.World] = cache(lambda: world.models_world(work))

    def trials(self, group: str) -> list[Trial]:
        """Return a group's trials in the order of their numbers."""
        match group:
            case "sql":
                return statements.trials(self.main())
            case "experiments":
                return hostile_experiments.trials()
            case "data":
                return hostile_data.trials(self.models())
            case "models":
                return hostile_models.trials(self.models())
            case "damaged":
                return damaged.trials(self.main())
            case "own":
                return damaged.own_trials(self.models())
            case "rewards":
                return rewards.trials(self.main())
            case "disk":
                return disk.trials(self.main())
        return kills.trials(self.main(), self.seed, self.runs)

    def run(self, trial: Trial) -> Mapping[str, Any]:
        """Run a trial in a folder of its own, which goes when it survives."""
        folder = self.work / "trials" / trial.name
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove(folder)
        folder.mkdir()
        began = time.perf_counter()
        place = Place(folder, random.Random(f"{self.seed} {trial.name}"))
        try:
            verdict = trial.run(place)
        except Exception as error:  # of the campaign itself: the others go on
            verdict = Verdict(False, None, "the campaign failed", f"{type(error).__name__}: {error}"[:600])
        if verdict.survived:
            _remove(folder)
        return row(trial, self.seed, verdict, time.perf_counter() - began)


def _remove(folder: Path) -> None:
    """Remove a trial's folder, and its output, input and attempts beside it."""
    for left in [folder, *folder.parent.glob(f"{folder.name}.*")]:
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink(missing_ok=True)


def preload(groups: Sequence[str]) -> None:
    """Import what the jobs of these groups import, once for all forks."""
    for name in (*LIGHT, *(HEAVY if {*groups} - {"sql", "kills", "experiments"} else ())):
        importlib.import_module(name)


def show(found: Mapping[str, Any]) -> None:
    """Print a trial that failed, and how to repeat it."""
    if found["survived"]:
        return
    name = f"{found['kind']}-{found['number']}"
    said = " | ".join(filter(None, (found["outcome"], found["said"], found["differed"])))
    print(f"FAILED {name} ({found['what']}): {said}", flush=True)


def campaign(given: argparse.Namespace, work: Path) -> list[Mapping[str, Any]]:
    """Run what was asked for within its time."""
    tried = Campaign(work, given.seed, given.kill_runs)
    preload([*map(group_of, given.only)] if given.only else given.groups)
    if given.only:
        known = {t.name: t for group in dict.fromkeys(map(group_of, given.only)) for t in tried.trials(group)}
        if missing := [name for name in given.only if name not in known]:
            sys.exit(f"error: --only {missing[0]}: no such trial")
        return [tried.run(known[name]) for name in given.only]
    shares = {group: share for group, share in SHARES.items() if group in given.groups}
    every = {group: tried.trials(group) for group in shares}  # the finished runs are made here, before the clock
    rows: list[Mapping[str, Any]] = []
    began, passed = time.perf_counter(), 0.0
    for group, trials in every.items():
        passed += shares[group]
        ends = began + given.minutes * 60 * passed / sum(shares.values())
        random.Random(given.seed).shuffle(trials)
        done, started = 0, time.perf_counter()
        for trial in trials[: given.most]:
            now = time.perf_counter()
            if now + (now - started) / max(1, done) > ends:  # one like those before would take of the next group's time
                break
            rows.append(tried.run(trial))
            show(rows[-1])
            done += 1
        print(f"{group}: {done} of {len(trials)} trials, {_minutes(began)} since the first", flush=True)
    return rows


def _minutes(began: float) -> str:
    return f"{(time.perf_counter() - began) / 60:.1f} minutes"


def group_of(name: str) -> str:
    """Return the group of a trial's kind."""
    kind = name.rpartition("-")[0]
    return KINDS.get(kind, kind)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; the status is 1 where something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="that the trials may take, all together")
    parser.add_argument("--seed", type=int, default=0, help="decides what is drawn")
    parser.add_argument("--only", nargs="+", help="repeat trials, e.g. damaged-17")
    parser.add_argument("--groups", nargs="*", choices=list(SHARES), default=list(SHARES))
    parser.add_argument("--most", type=int, help="trials per group")
    parser.add_argument("--kill-runs", type=int, default=16, help="runs that are killed, each some 25 times")
    parser.add_argument("--work", type=Path, help="folder that keeps the finished runs; a temporary one without it")
    parser.add_argument("--out", type=Path, help=f"the rows; {OUT.name} beside this script without it")
    parser.add_argument("--page", type=Path, help="document whose table is written anew")
    parser.add_argument("--from", dest="rows", nargs="+", type=Path, help="no trials: the table of these files of rows")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: ended from outside"))  # else runs would be left behind
    if given.rows:
        rows = [row for path in given.rows for row in pq.read_table(path).to_pylist()]
    else:
        print(f"seed {given.seed}", flush=True)
        with ExitStack() as ending:
            work = given.work or Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="moa-faults-")))
            work.mkdir(parents=True, exist_ok=True)
            rows = campaign(given, work.resolve())
        if given.only:
            print(*rows, sep="\n")
    if out := given.out or (None if given.only or given.rows else OUT):
        pq.write_table(pa.Table.from_pylist(rows, schema=page.SCHEMA), out)
    print(page.table(rows))
    if given.page:
        page.write(given.page, rows)
    return int(not all(r["survived"] for r in rows))


if __name__ == "__main__":
    sys.exit(main())
