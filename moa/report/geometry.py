"""What a drawing of a front needs on any medium: pairs of objectives, axis ranges, ticks, the dominated area."""

from dataclasses import dataclass
from itertools import combinations
from math import floor, log10

from moa.report.data import Point, Task

Position = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """One axis: its objective, its range, and the reference point's coordinate."""

    objective: str
    low: float
    high: float
    reference: float | None


def pairs(task: Task) -> list[tuple[str, str]]:
    """Return the objectives of every panel: one for two objectives, every projection for more."""
    return list(combinations(task.objectives, 2))


def reference(task: Task, objective: str, scale: str) -> float | None:
    """Return the hypervolume reference point's coordinate on the raw or the normalised scale."""
    row = task.scale.get(objective)
    value = row["reference_point" if scale == "raw" else "normalised_reference_point"] if row else None
    return None if value is None else float(value)


def axis(task: Task, objective: str, scale: str) -> Axis:
    """Return an axis that shows every mean, every interval and the reference point, with a margin."""
    declared = reference(task, objective, scale)
    scores = [p.scores(scale)[objective] for p in task.points if objective in p.scores(scale)]
    values = [v for s in scores for v in (s.mean, s.low, s.high) if v is not None] + (
        [declared] if declared is not None else []
    )
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.07 * (high - low) or 0.5
    return Axis(objective, low - margin, high + margin, declared)


def at(point: Point, x: str, y: str, scale: str) -> Position | None:
    """Return where a point stands, or None where a score is missing."""
    scores = point.scores(scale)
    return (scores[x].mean, scores[y].mean) if x in scores and y in scores else None


def dominated(points: list[Position], corner: Position) -> list[Position]:
    """Return the outline of the area between the front of `points` and the reference point `corner`.

    It is [] where there is no area.
    """
    front: list[Position] = []
    for x, y in sorted((p for p in points if p[0] > corner[0] and p[1] > corner[1]), reverse=True):
        if not front or y > front[-1][1]:
            front.append((x, y))
    if not front:
        return []
    outline = [corner, (front[0][0], corner[1])]
    for index, (x, y) in enumerate(front):
        outline += [(x, y), (front[index + 1][0] if index + 1 < len(front) else corner[0], y)]
    return [*outline, corner]


def shade(task: Task, x: str, y: str, scale: str) -> list[Position]:
    """Return the outline of the best method's readable hypervolume.

    It is [] for projections, where the area means nothing.
    """
    corner = (reference(task, x, scale), reference(task, y, scale))
    if len(task.objectives) != 2 or task.best is None or corner[0] is None or corner[1] is None:
        return []
    found = [at(p, x, y, scale) for p in task.of(task.best) if not p.degenerate]
    return dominated([p for p in found if p is not None], (corner[0], corner[1]))


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers inside [low, high]."""
    raw = (high - low) / count
    power = 10.0 ** floor(log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = -floor(-low / step + 1e-9)
    return [round(i * step, 12) for i in range(first, floor(high / step + 1e-9) + 1)]
