"""What begins, checks and runs an experiment."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli.results import DATABASE, INDEX
from moa.job import start as begin
from moa.store.terminal import say

if TYPE_CHECKING:
    from moa.plan import Plan


def init(
    file: Annotated[Path, typer.Argument(help="the experiment file to write")] = Path("mine.yaml"),
    source: Annotated[str, typer.Option("--from", help=f"what to begin from: {', '.join(begin.experiments())}")] = (
        begin.DEFAULT
    ),
) -> None:
    """Write a commented experiment file; an existing one is kept."""
    begin.init(file, source)
    say(f"{file} written. Edit it, then:  moa check {file}  and  moa run {file}")


def check(
    experiments: Annotated[list[Path], typer.Argument(help="experiment files")],
    trial: Annotated[
        bool, typer.Option("--trial", help="then run all at the smallest size, in .moa/trial, and say what it took")
    ] = False,
) -> None:
    """Validate experiment files and the local things they name.

    Data, labels, functions, models' files and token counts are looked at, every mistake is named, and what each file
    would train and load is said; nothing is trained. With --trial every stage and row then runs with three steps, four
    prompts and a preference per objective, on the real models, rewards and data, and leaves results as they are.
    """
    from moa.ahead.check import check
    from moa.ahead.trial import run

    for experiment in experiments:
        plan = _describe(experiment)
        for line in check(plan, str(experiment)):
            say(f"  {line}")
        if trial:
            for line in run(plan, str(experiment)):
                say(line)


def run(
    experiment: Annotated[Path, typer.Argument(help="experiment file")],
    arguments: Annotated[list[str] | None, typer.Argument(help="Snakemake's, e.g. -n, --cores 2, train")] = None,
) -> None:
    """Run an experiment here; after a crash the same command goes on."""
    from moa.job.unlock import NOTHING, unlock

    begin.check(experiment, arguments or [])
    planned = begin.plans_only(arguments or [])
    if not planned and (done := unlock(Path())) != NOTHING:
        say(done)
    status = begin.run(experiment, arguments or [])
    if status:
        raise typer.Exit(status)
    if DATABASE.exists() and not planned:
        from moa.report.leaderboard import show

        show(DATABASE, INDEX)


def unlock() -> None:
    """Remove the lock of a Snakemake that is gone."""
    from moa.job.unlock import unlock

    say(unlock(Path()))


def _describe(path: Path) -> "Plan":
    from moa.experiment import schema
    from moa.plan import Plan

    experiment = schema.load(path)
    plan = Plan(experiment, str(path))
    say(
        f"{path}: task '{experiment.task}', objectives {', '.join(experiment.objectives)}, {len(plan.evaluation)}"
        " evaluation preferences"
    )
    for row in plan.rows:
        lends = "" if row in experiment.run.methods else "  (only lends policies)"
        names = ", ".join(p.name if p.row == row else f"{p.row}/{p.name}" for p in plan.policies_of(row))
        say(f"  {row}: {names or 'nothing to train'}{lends}")
    if experiment.model.sft is None and any(plan.rows[row].conditioned for row in experiment.run.methods):
        say(
            "  note: model.sft is null, so nothing teaches the model to read preferences before training; conditioned"
            " rows learn it from rewards alone"
        )
    trained = plan.trained_rewards(judges=True)
    say(
        f"  trains {len(plan.policies)} policies for each of {len(experiment.run.seeds)} seeds"
        + (f", and the rewards {', '.join(trained)}" if trained else "")
    )
    return plan
