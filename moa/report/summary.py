"""A task's results as Markdown tables: leaderboard, payoff, time per stage. `moa summary` prints them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from moa.errors import MoaError, nearest
from moa.report.markdown import table
from moa.report.words import figure
from moa.store import sql

LEADERBOARD = """
SELECT method, hypervolume, low, high, hypervolume_readable AS readable, tau_bound, kl, points, prompts, seeds, models,
    seconds, tokens
FROM leaderboard WHERE task = $task ORDER BY hypervolume_readable DESC, method
"""
TAUS = """
SELECT objective, avg(value) AS tau, avg(low) AS low, avg(high) AS high FROM metrics
WHERE task = $task AND method = $method AND metric = 'tau' AND objective <> 'all' AND value IS NOT NULL
GROUP BY objective ORDER BY objective
"""
PAYOFF = (
    "SELECT policy, objective, avg(normalised) AS normalised, avg(loss) AS loss FROM payoff WHERE task = $task GROUP BY"
    " ALL ORDER BY policy, objective"
)
STAGES = """
SELECT stage, count(*) AS jobs, sum(seconds) AS seconds, sum(cpu_seconds) AS cpu, sum(tokens) AS tokens,
    max(peak_memory) AS memory
FROM costs WHERE task = $task GROUP BY stage ORDER BY min(list_position(
    ['prompts', 'rewards', 'text_scores', 'base', 'reference_scores', 'train', 'generate', 'score'], stage))
"""


def rows_of(connection: duckdb.DuckDBPyConnection, query: str, **values: str) -> list[dict[str, Any]]:
    found = connection.execute(query, values)
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def interval(row: dict[str, Any], value: str, digits: int) -> str:
    return f"{row[value]:.{digits}f} ({row['low']:.{digits}f} to {row['high']:.{digits}f})"


def taus(connection: duckdb.DuckDBPyConnection, task: str, row: dict[str, Any]) -> str:
    """Return tau per objective with its interval, and the most that ties among the weights allow."""
    found = [
        f"{t['objective']} {interval(t, 'tau', 2)}" for t in rows_of(connection, TAUS, task=task, method=row["method"])
    ]
    if not found:
        return "not steerable" if row["points"] == 1 else "too few points"
    ties = row["tau_bound"] is not None and row["tau_bound"] < 1
    return ", ".join(found) + (f"; at most {row['tau_bound']:.2f}" if ties else "")


def leaderboard(connection: duckdb.DuckDBPyConnection, task: str) -> str:
    """Return the leaderboard with hypervolume, tau per objective, n and cost."""
    lines = []
    for row in rows_of(connection, LEADERBOARD, task=task):
        figures = [f"{row[name]:.0f}" for name in ("points", "prompts", "seeds", "models")]
        kl = "-" if row["kl"] is None else f"{row['kl']:.2f}"
        volume = f"{figure(row['hypervolume'])} ({figure(row['low'])} to {figure(row['high'])})"
        steered = taus(connection, task, row)
        lines.append(
            [
                row["method"],
                volume,
                figure(row["readable"]),
                steered,
                kl,
                *figures,
                f"{row['seconds']:.0f}",
                f"{row['tokens']:,.0f}",
            ]
        )
    return table(
        [
            "method",
            "hypervolume",
            "readable",
            "tau",
            "KL",
            "points",
            "prompts",
            "seeds",
            "models",
            "training s",
            "training tokens",
        ],
        lines,
    )


def payoff(connection: duckdb.DuckDBPyConnection, task: str) -> str:
    """Return the payoff table, normalised, with each policy's loss on the others' objectives."""
    cells = {
        (r["policy"], r["objective"]): f"{r['normalised']:.3f} ({r['loss']:+.3f})"
        for r in rows_of(connection, PAYOFF, task=task)
    }
    if not cells:
        return "No single-objective policies in this run."
    objectives = sorted({objective for _, objective in cells})
    policies = [*objectives, "reference"]
    return table(["policy", *objectives], [[p, *(cells.get((p, o), "-") for o in objectives)] for p in policies])


def stages(connection: duckdb.DuckDBPyConnection, task: str) -> str:
    """Return seconds, tokens and memory per stage."""
    lines = [
        [r["stage"], str(r["jobs"]), f"{r['seconds']:.0f}", f"{r['cpu']:.0f}", f"{r['tokens']:,}", f"{r['memory']:.0f}"]
        for r in rows_of(connection, STAGES, task=task)
    ]
    return table(["stage", "jobs", "wall-clock s", "CPU s", "tokens", "peak MiB"], lines)


def summary(database: Path, task: str | None = None) -> str:
    """Return all tables of a task; without one those of every task, each under its name."""
    with sql.reading(database) as connection:
        known = [r["task"] for r in rows_of(connection, "SELECT task FROM runs ORDER BY task")]
        if task is not None:
            return _tables(connection, choose(database, task, known))
        return "\n\n".join(f"## {name}\n\n{_tables(connection, name)}" for name in known)


def choose(database: Path, task: str | None, known: Sequence[str]) -> str:
    """Return the task, or the only one of `known`; a MoaError says which there are."""
    if task is None and len(known) == 1:
        return known[0]
    if task is None:
        raise MoaError(f"{database}: {len(known)} tasks, name one: {', '.join(known) or 'there is none yet'}")
    if task not in known:
        raise MoaError(f"{database}: no task '{task}'.{nearest(task, known)}")
    return task


def _tables(connection: duckdb.DuckDBPyConnection, task: str) -> str:
    parts = [
        leaderboard(connection, task),
        "Payoff, normalised (loss against the objective's own policy):",
        payoff(connection, task),
        stages(connection, task),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":  # a command until 0.1
    raise SystemExit("error: write: moa summary")
