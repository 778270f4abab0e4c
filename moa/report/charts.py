"""Charts as plain data for Plotly: fronts and control.

Colours are names ('@c0') that page.js resolves for light and dark.

Only numbers and the names of methods, objectives and policies enter a chart, names escaped; generated text never does.
"""

from typing import Any

from moa.report import words
from moa.report.data import Point, Score, Task
from moa.report.geometry import Axis, at, axis, pairs, shade
from moa.report.labels import place
from moa.report.safe import chart_text
from moa.report.style import Look

Figure = dict[str, Any]
Plane = tuple[str, str, str]  # the two objectives that are drawn, across and up, and the scale: raw or normalised
WIDTH, HEIGHT = 980, 560  # of a front with two objectives; labels are placed for this size
MARGIN = {"l": 64, "r": 24, "t": 16, "b": 56}


def front(task: Task, look: dict[str, Look], x: str, y: str) -> Figure:
    """Return the chart of objectives `x` and `y`, raw and normalised, with direct labels for two objectives."""
    return {
        "height": HEIGHT if len(task.objectives) == 2 else 420,
        "variants": {scale: _front(task, look, x, y, scale) for scale in ("raw", "normalised")},
    }


def fronts(task: Task, look: dict[str, Look]) -> list[tuple[str, str, Figure]]:
    """Return (x, y, chart) of every pair of objectives."""
    return [(x, y, front(task, look, x, y)) for x, y in pairs(task)]


def _front(task: Task, look: dict[str, Look], x: str, y: str, scale: str) -> Figure:
    horizontal, vertical = axis(task, x, scale), axis(task, y, scale)
    plane = (x, y, scale)
    traces = [*_area(task, look, plane), *(_series(task, look[m], m, plane) for m in task.methods)]
    crosses = [p for p in task.points if p.degenerate]
    if crosses:
        traces.append(_crosses([q for p in crosses if (q := at(p, x, y, scale)) is not None]))
    if horizontal.reference is not None and vertical.reference is not None:
        traces.append(_reference(horizontal.reference, vertical.reference))
    unit = "mean score" if scale == "raw" else "normalised mean score"
    layout = {"xaxis": _axis(horizontal, unit), "yaxis": _axis(vertical, unit), "margin": MARGIN}
    labels = _labels(task, look, horizontal, vertical, scale) if len(task.objectives) == 2 else []
    return {"data": traces, "layout": layout, "labels": labels}


def _axis(drawn: Axis, unit: str) -> Figure:
    return {"title": {"text": f"{chart_text(drawn.objective)} ({unit})"}, "range": [drawn.low, drawn.high]}


def _series(task: Task, look: Look, method: str, plane: Plane) -> Figure:
    x, y, scale = plane
    shown = [p for p in task.of(method) if at(p, x, y, scale) is not None]
    connect = len(task.objectives) == 2 and len(shown) > 1
    return {
        "type": "scatter",
        "name": chart_text(method),
        "mode": "lines+markers" if connect else "markers",
        "x": [p.scores(scale)[x].mean for p in shown],
        "y": [p.scores(scale)[y].mean for p in shown],
        "error_x": _bars([p.scores(scale)[x] for p in shown], look),
        "error_y": _bars([p.scores(scale)[y] for p in shown], look),
        "line": {"color": f"@{look.colour}:0.6", "width": 1.5},
        "marker": {
            "color": f"@{look.colour}",
            "size": 10,
            "symbol": [look.symbol + ("-open" if p.degenerate else "") for p in shown],
            "line": {"width": [2 if p.degenerate else 0 for p in shown], "color": f"@{look.colour}"},
        },
        "customdata": [_hover(task, p) for p in shown],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
    }


def _hover(task: Task, point: Point) -> list[str]:
    """The method, and lines on preference, scores, number of responses and degeneracy."""
    lines = ["preference " + words.preference(point.preference, task.objectives)]
    for objective, score in point.raw.items():
        bounds = words.interval(score.low, score.high)
        normalised = point.normalised.get(objective)
        lines.append(
            f"{objective} {words.number(score.mean)}"
            + (f" ({bounds})" if bounds else "")
            + (f", normalised {words.number(normalised.mean)}" if normalised else "")
        )
    lines.append(f"{words.amount(point.n)} responses, {point.seeds} {words.plural('seed', point.seeds)}")
    if point.degenerate:
        lines.append("degenerate: " + (point.quality["reason"] or ""))
    return [chart_text(point.method), "<br>".join(chart_text(line) for line in lines)]


def _bars(scores: list[Score], look: Look) -> Figure:
    return {
        "type": "data",
        "symmetric": False,
        "array": [0 if s.high is None else s.high - s.mean for s in scores],
        "arrayminus": [0 if s.low is None else s.mean - s.low for s in scores],
        "color": f"@{look.colour}:0.45",
        "thickness": 1,
        "width": 0,
    }


def _area(task: Task, look: dict[str, Look], plane: Plane) -> list[Figure]:
    x, y, scale = plane
    outline = shade(task, x, y, scale)
    if not outline or task.best is None:
        return []
    colour = look[task.best].colour
    position = {"x": [p[0] for p in outline], "y": [p[1] for p in outline]}
    style = {
        "mode": "lines",
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": f"@{colour}:0.1",
        "hoverinfo": "skip",
    }
    return [{"type": "scatter", "name": f"hypervolume of {chart_text(task.best)}", **position, **style}]


