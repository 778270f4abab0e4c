"""Static SVG of a task's front: for pages without script, for print, and for documents. `moa figure` writes it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from moa.errors import MoaError
from moa.report import words
from moa.report.data import Point, Task, named, read
from moa.report.geometry import Axis, Position, at, axis, pairs, shade, ticks
from moa.report.labels import HEIGHT, Label, place
from moa.report.safe import environment
from moa.report.style import DARK, LIGHT, Look, looks, markers
from moa.report.summary import choose
from moa.store.files import atomically
from moa.store.sql import reading

SIZE = 4.6  # half the width of a marker, pixels
INSET = {"left": 58.0, "right": 12.0, "top": 10.0, "bottom": 44.0}


@dataclass(frozen=True)
class Mark:
    """One point: its outline as an SVG path, whether it is degenerate, and what hovering and screen readers say."""

    path: str
    x: float
    y: float
    degenerate: bool
    title: str


@dataclass(frozen=True)
class Series:
    """A method in one panel."""

    method: str
    look: Look
    line: str
    bars: str
    marks: list[Mark]


@dataclass(frozen=True)
class Panel:
    """A drawing of two objectives, all in pixels from its own top left corner."""

    width: float
    height: float
    titles: tuple[str, str]
    frame: tuple[float, float, float, float]
    ticks: tuple[list[tuple[float, str]], list[tuple[float, str]]]
    series: list[Series]
    labels: list[Label]
    area: str
    area_colour: str
    reference: Position | None
    description: str


def panel(task: Task, look: dict[str, Look], objectives: tuple[str, str], size: tuple[float, float]) -> Panel:
    """Return the drawing of two objectives, raw means, in `size` (width, height); labels where there are no more."""
    (x, y), (width, height) = objectives, size
    horizontal, vertical = axis(task, x, "raw"), axis(task, y, "raw")
    frame = (INSET["left"], INSET["top"], width - INSET["right"], height - INSET["bottom"])
    pixel = _projection(horizontal, vertical, frame)
    series = [_series(task, look[m], m, objectives, pixel) for m in task.methods]
    outline = [pixel(p) for p in shade(task, x, y, "raw")]
    reference = (
        pixel((horizontal.reference, vertical.reference))
        if horizontal.reference is not None and vertical.reference is not None
        else None
    )
    return Panel(
        width=width,
        height=height,
        titles=(x, y),
        frame=frame,
        ticks=(
            _ticks(horizontal, lambda v: pixel((v, vertical.low))[0]),
            _ticks(vertical, lambda v: pixel((horizontal.low, v))[1]),
        ),
        series=series,
        labels=_labels(series, frame) if len(task.objectives) == 2 else [],
        area=_path(outline),
        area_colour=look[task.best].colour if task.best else "neutral",
        reference=reference,
        description=describe(task, x, y),
    )


def describe(task: Task, x: str, y: str) -> str:
    """Return the alternative text of a front."""
    return f"Mean {x} against mean {y} for each method and preference of task {task.name}. {words.headline(task)}"


def _projection(
    horizontal: Axis, vertical: Axis, frame: tuple[float, float, float, float]
) -> Callable[[Position], Position]:
    left, top, right, bottom = frame

    def pixel(position: Position) -> Position:
        across = (position[0] - horizontal.low) / (horizontal.high - horizontal.low)
        up = (position[1] - vertical.low) / (vertical.high - vertical.low)
        return left + across * (right - left), bottom - up * (bottom - top)

    return pixel


def _ticks(drawn: Axis, pixel: Callable[[float], float]) -> list[tuple[float, str]]:
    return [(pixel(v), f"{v:.10g}".replace("-", words.MINUS)) for v in ticks(drawn.low, drawn.high)]


def _series(
    task: Task, look: Look, method: str, objectives: tuple[str, str], pixel: Callable[[Position], Position]
) -> Series:
    shown = [(p, pixel(q)) for p in task.of(method) if (q := at(p, *objectives, "raw")) is not None]
    marks = [Mark(markers(look.symbol, q[0], q[1], SIZE), q[0], q[1], p.degenerate, _title(task, p)) for p, q in shown]
    bars = "".join(_bars(p, objectives, pixel) for p, _ in shown)
    line = _path([q for _, q in shown]) if len(task.objectives) == 2 and len(shown) > 1 else ""
    return Series(method, look, line, bars, marks)


def _bars(point: Point, objectives: tuple[str, str], pixel: Callable[[Position], Position]) -> str:
    x, y = (point.scores("raw")[o] for o in objectives)
    made = ""
    if x.low is not None and x.high is not None:
        made += _path([pixel((x.low, y.mean)), pixel((x.high, y.mean))])
    if y.low is not None and y.high is not None:
        made += _path([pixel((x.mean, y.low)), pixel((x.mean, y.high))])
    return made


def _title(task: Task, point: Point) -> str:
    scores = ", ".join(f"{o} {words.number(s.mean)}" for o, s in point.raw.items())
    return f"{point.method}; preference {words.preference(point.preference, task.objectives)}; {scores}" + (
        "; degenerate" if point.degenerate else ""
    )


def _path(positions: list[Position]) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in positions) if positions else ""


def _labels(series: list[Series], frame: tuple[float, float, float, float]) -> list[Label]:
    """Labels are placed relative to the frame, which they may not leave."""
    left, top, right, bottom = frame
    found = place([(s.method, [(m.x - left, m.y - top) for m in s.marks]) for s in series], right - left, bottom - top)
    return [
        Label(f.text, (f.anchor[0] + left, f.anchor[1] + top), (f.centre[0] + left, f.centre[1] + top)) for f in found
    ]


def leader(label: Label) -> str:
    """Return the path of a thin line from a label to its point, where the label stands apart from it."""
    (x, y), (ax, ay) = label.centre, label.anchor
    edge = y + (HEIGHT / 2 if ay > y else -HEIGHT / 2)
    return _path([(x, edge), (ax, ay)]) if abs(ay - y) > 2 * HEIGHT else ""


def embedded(task: Task, look: dict[str, Look], objectives: tuple[str, str], size: tuple[float, float]) -> Markup:
    """Return a panel for a page, whose style sheet holds the colours."""
    return Markup(_render("panel.svg.j2", panel=panel(task, look, objectives, size)))


def all_looks(tasks: list[Task]) -> dict[str, Look]:
    """Return one look per method of any task, in the order in which the experiments list them.

    Pages and drawings share these looks.
    """
    wanted = [
        m
        for task in tasks
        for m in [*task.config.get("run", {}).get("methods", []), *sorted(task.methods)]
        if m in task.methods
    ]
    return looks(wanted)


def standalone(task: Task) -> str:
    """Return an SVG document with a legend; it follows light and dark by itself."""
    look = all_looks([task])
    two = len(task.objectives) == 2
    panels = [panel(task, look, pair, (640, 430) if two else (380, 340)) for pair in pairs(task)]
    return _render(
        "front.svg.j2",
        task=task,
        panels=panels,
        legend=[(task_row, look[task_row["method"]]) for task_row in task.rows("leaderboard")],
        width=sum(p.width for p in panels),
        height=max(p.height for p in panels),
        degenerate=any(p.degenerate for p in task.points),
        light=_colours(LIGHT),
        dark=_colours(DARK),
    )


def _colours(palette: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(f"c{slot}", colour) for slot, colour in enumerate(palette)]


def _render(template: str, **values: Any) -> str:
    return (
        environment()
        .get_template(template)
        .render(
            **values,
            words=words,
            markers=markers,
            leader=leader,
            palette=dict(_colours(LIGHT)) | {"neutral": "#5f6b76"},
        )
    )


def write(database: Path, task: str | None, out: Path | None) -> Path:
    """Write a task's front, the only task's without a name, and return where: `out`, or <task>.svg.

    Raises:
        MoaError: no such task or folder, or no name of an SVG file.
    """
    if out is not None and out.suffix != ".svg":
        raise MoaError(f"--out {out}: give a name that ends in .svg")
    with reading(database) as connection:
        tasks = read(connection)
    name = choose(database, task, [one.name for one in tasks])
    path = out or Path(f"{name}.svg")
    svg = standalone(named(tasks, name))
    try:
        atomically(path, lambda temporary: temporary.write_text(svg, encoding="utf-8", newline="\n"))
    except OSError as error:
        raise MoaError(f"{path}: cannot be written ({error.strerror}); name another file with --out") from None
    return path


if __name__ == "__main__":  # a command until 0.1
    raise SystemExit("error: write: moa figure")
