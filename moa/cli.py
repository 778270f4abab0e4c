"""The command `moa`: query the results, talk to a policy, check an experiment, go on after a crash.

Heavy libraries are imported by the command that needs them, so that `moa --help` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from moa.errors import MoaError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Multi-objective alignment of language models.",
)

DATABASE = Path("results/results.duckdb")
Database = Annotated[Path, typer.Option(help="the database that `snakemake` built")]


@app.command()
def sql(
    statement: Annotated[str, typer.Argument(help='e.g. "FROM leaderboard"')],
    database: Database = DATABASE,
    output: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="csv and json give all rows, unchanged")
    ] = "table",
) -> None:
    """Query the results; the database is opened read-only and sees no other file."""
    from moa.store.sql import query

    query(database, statement, output, sys.stdout)


@app.command()
def leaderboard(
    task: Annotated[str | None, typer.Argument(help="one task; all without it")] = None,
    database: Database = DATABASE,
) -> None:
    """Print the leaderboard and where the report is."""
    from moa.report.leaderboard import show

    show(database, Path("reports/index.html"), task)


@app.command()
def respond(
    prompt: Annotated[str, typer.Argument(help="what the policy continues or answers")],
    policy: Annotated[
        Path, typer.Option(help="folder of a policy, results/<task>/policies/<row>/<policy>/s<seed>, or of a row")
    ],
    preference: Annotated[str | None, typer.Option(help="e.g. sentiment=0.8,conciseness=0.2")] = None,
    experiment: Annotated[
        Path | None, typer.Option(help="experiment file whose settings replace those of the policy's run")
    ] = None,
) -> None:
    """Talk to a trained policy."""
    from moa.respond import respond
    from moa.store.sql import visible

    answer = respond(policy, prompt, parse_preference(preference), experiment)
    print("\n".join(visible(line) for line in answer.splitlines()))  # a policy may write what a terminal obeys


@app.command()
def check(experiments: Annotated[list[Path], typer.Argument(help="experiment files")]) -> None:
    """Validate experiment files and print what each would train and evaluate."""
    for experiment in experiments:
        _describe(experiment)


@app.command()
def unlock() -> None:
    """Remove the lock that a killed Snakemake left behind, if its process is really gone."""
    from moa.job.unlock import unlock

    print(unlock(Path()))


def _describe(path: Path) -> None:
    from moa.experiment import schema
    from moa.plan import Plan

    experiment = schema.load(path)
    plan = Plan(experiment, str(path))
    print(
        f"{path}: task '{experiment.task}', objectives {', '.join(experiment.objectives)}, {len(plan.evaluation)}"
        " evaluation preferences"
    )
    for row in plan.rows:
        lends = "" if row in experiment.run.methods else "  (only lends policies)"
        names = ", ".join(p.name if p.row == row else f"{p.row}/{p.name}" for p in plan.policies_of(row))
        print(f"  {row}: {names or 'nothing to train'}{lends}")
    if experiment.model.sft is None and any(plan.rows[row].conditioned for row in experiment.run.methods):
        print(
            "  note: model.sft is null, so nothing teaches the model to read preferences before training; conditioned"
            " rows learn it from rewards alone"
        )
    trained = plan.trained_rewards(judges=True)
    print(
        f"  trains {len(plan.policies)} policies for each of {len(experiment.run.seeds)} seeds"
        + (f", and the rewards {', '.join(trained)}" if trained else "")
    )


def parse_preference(text: str | None) -> dict[str, float] | None:
    """Return {'sentiment': 0.8, ...} of 'sentiment=0.8,...'; malformed text is a MoaError."""
    if text is None:
        return None
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, weight = (piece.strip() for piece in part.partition("="))
        try:
            value = float(weight)
        except ValueError:
            value = None
        if not name or not equals or value is None:
            raise MoaError(
                f"--preference {text!r}: expected objective=weight pairs with commas between, e.g."
                " sentiment=0.8,conciseness=0.2"
            )
        if name in found:
            raise MoaError(f"--preference {text!r}: objective '{name}' is given twice")
        found[name] = value
    return found


def main() -> None:
    """Run the command; a mistake ends in one line and status 1."""
    try:
        app()
    except MoaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
