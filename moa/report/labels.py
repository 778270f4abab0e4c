"""Puts direct labels beside the points of a chart so that they cover as little as possible.

Units: pixels, y downwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

CHARACTER = 6.6  # mean width at 12 px in common sans-serif fonts
HEIGHT = 14.0
Position = tuple[float, float]


@dataclass(frozen=True)
class Label:
    """A placed label: its anchor point, and the centre of its text."""

    text: str
    anchor: Position
    centre: Position


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def holds(self, x: float, y: float) -> bool:
        return self.left <= x <= self.right and self.top <= y <= self.bottom


@dataclass(frozen=True)
class Drawing:
    """What labels should not cover, and the size of the area that they may not leave."""

    marks: Sequence[Position]
    lines: Sequence[Position]
    width: float
    height: float


def place(series: Sequence[tuple[str, Sequence[Position]]], width: float, height: float) -> list[Label]:
    """Return one label per series, beside one of its points: greedy, the series with the fewest points first."""
    marks = [p for _, points in series for p in points]
    lines = [step for _, points in series for pair in pairwise(points) for step in _along(*pair)]
    drawing = Drawing(marks, lines, width, height)
    placed: dict[str, tuple[Label, Box]] = {}
    for text, points in sorted((s for s in series if s[1]), key=lambda s: len(s[1])):
        options = [_option(text, anchor, dx, dy) for anchor in points for dx, dy in _directions(text)]
        taken = [box for _, box in placed.values()]
        placed[text] = min(options, key=lambda o: _cost(o, taken, drawing))
    return [label for label, _ in placed.values()]


def _directions(text: str) -> list[Position]:
    half = len(text) * CHARACTER / 2
    return [
        (sx * (half + gap), sy * gap)
        for gap in (11.0, 20.0, 34.0)
        for sx, sy in ((1, -1), (-1, -1), (1, 1), (-1, 1), (1, 0), (-1, 0))
    ] + [(0.0, sign * gap) for gap in (16.0, 28.0, 44.0) for sign in (-1, 1)]


def _option(text: str, anchor: Position, dx: float, dy: float) -> tuple[Label, Box]:
    x, y = anchor[0] + dx, anchor[1] + dy
    half = len(text) * CHARACTER / 2
    return Label(text, anchor, (x, y)), Box(x - half, y - HEIGHT / 2, x + half, y + HEIGHT / 2)


def _along(start: Position, end: Position) -> list[Position]:
    count = max(1, int(max(abs(end[0] - start[0]), abs(end[1] - start[1])) // 8))
    return [
        (start[0] + (end[0] - start[0]) * i / count, start[1] + (end[1] - start[1]) * i / count)
        for i in range(1, count)
    ]


def _cost(option: tuple[Label, Box], taken: Sequence[Box], drawing: Drawing) -> float:
    label, box = option
    across = max(0.0, -box.left) + max(0.0, box.right - drawing.width)
    outside = across + max(0.0, -box.top) + max(0.0, box.bottom - drawing.height)
    wide = Box(box.left - 5, box.top - 5, box.right + 5, box.bottom + 5)
    distance = abs(label.centre[1] - label.anchor[1]) + 0.2 * abs(label.centre[0] - label.anchor[0])
    return (
        50 * outside
        + 3 * sum(wide.overlap(b) for b in taken)
        + 120 * sum(wide.holds(x, y) for x, y in drawing.marks)
        + 25 * sum(box.holds(x, y) for x, y in drawing.lines)
        + distance
    )