def _crosses(positions: list[tuple[float, float]]) -> Figure:
    marker = {"symbol": "x-thin-open", "size": 15, "color": "@ink", "line": {"width": 1.5}}
    place_ = {"x": [p[0] for p in positions], "y": [p[1] for p in positions]}
    return {
        "type": "scatter",
        "name": "degenerate text (hollow, crossed)",
        "mode": "markers",
        "marker": marker,
        "hoverinfo": "skip",
        **place_,
    }


def _reference(x: float, y: float) -> Figure:
    marker = {"symbol": "cross-thin-open", "size": 16, "color": "@muted", "line": {"width": 2}}
    hover = "<b>reference point</b><br>hypervolume is measured from here<extra></extra>"
    return {
        "type": "scatter",
        "name": "reference point",
        "mode": "markers",
        "x": [x],
        "y": [y],
        "marker": marker,
        "hovertemplate": hover,
    }


def _labels(task: Task, look: dict[str, Look], horizontal: Axis, vertical: Axis, scale: str) -> list[Figure]:
    width, height = WIDTH - MARGIN["l"] - MARGIN["r"], HEIGHT - MARGIN["t"] - MARGIN["b"] - 40
    x, y = horizontal.objective, vertical.objective

    def pixel(position: tuple[float, float]) -> tuple[float, float]:
        across = (position[0] - horizontal.low) / (horizontal.high - horizontal.low)
        up = (position[1] - vertical.low) / (vertical.high - vertical.low)
        return (across * width, (1 - up) * height)

    series = [(m, [pixel(q) for p in task.of(m) if (q := at(p, x, y, scale)) is not None]) for m in task.methods]
    made = []
    for label in place(series, width, height):
        anchor = (
            horizontal.low + label.anchor[0] / width * (horizontal.high - horizontal.low),
            vertical.high - label.anchor[1] / height * (vertical.high - vertical.low),
        )
        shift = {"ax": label.centre[0] - label.anchor[0], "ay": label.centre[1] - label.anchor[1]}
        made.append(
            {
                **{"x": anchor[0], "y": anchor[1], "text": chart_text(label.text), **shift},
                **{
                    "font": {"color": f"@{look[label.text].colour}", "size": 12},
                    "arrowcolor": f"@{look[label.text].colour}:0.5",
                },
                **{"arrowwidth": 0.8, "arrowhead": 0, "standoff": 6, "showarrow": True},
            }
        )
    return made


def control(task: Task, look: dict[str, Look], objective: str) -> Figure:
    """Return mean reward of `objective` over its weight in the preference: a line per method, tau in the legend."""
    traces = [t for m in task.methods if (t := _steering(task, look[m], m, objective)) is not None]
    drawn = axis(task, objective, "raw")
    layout = {
        "xaxis": {"title": {"text": f"weight of {chart_text(objective)} in the preference"}, "range": [-0.04, 1.04]},
        "yaxis": {
            "title": {"text": f"{chart_text(objective)} (mean score)"},
            "range": _without_reference(task, objective, drawn),
        },
        "margin": MARGIN,
        # Below the axis title, which a legend of many methods would cover.
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.24, "yanchor": "top", "font": {"size": 12}},
    }
    return {"height": 480, "variants": {"raw": {"data": traces, "layout": layout, "labels": []}}}


def _without_reference(task: Task, objective: str, drawn: Axis) -> list[float]:
    scores = [p.raw[objective] for p in task.points if objective in p.raw]
    values = [v for s in scores for v in (s.mean, s.low, s.high) if v is not None]
    if not values:
        return [drawn.low, drawn.high]
    margin = 0.07 * (max(values) - min(values)) or 0.5
    return [min(values) - margin, max(values) + margin]


def _steering(task: Task, look: Look, method: str, objective: str) -> Figure | None:
    k = task.objectives.index(objective)
    shown = [p for p in task.of(method) if objective in p.raw]
    if not shown:
        return None
    tau = task.tau(method, objective)
    legend = (
        f"{chart_text(method)} (tau {words.number(tau['value'], 2)})"
        if tau
        else f"{chart_text(method)} ({words.unsteered(task, method)})"
    )
    line = {"color": f"@{look.colour}", "width": 1.8, "dash": look.dash}
    if shown[0].preference is None:
        level = shown[0].raw[objective].mean
        hover = f"<b>{chart_text(method)}</b><br>takes no preference<br>%{{y:.3f}}<extra></extra>"
        return {
            "type": "scatter",
            "name": legend,
            "mode": "lines",
            "x": [0, 1],
            "y": [level, level],
            "line": line,
            "hovertemplate": hover,
        }
    by_weight: dict[float, list[Score]] = {}
    for p in sorted(shown, key=lambda p: (p.preference or [])[k]):
        by_weight.setdefault((p.preference or [])[k], []).append(p.raw[objective])
    averaged = [_average(scores) for scores in by_weight.values()]
    return {
        **{
            "type": "scatter",
            "name": legend,
            "mode": "lines+markers",
            "x": list(by_weight),
            "y": [s.mean for s in averaged],
        },
        **{
            "line": line,
            "marker": {"symbol": look.symbol, "size": 9, "color": f"@{look.colour}"},
            "error_y": _bars(averaged, look),
        },
        "hovertemplate": f"<b>{chart_text(method)}</b><br>weight %{{x:.3g}}<br>mean score %{{y:.3f}}<extra></extra>",
    }


def _average(scores: list[Score]) -> Score:
    """The mean of several points with the same weight; an interval is kept only where there is one point."""
    return scores[0] if len(scores) == 1 else Score(sum(s.mean for s in scores) / len(scores), None, None)
