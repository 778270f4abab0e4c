"""What shows, draws, compares and queries the results of runs."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from moa.errors import MoaError
from moa.store.limits import MEMORY, SECONDS, Limits
from moa.store.terminal import say

DATABASE = Path("results/results.duckdb")
INDEX = Path("reports/index.html")
Database = Annotated[Path, typer.Option(help="the database that a run built")]
Task = Annotated[str | None, typer.Argument(help="one task; all without it")]


def leaderboard(task: Task = None, database: Database = DATABASE) -> None:
    """Print the leaderboard and where the report is."""
    from moa.report.leaderboard import show

    show(database, INDEX, task)


def summary(task: Task = None, database: Database = DATABASE) -> None:
    """Print leaderboard, payoff and costs as Markdown tables."""
    from moa.report.summary import summary

    say(summary(database, task))


def figure(
    task: Annotated[str | None, typer.Argument(help="the task; may be left out where there is one")] = None,
    out: Annotated[Path | None, typer.Option(help="the file; <task>.svg without it")] = None,
    database: Database = DATABASE,
) -> None:
    """Write a task's front as an SVG file."""
    from moa.report.front import write

    say(f"{write(database, task, out)} written")


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="an archive's folder, or a database")] = DATABASE,
    b: Annotated[Path | None, typer.Argument(metavar="[B]", help="where the other row stands; A without it")] = None,
    row: Annotated[str | None, typer.Option(help="one row of A, in detail; all without it")] = None,
    against: Annotated[str | None, typer.Option(help="the other row; the one of the same name in B without it")] = None,
    pool: Annotated[list[Path] | None, typer.Option(help="a further archive of A's; may be repeated")] = None,
    across: Annotated[
        bool, typer.Option("--across", help="the archives are of several bases: differences within each are pooled")
    ] = False,
    unseen: Annotated[
        Path | None, typer.Option(help="experiment file: only preferences whose text its training never showed")
    ] = None,
    task: Annotated[str | None, typer.Option(help="the task of a database; may be left out where there is one")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="take A's task into this archive first, and compare what it then holds")
    ] = None,
) -> None:
    """Compare rows over seeds: paired differences, equal KL, spread."""
    from moa.experiment.schema import load
    from moa.report import archive
    from moa.report.compare import How, compare
    from moa.report.measured import unseen_by

    if keep is not None and a.is_dir():
        raise MoaError(f"--keep {keep}: {a} is an archive already; give the database of a run")
    first = archive.read(a, task)
    if keep is not None:
        first = archive.keep(first, keep)
        say(f"{keep} holds {len(first.metrics)} metrics and {len(first.points)} points\n")
    mine = [first, *(archive.read(path, task) for path in pool or [])]
    others = [] if b is None else [archive.read(b, task)]
    how = How(across, None if unseen is None else unseen_by(load(unseen)))
    say(compare(mine, others, row=row, against=against, how=how))


def sql(
    statement: Annotated[str, typer.Argument(help='e.g. "FROM leaderboard"')],
    database: Database = DATABASE,
    output: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="csv and json give all rows, unchanged")
    ] = "table",
    memory: Annotated[
        str, typer.Option(help="what the query may take, e.g. 2GB or 50% of the machine's; as much again of disk")
    ] = MEMORY,
    timeout: Annotated[float, typer.Option(help="seconds until it is ended")] = SECONDS,
) -> None:
    """Query the results in SQL: read-only, and no other file."""
    from moa.store.sql import query

    query(database, statement, output, sys.stdout, Limits(memory, timeout))
