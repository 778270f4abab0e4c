"""Draws what a preference leads to on a straight front, as an SVG that follows light and dark by itself."""

from collections.abc import Mapping, Sequence
from html import escape

from moa.report.style import DARK, LIGHT, Look, looks, markers

WIDTH, ROW, LEFT, TOP = 800.0, 34.0, 330.0, 46.0
RIGHT = 24.0


def strips(title: str, ends: tuple[str, str], rows: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Return an SVG document with one strip per row.

    Args:
        title: heading, also the accessible name.
        ends: what stands at the left and right end of the front.
        rows: per name, seeds of positions in [0, 1] along the front, one per preference; mean positions are drawn
            large.
    """
    look = looks(rows)
    height = TOP + ROW * len(rows) + 40
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img"'
            f' aria-label="{escape(title)}">'
        ),
        f"<style>{_css()}</style>",
        f'<rect class="page" width="{WIDTH:.0f}" height="{height:.0f}"/>',
        f'<text class="head" x="16" y="24">{escape(title)}</text>',
    ]
    for index, (name, seeds) in enumerate(rows.items()):
        parts += _strip(name, seeds, look[name], TOP + ROW * (index + 0.5))
    bottom = TOP + ROW * len(rows) + 22
    parts += [
        f'<text x="{LEFT}" y="{bottom}">{escape(ends[0])}</text>',
        f'<text text-anchor="end" x="{WIDTH - RIGHT}" y="{bottom}">{escape(ends[1])}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _strip(name: str, seeds: Sequence[Sequence[float]], look: Look, y: float) -> list[str]:
    means = [sum(column) / len(column) for column in zip(*seeds, strict=True)]
    small = "".join(_dot(x, y + 6) for seed in seeds for x in seed)
    large = "".join(markers(look.symbol, _across(x), y - 4, 5.0) for x in means)
    shown = ", ".join(f"{x:.2f}" for x in means)
    return [
        f'<line class="front" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>',
        f'<text text-anchor="end" x="{LEFT - 18}" y="{y + 4:.1f}">{escape(name)}</text>',
        (
            f'<g class="{look.colour}"><title>{escape(name)}: {shown}</title><path class="seeds" d="{small}"/><path'
            f' class="mean" d="{large}"/></g>'
        ),
    ]


def _across(position: float) -> float:
    return LEFT + position * (WIDTH - RIGHT - LEFT)


def _dot(position: float, y: float) -> str:
    return markers("circle", _across(position), y, 1.6)


def _css() -> str:
    def colours(palette: Sequence[str], neutral: str, ink: str, page: str) -> str:
        slots = "".join(f".c{i}{{fill:{c}}}" for i, c in enumerate(palette))
        return f".page{{fill:{page}}}text{{fill:{ink}}}.front{{stroke:{neutral}}}.neutral{{fill:{neutral}}}{slots}"

    base = (
        "text{font:13px"
        " system-ui,sans-serif}.head{font-weight:600;font-size:15px}.seeds{opacity:.45}.front{stroke-width:1}"
    )
    return (
        base
        + colours(LIGHT, "#5f6b76", "#1b232b", "#ffffff")
        + "@media(prefers-color-scheme:dark){"
        + colours(DARK, "#9aa7b3", "#e8edf2", "#14191f")
        + "}"
    )
