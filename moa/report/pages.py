"""Turns tasks into HTML pages: self-contained, offline, everything from the database escaped."""

import json
from itertools import groupby
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from moa.report import charts, curves, words
from moa.report.data import Row, Task, parsed
from moa.report.front import all_looks, embedded
from moa.report.geometry import pairs
from moa.report.safe import chart_json, environment, policy, source, visible
from moa.report.style import Look, markers

LOSS = 0.4  # least loss on another objective, normalised, for a task whose objectives conflict
COLUMNS = 5  # preferences shown side by side in the examples, with two objectives


def plotly() -> Markup:
    """Return Plotly's own bundle as trusted text."""
    script = get_plotlyjs()
    assert "</script" not in script.lower() and "<!--" not in script, "this Plotly bundle cannot stand inside a page"
    return Markup(script)


def index(tasks: list[Task]) -> str:
    """Return the page that lists every task: what was run, the result in a sentence, leaderboard and front."""
    look = all_looks(tasks)
    drawings = {t.name: [embedded(t, look, pair, _size(t)) for pair in pairs(t)] for t in tasks}
    return _render("index.html.j2", [], look, tasks=tasks, drawings=drawings)


def task_page(task: Task, tasks: list[Task]) -> str:
    """Return the page of one task; `tasks` are all of the report, so that a method looks the same everywhere."""
    look = all_looks(tasks)
    return _render(
        "task.html.j2",
        [plotly(), source("page.js")],
        look,
        task=task,
        tasks=tasks,
        fronts=[(x, y, chart_json(figure), figure["height"]) for x, y, figure in charts.fronts(task, look)],
        drawings=[embedded(task, look, pair, _size(task)) for pair in pairs(task)],
        controls=[
            (o, chart_json(figure), figure["height"])
            for o in task.objectives
            for figure in [charts.control(task, look, o)]
        ],
        multiples=[(small, chart_json(small.figure)) for small in curves.multiples(task, look)],
        payoff=payoff(task),
        examples=examples(task),
        costs=[(method, list(rows)) for method, rows in groupby(task.rows("costs"), key=lambda r: r["method"])],
        others=other_metrics(task),
        config=json.dumps(task.config, indent=2, ensure_ascii=False) if task.config else task.run["config"],
    )


def _size(task: Task) -> tuple[float, float]:
    return (600, 420) if len(task.objectives) == 2 else (380, 320)


def _render(template: str, scripts: list[Markup], look: dict[str, Look], **values: Any) -> str:
    return (
        environment()
        .get_template(template)
        .render(
            **values,
            look=look,
            scripts=scripts,
            style=source("style.css"),
            content_policy=policy(scripts),
            words=words,
            facts=facts,
            strip=strip,
            markers=markers,
            parsed=parsed,
            visible=visible,
            LOSS=LOSS,
        )
    )


def facts(task: Task) -> list[tuple[str, str]]:
    """Return what was run, as (name, value); what the stored experiment does not say is left out."""
    config, board = task.config, task.rows("leaderboard")
    found = [("Objectives", ", ".join(_rewarded(task, o) for o in task.objectives))]
    for name, section in (("Data", "data"), ("Model", "model")):
        stored = config.get(section, {})
        if "source" in stored:
            found.append(
                (name, stored["source"] + (f" at {stored['revision'][:12]}" if stored.get("revision") else ""))
            )
    if board:
        found.append(("Evaluation prompts", words.amount(max(r["prompts"] for r in board))))
        found.append(("Seeds", words.amount(max(r["seeds"] for r in board))))
    found.append(
        ("Preferences", words.amount(len({tuple(p.preference) for p in task.points if p.preference is not None})))
    )
    if cut := cut_responses(task):
        found.append(("Cut responses", cut))
    found.append(("Computing", words.seconds(sum(r["seconds"] for r in task.rows("costs")))))
    found.append(("Hardware", task.run["hardware"]))
    return found


