"""Training curves as small multiples: rewards, KL, entropy, weights, control error, clip fraction."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from moa.report.data import Row, Task
from moa.report.safe import chart_text
from moa.report.style import DASHES, Look

TITLES = {
    "kl": ("KL to the reference policy", "nats per token; how far training has moved from the untrained text"),
    "entropy": ("Entropy", "nats per token; a fall towards zero means that variety is lost"),
    "control_error": (
        "Control error",
        "squared distance between reward and what the method asks for (MOC: its own targets), normalised scale",
    ),
    "clip_fraction": ("Clip fraction", "share of tokens whose probability ratio was clipped"),
}


@dataclass(frozen=True)
class Small:
    """A small chart: title, unit or reading aid, its data for Plotly, and whether it has a legend of its own."""

    title: str
    caption: str
    figure: dict[str, Any]


def multiples(task: Task, look: dict[str, Look]) -> list[Small]:
    """Return the small charts of a task in reading order; quantities that no method records are left out."""
    rows = task.rows("curves")
    made = [
        _chart(f"Reward: {o}", "mean raw score of the rollouts", _of(rows, "reward", o), look) for o in task.objectives
    ]
    made += [_chart(title, caption, _of(rows, quantity, "all"), look) for quantity, (title, caption) in TITLES.items()]
    made += [_weights(task, method, rows) for method in task.methods]
    return [small for small in made if small is not None]


def _of(rows: list[Row], quantity: str, objective: str) -> list[Row]:
    return [r for r in rows if (r["quantity"], r["objective"]) == (quantity, objective)]


def _chart(title: str, caption: str, rows: list[Row], look: dict[str, Look]) -> Small | None:
    traces = []
    for (method, policy), group in groupby(rows, key=lambda r: (r["method"], r["policy"])):
        points = list(group)
        style = look.get(method, look["reference"])
        traces.append(_line(points, f"{chart_text(method)}<br>{chart_text(policy)}", f"@{style.colour}", style.dash))
    return Small(title, caption, _figure(traces, legend=False)) if traces else None


def _line(points: list[Row], name: str, colour: str, dash: str) -> dict[str, Any]:
    return {
        **{
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": [p["step"] for p in points],
            "y": [p["value"] for p in points],
        },
        **{
            "line": {"color": colour, "width": 1.4, "dash": dash},
            "hovertemplate": f"<b>{name}</b><br>step %{{x}}<br>%{{y:.4g}}<extra></extra>",
        },
    }


def _figure(traces: list[dict[str, Any]], legend: bool) -> dict[str, Any]:
    layout = {
        "xaxis": {"title": {"text": "step"}},
        "yaxis": {},
        "margin": {"l": 48, "r": 12, "t": 8, "b": 40},
        "showlegend": legend,
    }
    return {"height": 270 if legend else 220, "variants": {"raw": {"data": traces, "layout": layout, "labels": []}}}


def _weights(task: Task, method: str, rows: list[Row]) -> Small | None:
    """The weights c of a method that trains one policy with weights that move."""
    mine = [r for r in rows if r["quantity"] == "weight" and r["method"] == method]
    if len({r["policy"] for r in mine}) != 1:
        return None
    streams = sorted(
        {r["objective"] for r in mine},
        key=lambda o: (task.objectives.index(o) if o in task.objectives else len(task.objectives), o),
    )
    values = {o: [r for r in mine if r["objective"] == o] for o in streams}
    if all(max(r["value"] for r in v) - min(r["value"] for r in v) < 1e-9 for v in values.values()):
        return None
    traces = [_line(v, chart_text(o), f"@c{i % 8}", DASHES[i % len(DASHES)]) for i, (o, v) in enumerate(values.items())]
    return Small(
        f"Weights c: {method}",
        "mean weight of every advantage stream in the policy's update",
        _figure(traces, legend=True),
    )
