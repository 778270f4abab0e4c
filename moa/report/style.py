"""How methods look: one colour, symbol and dash per method, the same in every chart of a report.

Colours keep apart for the common colour-vision deficiencies (after Okabe and Ito 2008, darkened or lightened to a
contrast of at least 3:1 on the page); symbols and dashes repeat the distinction, so that no chart relies on colour
alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass

LIGHT = ("#0072b2", "#c44e00", "#007a5e", "#a3428f", "#8a6a00", "#2f86c1", "#5b4bb5", "#9c3848")
DARK = ("#5db4ee", "#ff9457", "#35c79f", "#e592cd", "#e3bd3f", "#9cd6f7", "#ada3ff", "#f28ba0")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "hexagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "5px 2px 1px 2px", "2px 4px")
UNTRAINED = "reference"


@dataclass(frozen=True)
class Look:
    """`colour` is a name that style.css defines for light and dark pages: 'c0' ... 'c7', or 'neutral'."""

    colour: str
    symbol: str
    dash: str


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """Return the look of every method; the ninth and later repeat colours with other symbols."""
    made = {UNTRAINED: Look("neutral", "hexagon", "dot")}
    for slot, method in enumerate(dict.fromkeys(m for m in methods if m != UNTRAINED)):
        turn = slot // len(LIGHT)
        made[method] = Look(
            f"c{slot % len(LIGHT)}", SYMBOLS[(slot + turn) % len(SYMBOLS)], DASHES[(slot + turn) % len(DASHES)]
        )
    return made


def markers(symbol: str, x: float, y: float, size: float) -> str:
    """Return an SVG path of `symbol` around (x, y); `size` is half its width in pixels."""
    outlines = {
        "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
        "diamond": [(0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)],
        "triangle-up": [(0, -1.15), (1.1, 0.8), (-1.1, 0.8)],
        "triangle-down": [(0, 1.15), (1.1, -0.8), (-1.1, -0.8)],
        "pentagon": [(0, -1.1), (1.05, -0.34), (0.65, 0.89), (-0.65, 0.89), (-1.05, -0.34)],
        "star": [
            (0, -1.3),
            (0.34, -0.47),
            (1.24, -0.4),
            (0.55, 0.18),
            (0.76, 1.05),
            (0, 0.58),
            (-0.76, 1.05),
            (-0.55, 0.18),
            (-1.24, -0.4),
            (-0.34, -0.47),
        ],
        "hexagon": [(-0.6, -1.04), (0.6, -1.04), (1.2, 0), (0.6, 1.04), (-0.6, 1.04), (-1.2, 0)],
    }
    if symbol == "circle":
        return (
            f"M{x - size:.1f},{y:.1f}a{size:.1f},{size:.1f} 0 1,0 {2 * size:.1f},0a{size:.1f},{size:.1f} 0 1,0"
            f" {-2 * size:.1f},0z"
        )
    corners = [f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in outlines[symbol]]
    return "M" + "L".join(corners) + "z"