def _rewarded(task: Task, objective: str) -> str:
    """The objective, with its reward and that reward's kind where the stored experiment says so."""
    reward = task.config.get("objectives", {}).get(objective, {}).get("reward")
    kind = task.config.get("rewards", {}).get(reward, {}).get("kind")
    return f"{objective} ({kind})" if kind else objective


def cut_responses(task: Task) -> str:
    """Return what rewards and judges could not read whole, with a row's largest share; '' where that is nothing."""
    worst: dict[tuple[str, str], float] = {}
    for row in task.rows("metrics"):
        if row["metric"] in ("truncated", "truncated_judge"):
            key = (row["objective"], "judge" if row["metric"] == "truncated_judge" else "reward")
            worst[key] = max(worst.get(key, 0.0), row["value"])
    return ", ".join(
        f"{objective}: its {role} could not read up to {100 * share:.2g} % of a row's responses whole"
        for (objective, role), share in sorted(worst.items())
    )


def strip(task: Task, row: Row) -> dict[str, float] | None:
    """Return positions in [0, 100] of a row's readable hypervolume and interval, on the scale of the task's largest."""
    top = max((r["readable_high"] or r["readable"] or 0.0 for r in task.rows("leaderboard")), default=0.0)
    if not top or row["readable"] is None:
        return None
    low, high = (row["readable"] if v is None else v for v in (row["readable_low"], row["readable_high"]))
    return {"value": 100 * row["readable"] / top, "low": 100 * max(0.0, low) / top, "high": 100 * high / top}


def payoff(task: Task) -> dict[str, Any] | None:
    """Return the payoff table with its verdicts, or None where the run has no single-objective policies.

    The rule: each single-objective policy loses at least LOSS on every other objective, and the untrained policy is
    worse than each of them on its own objective.
    """
    cells = {(r["policy"], r["objective"]): r for r in task.rows("payoff")}
    policies = [p for p in [*task.objectives, "reference"] if any((p, o) in cells for o in task.objectives)]
    if not policies:
        return None
    verdicts = {key: _meets(key, row) for key, row in cells.items()}
    judged = [v for v in verdicts.values() if v is not None]
    return {
        "policies": policies,
        "cells": cells,
        "verdicts": verdicts,
        "met": all(judged),
        "failed": judged.count(False),
    }


def _meets(key: tuple[str, str], row: Row) -> bool | None:
    """Whether a cell obeys the rule; None for a policy's own objective."""
    policy, objective = key
    if policy == objective:
        return None
    return bool(row["loss"] > 0 if policy == "reference" else row["loss"] >= LOSS)


def other_metrics(task: Task) -> list[Row]:
    """Return the metrics that the leaderboard does not show."""
    return [r for r in task.rows("metrics") if r["metric"] not in ("hypervolume", "hypervolume_readable", "tau")]


def examples(task: Task) -> list[dict[str, Any]]:
    """Return, per prompt, a table of methods by preferences with one response per cell."""
    columns = _columns(task)
    made = []
    for _, group in groupby(task.rows("examples"), key=lambda r: r["prompt_id"]):
        rows = list(group)
        cells: dict[str, dict[tuple[float, ...] | None, Row]] = {}
        for row in rows:
            cells.setdefault(row["method"], {})[None if row["preference"] is None else tuple(row["preference"])] = row
        made.append({"prompt": rows[0]["prompt"], "columns": columns, "cells": cells})
    return made


def _columns(task: Task) -> list[tuple[float, ...]]:
    """Return as many of the evaluated preferences as a table can show.

    They are evenly spaced for two objectives, else corners and the most even one.
    """
    grid = sorted({tuple(p.preference) for p in task.points if p.preference is not None})
    if len(task.objectives) == 2 and len(grid) > COLUMNS:
        return [grid[round(i * (len(grid) - 1) / (COLUMNS - 1))] for i in range(COLUMNS)]
    if len(task.objectives) > 2 and len(grid) > len(task.objectives) + 1:
        return [*sorted(p for p in grid if max(p) == 1), min(grid, key=lambda p: (max(p), p))]
    return grid
