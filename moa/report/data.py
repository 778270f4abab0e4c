"""Reads results.duckdb for the report: named queries from moa/report/queries, and one task's answers put together."""

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import duckdb

from moa.errors import MoaError, nearest
from moa.store.tables import Row as Row

QUERIES = Path(__file__).parent / "queries"


@dataclass(frozen=True)
class Answer:
    """Rows of a query, and the query with its parameters filled in, as `moa sql` takes it."""

    rows: list[Row]
    sql: str


def literal(value: str) -> str:
    """Return `value` as an SQL string."""
    return "'" + value.replace("'", "''") + "'"


def ask(connection: duckdb.DuckDBPyConnection, name: str, **parameters: str) -> Answer:
    """Run queries/report_<name>.sql; `$key` in it stands for a parameter."""
    text = (QUERIES / f"report_{name}.sql").read_text(encoding="utf-8")
    cursor = connection.execute(text, parameters or None)
    names = [column[0] for column in cursor.description or []]
    rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return Answer(rows, re.sub(r"\$(\w+)", lambda found: literal(parameters[found[1]]), text))


@dataclass(frozen=True)
class Score:
    """Mean score of one point on one objective; `low` and `high` are None where there is no interval."""

    mean: float
    low: float | None
    high: float | None


@dataclass
class Point:
    """A method's responses at one preference: mean scores by objective, and their text quality."""

    method: str
    point: int
    preference: list[float] | None
    n: int
    seeds: int
    raw: dict[str, Score] = field(default_factory=dict)
    normalised: dict[str, Score] = field(default_factory=dict)
    judges: dict[str, Score] = field(default_factory=dict)
    quality: Row = field(default_factory=dict)

    @property
    def degenerate(self) -> bool:
        """Unreadable by rule in at least half of the seeds."""
        return 2 * self.quality.get("degenerate", 0) >= max(1, self.quality.get("seeds", 1))

    def scores(self, scale: str) -> dict[str, Score]:
        """Return the scores by objective; `scale` is 'raw' or 'normalised'."""
        return self.raw if scale == "raw" else self.normalised


@dataclass
class Task:
    """Everything that the pages show of one task."""

    name: str
    objectives: list[str]
    run: Row
    answers: dict[str, Answer]
    methods: list[str]
    points: list[Point]

    def rows(self, name: str) -> list[Row]:
        return self.answers[name].rows

    def of(self, method: str) -> list[Point]:
        """Return the points of a method in ascending order of its preferences."""
        return sorted((p for p in self.points if p.method == method), key=lambda p: (p.preference or [], p.point))

    def tau(self, method: str, objective: str) -> Row | None:
        """Return the row of Kendall's tau, or None where the method takes no preference."""
        return self._metric(method, "tau", objective)

    def tau_bound(self, method: str, objective: str) -> float | None:
        """Return the largest tau that the method's preferences allow, or None where it is 1 or there is no tau."""
        row = self._metric(method, "tau_bound", objective)
        return None if row is None or row["value"] == 1 else float(row["value"])

    def _metric(self, method: str, metric: str, objective: str) -> Row | None:
        found = [
            r for r in self.rows("metrics") if (r["method"], r["metric"], r["objective"]) == (method, metric, objective)
        ]
        return found[0] if found and found[0]["value"] is not None else None

    @cached_property
    def config(self) -> Row:
        """The experiment as stored; {} where it is no JSON object."""
        return parsed(self.run["config"])

    @cached_property
    def best(self) -> str | None:
        """The method with the largest hypervolume of readable points."""
        rows = [r for r in self.rows("leaderboard") if r["readable"] is not None]
        return rows[0]["method"] if rows else None

    @cached_property
    def judged(self) -> list[str]:
        """The objectives that an independent judge scores as well."""
        return [o for o in self.objectives if any(o in p.judges for p in self.points)]

    @cached_property
    def scale(self) -> dict[str, Row]:
        """The normaliser by objective."""
        return {r["objective"]: r for r in self.rows("normaliser")}


def parsed(text: str) -> Row:
    """Return the JSON object in `text`, {} where there is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


SECTIONS = (
    "leaderboard",
    "metrics",
    "points",
    "quality",
    "payoff",
    "normaliser",
    "fluency",
    "curves",
    "examples",
    "costs",
)


def read(connection: duckdb.DuckDBPyConnection) -> list[Task]:
    """Return every task of the database, in order of name."""
    tasks = ask(connection, "tasks")
    if not tasks.rows:
        raise MoaError("the database holds no run; make it anew with snakemake -R build_warehouse")
    return [_task(connection, row, tasks.sql) for row in tasks.rows]


def named(tasks: list[Task], name: str) -> Task:
    """Return the task of that name, or raise a MoaError with the nearest one."""
    for task in tasks:
        if task.name == name:
            return task
    raise MoaError(f"the database has no task '{name}'.{nearest(name, [t.name for t in tasks])}")


def _task(connection: duckdb.DuckDBPyConnection, run: Row, sql: str) -> Task:
    answers = {name: ask(connection, name, task=run["task"]) for name in SECTIONS}
    answers["run"] = Answer([run], sql)
    methods = [r["method"] for r in answers["leaderboard"].rows]
    return Task(
        run["task"], run["objectives"], run, answers, methods, _points(answers["points"].rows, answers["quality"].rows)
    )


def _points(scores: list[Row], quality: list[Row]) -> list[Point]:
    points: dict[tuple[str, int], Point] = {}
    for row in scores:
        key = (row["method"], row["point"])
        point = points.setdefault(key, Point(row["method"], row["point"], row["preference"], row["n"], row["seeds"]))
        if row["role"] == "judge":
            point.judges[row["objective"]] = Score(row["mean"], row["low"], row["high"])
            continue
        point.raw[row["objective"]] = Score(row["mean"], row["low"], row["high"])
        if row["normalised"] is not None:
            point.normalised[row["objective"]] = Score(row["normalised"], row["normalised_low"], row["normalised_high"])
    for row in quality:
        if (row["method"], row["point"]) in points:
            points[row["method"], row["point"]].quality = row
    return [points[key] for key in sorted(points)]
