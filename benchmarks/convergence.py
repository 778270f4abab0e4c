"""Draws one quantity of the training curves, a line per row of the benchmark with the range over its seeds, as an SVG.

python benchmarks/convergence.py --task imdb_pama --quantity combined_norm --figure docs/figures/pama_convergence.svg
"""

import argparse
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moa.report.style import DARK, LIGHT
from moa.store import sql

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720.0, 380.0, 64.0, 150.0, 48.0, 46.0
SMOOTH = 5  # steps of the running mean: a step has one batch


def curves(database: Path, task: str, quantity: str) -> dict[str, NDArray[np.float64]]:
    """Return per row (seeds, steps): the quantity over `all`, averaged over the row's policies of a seed."""
    query = """SELECT method, seed, list(value ORDER BY step) AS line FROM
               (SELECT method, seed, step, avg(value) AS value FROM curves WHERE task = $task AND quantity = $quantity AND objective = 'all' GROUP BY ALL)
               GROUP BY method, seed ORDER BY method, seed"""
    with sql.connect(database) as connection:
        rows = connection.execute(query, {"task": task, "quantity": quantity}).fetchall()
    kernel = np.ones(SMOOTH) / SMOOTH
    return {
        m: np.stack([np.convolve(line, kernel, "valid") for method, _, line in rows if method == m])
        for m in dict.fromkeys(r[0] for r in rows)
    }


def draw(lines: dict[str, NDArray[np.float64]], title: str, quantity: str) -> str:
    """Return an SVG document that follows light and dark by itself."""
    top = 1.05 * max(float(line.max()) for line in lines.values())
    steps = max(line.shape[1] for line in lines.values())

    def point(step: float, value: float) -> str:
        return f"{LEFT + step / (steps - 1) * (WIDTH - LEFT - RIGHT):.1f},{HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM):.1f}"

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img"'
            f' aria-label="{escape(title)}">'
        ),
        f"<style>{_css()}</style>",
        (
            f'<rect class="page" width="{WIDTH:.0f}" height="{HEIGHT:.0f}"/><text class="head" x="16"'
            f' y="26">{escape(title)}</text>'
        ),
    ]
    for value in np.linspace(0, top, 5)[:-1]:
        x, y = point(0, float(value)).split(",")
        parts.append(
            f'<line class="grid" x1="{x}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/><text text-anchor="end"'
            f' x="{LEFT - 8}" y="{float(y) + 4:.1f}">{value:.2f}</text>'
        )
    for slot, line in enumerate(lines.values()):
        low, high, mean = line.min(0), line.max(0), line.mean(0)
        band = [point(i, v) for i, v in enumerate(high)] + [point(i, v) for i, v in reversed(list(enumerate(low)))]
        parts.append(
            f'<polygon class="f{slot}" points="{" ".join(band)}"/><polyline class="s{slot}"'
            f' points="{" ".join(point(i, v) for i, v in enumerate(mean))}"/>'
        )
    heights = apart([float(point(0, float(line.mean(0)[-1])).split(",")[1]) for line in lines.values()])
    for slot, (name, height) in enumerate(zip(lines, heights, strict=True)):
        parts.append(f'<text class="t{slot}" x="{WIDTH - RIGHT + 8}" y="{height + 4:.1f}">{escape(name)}</text>')
    parts.append(
        f'<text x="{LEFT}" y="{HEIGHT - 16}">step (running mean of {SMOOTH}; band: range over seeds);'
        f" {escape(quantity)}</text></svg>"
    )
    return "\n".join(parts) + "\n"


def apart(heights: Sequence[float], least: float = 16.0) -> list[float]:
    """Move labels down until they stand at least `least` pixels apart."""
    placed, previous = dict[int, float](), -least
    for index in sorted(range(len(heights)), key=lambda i: heights[i]):
        placed[index] = previous = max(heights[index], previous + least)
    return [placed[i] for i in range(len(heights))]


def _css() -> str:
    def colours(palette: Sequence[str], ink: str, page: str, grid: str) -> str:
        slots = "".join(f".s{i}{{stroke:{c}}}.f{i},.t{i}{{fill:{c}}}" for i, c in enumerate(palette))
        return f".page{{fill:{page}}}text{{fill:{ink}}}.grid{{stroke:{grid}}}{slots}"

    base = (
        "text{font:13px"
        " system-ui,sans-serif}.head{font-weight:600;font-size:15px}polyline{fill:none;stroke-width:2}polygon{opacity:.15}"
    )
    return f"{colours(LIGHT, '#1b232b', '#ffffff', '#e3e7eb')}{base}@media(prefers-color-scheme:dark){{{colours(DARK, '#e8edf2', '#11161b', '#2b333b')}}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--database", type=Path, default=Path("results/results.duckdb"))
    parser.add_argument("--task", required=True)
    parser.add_argument("--quantity", default="combined_norm")
    parser.add_argument("--methods", nargs="*", help="rows to draw; all without it")
    parser.add_argument("--title", default="Norm of the combined surrogate")
    parser.add_argument("--figure", type=Path, required=True)
    given = parser.parse_args()
    found = curves(given.database, given.task, given.quantity)
    lines = {m: found[m] for m in given.methods or found}
    given.figure.write_text(draw(lines, given.title, given.quantity), encoding="utf-8")
    for name, line in lines.items():
        print(f"{name}: {line[:, 0].mean():.3f} to {line[:, -1].mean():.3f}, n {len(line)}")


if __name__ == "__main__":
    main()
