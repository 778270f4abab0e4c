"""The trial: the whole experiment at its smallest size, and what each stage took."""

from collections import defaultdict
from pathlib import Path
from statistics import median

import yaml

from moa.ahead import pins, smallest
from moa.experiment.schema import parse
from moa.job import trial
from moa.plan import Plan
from moa.report import words
from moa.store import tables
from moa.store.tables import Row

# Of the stages in their order; evaluation, database and report keep no costs.
STAGES = ("prompts", "rewards", "text_scores", "base", "reference_scores", "train", "generate", "score")
STEPWISE = ("ppo", "grpo")  # trainers that take ppo.steps steps and note each one's seconds


def run(plan: Plan, where: str) -> list[str]:
    """Run the trial of a plan in the working folder; return what is to be said of it.

    The trial's folder is removed when it ends well, and kept, logs in it, when a job failed.

    Raises:
        MoaError: a job failed; its own message, or the end of its log.
    """
    here = Path.cwd()
    pins.commits(plan, where)  # the trial obeys the lock of this folder
    reduced, left_out = smallest.smallest(plan.experiment)
    written = smallest.absolute(reduced.model_dump(mode="json"), here)
    small = Plan(parse(written, f"{where} (trial)"), f"{where} (trial)")
    task = plan.experiment.task
    place = trial.run(here, task, yaml.safe_dump(written, sort_keys=False), trial.say)
    results = place / "results" / task
    costs = [row for path in sorted((results / "costs").rglob("*.parquet")) for row in read(tables.COSTS, path)]
    curves = [row for path in sorted((results / "curves").rglob("*.parquet")) for row in read(tables.CURVES, path)]
    trial.remove(place)
    said = [f"{where}: the trial went through all stages; what each took:", *table(costs), *scaled(plan, costs, curves)]
    said += [f"row {row} answers from a file of responses, and was left out of the trial" for row in left_out]
    return [*said, not_extrapolated(plan, small)]


def read(table: tables.Table, path: Path) -> list[Row]:
    """Return a table's rows."""
    rows: list[Row] = tables.read(table, path).to_pylist()
    return rows


def table(costs: list[Row]) -> list[str]:
    """Return lines of a table: stage, jobs, seconds of all, seconds of the longest, peak memory."""
    rows = [("stage", "jobs", "seconds", "longest", "peak memory")]
    for stage in STAGES:
        jobs = [row for row in costs if row["stage"] == stage]
        if jobs:
            seconds = [row["seconds"] for row in jobs]
            memory = max(row["peak_memory"] for row in jobs)
            rows.append((stage, str(len(jobs)), f"{sum(seconds):.1f}", f"{max(seconds):.1f}", f"{memory:,.0f} MiB"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def stepwise(plan: Plan) -> list[str]:
    """Return the rows whose policies take `ppo.steps` steps, each of which notes its seconds."""
    return [row for row, method in plan.rows.items() if method.trainer in STEPWISE and policies(plan, row)]


def policies(plan: Plan, row: str) -> int:
    """Return how many policies of its own a row trains for a seed."""
    return sum(own == row for own, _ in plan.policies)


def scaled(plan: Plan, costs: list[Row], curves: list[Row]) -> list[str]:
    """Return what the full run's training takes by this trial, for rows whose steps are those of the shared loop.

    A policy takes its steps' median, without the first, times the steps of the run, and what its job took besides.
    Batches are those of the run, so a step costs what it will cost; later steps may write longer responses.
    """
    steps: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for row in curves:
        if row["quantity"] == "seconds":
            steps[row["method"], row["policy"]].append(row["value"])
    jobs = {(row["method"], row["job"]): row["seconds"] for row in costs if row["stage"] == "train"}
    asked, seeds = plan.experiment.ppo.steps, len(plan.experiment.run.seeds)
    lines, total = [], 0.0
    for name in stepwise(plan):
        tried = [key for key in jobs if key[0] == name and steps[key]]
        if not tried:
            continue
        step = median(median(steps[key][1:] or steps[key]) for key in tried)
        besides = median(jobs[key] - sum(steps[key]) for key in tried)
        each = asked * step + max(0.0, besides)
        total += each * policies(plan, name) * seeds
        lines.append(
            f"  {name}: {step:.2f} s per step; {asked} steps instead of {len(steps[tried[0]])}: about"
            f" {words.seconds(each)} per policy, {policies(plan, name)} x {seeds} seeds"
        )
    if not lines:
        return []
    return [
        "training in the full run, as far as steps tell:",
        *lines,
        f"  together about {words.seconds(total)}, one job after another",
    ]


def not_extrapolated(plan: Plan, small: Plan) -> str:
    """Return what costs do not scale with steps, with how much of it the trial did."""
    full, few = plan.experiment, small.experiment
    answers = len(plan.evaluation) * full.data.evaluation_prompts * full.generation.samples
    tried = set(stepwise(small))
    rows = [row for row in plan.rows if policies(plan, row) and row not in tried]
    return (
        f"not extrapolated: fine-tuning ({few.data.texts} of {full.data.texts} texts), answers"
        f" ({len(small.evaluation) * few.data.evaluation_prompts} of {answers} per row and seed)"
        + (f", training of {', '.join(rows)}" if rows else "")
    )
