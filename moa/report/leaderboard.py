"""The leaderboard on the console: one line per method, read from results.duckdb."""

import sys
from pathlib import Path

from moa.errors import MoaError, nearest
from moa.report.summary import rows_of
from moa.report.words import figure
from moa.store import terminal
from moa.store.sql import reading

QUERY = """
    SELECT task, method, hypervolume, low, high, hypervolume_readable, tau, tau_bound, kl, points, degenerate, prompts,
        seeds, models, seconds
    FROM leaderboard ORDER BY task, hypervolume_readable DESC, method
"""
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
NEEDED = 4  # of them, where the terminal is narrow


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
    for name in [task] if task is not None else tasks:
        title = f"{name}: hypervolume on the normalised scale (readable: without degenerate points), best first"
        numbers = range(1, len(HEADINGS))
        terminal.show(terminal.Table(HEADINGS, tasks[name], numbers, title, NEEDED), sys.stdout)
    if index.exists():
        terminal.say(f"Report: {index.resolve()}")
