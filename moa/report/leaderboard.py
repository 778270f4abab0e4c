"""The leaderboard on the console: one line per method, read from results.duckdb."""

import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moa.errors import MoaError, nearest
from moa.report.summary import rows_of
from moa.report.words import figure
from moa.store.sql import reading, visible

QUERY = """
    SELECT task, method, hypervolume, low, high, hypervolume_readable, tau, tau_bound, kl, points, degenerate, prompts,
        seeds, models, seconds
    FROM leaderboard ORDER BY task, hypervolume_readable DESC, method
"""
WIDTH = 150  # where there is no terminal to ask
HEADINGS = (
    "method",
    "hypervolume",
    "95 % interval",
    "readable",
    "tau",
    "KL",
    "points",
    "degenerate",
    "prompts",
    "seeds",
    "policies",
    "training",
)


def rows(database: Path) -> dict[str, list[tuple[str, ...]]]:
    """Return, by task, one tuple of cells per method, best hypervolume of readable points first."""
    with reading(database) as connection:
        found = rows_of(connection, QUERY)
    tasks: dict[str, list[tuple[str, ...]]] = {}
    for row in found:
        cells = (
            row["method"],
            figure(row["hypervolume"]),
            f"{figure(row['low'])} .. {figure(row['high'])}",
            figure(row["hypervolume_readable"]),
            _tau(row["tau"], row["tau_bound"], row["points"]),
            "-" if row["kl"] is None else f"{row['kl']:.2f}",
            str(row["points"]),
            f"{row['degenerate']:g}",
            str(row["prompts"]),
            str(row["seeds"]),
            f"{row['models']:g}",
            f"{row['seconds']:.0f} s",
        )
        tasks.setdefault(row["task"], []).append(cells)
    return tasks


def _tau(tau: float | None, bound: float | None, points: int) -> str:
    if tau is not None:
        return f"{tau:.3f}" if bound is None or bound == 1 else f"{tau:.3f} of {bound:.3f}"
    return "not steerable" if points == 1 else "too few points"


def show(database: Path, index: Path, task: str | None = None) -> None:
    """Print the leaderboard of `task`, or of every task, and where the report is.

    Raises:
        MoaError: there is no database yet, or it does not hold the task.
    """
    tasks = rows(database)
    if task is not None and task not in tasks:
        raise MoaError(f"{database}: no task '{task}'.{nearest(task, tasks)}")
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for name in [task] if task is not None else tasks:
        scale = "hypervolume on the normalised scale (readable: without degenerate points), best first"
        table = Table(
            title=Text(f"{visible(name)}: {scale}"),
            box=box.SIMPLE,
            title_justify="left",
        )
        longest = max(len(visible(cells[0])) for cells in tasks[name])
        table.add_column(HEADINGS[0], min_width=longest)  # a name cut short names nothing
        for heading in HEADINGS[1:]:
            table.add_column(heading, justify="right")
        for cells in tasks[name]:
            table.add_row(*(Text(visible(cell)) for cell in cells))
        console.print(table)
    if index.exists():
        console.print(f"Report: {index.resolve()}", soft_wrap=True, highlight=False, markup=False)
