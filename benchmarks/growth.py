"""How a step's cost grows: with objectives, response length, batch, group size; and answering with the grid.

    python -m benchmarks.growth --out benchmarks/growth.parquet > benchmarks/growth.md

The embedded default's shape, MOC with 2 to 8 objectives, else linear weights; one thread, processor seconds. The sizes
of an axis take turns. The slope is that of log(seconds) over log(size): 1 grows as its size does.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.step import world
from benchmarks.step.ours import Ours
from moa.experiment.keys import Conditioning
from moa.experiment.preferences import lattice
from moa.lm import grid
from moa.lm.answering import Answerer, Prompting, Sampling
from moa.lm.generation import Decoding
from moa.report.markdown import table

SHAPE, TURNS = "embedded", 5
Step = Callable[[], object]


def steps(axis: str, size: int) -> Step:
    """Return what is timed: a training step, or answering a grid."""
    sizes = {"prompts": 16, "group": 4, "limit": 48}
    if axis == "objectives":
        return Ours(world.make(SHAPE), size, method="moc").step
    if axis == "preferences":
        return _answering(size)
    if axis == "batch":
        return Ours(world.make(SHAPE, prompts=size // 4)).step
    if axis == "group":  # as many responses
        return Ours(world.make(SHAPE, prompts=64 // size, group=size)).step
    return Ours(world.make(SHAPE, **sizes | {"limit": size})).step


def _answering(size: int) -> Step:
    given = world.make(SHAPE)
    answerer = Answerer(given.policy(), given.tokenizer(), 2048, "policy", [], Prompting(["a", "b"], Conditioning()))
    answerer.switch = lambda preference: "policy"  # type: ignore[method-assign]
    rows = [{"prompt_id": str(i), "prompt": text} for i, text in enumerate(given.prompts)]
    sampling = Sampling(Decoding(16, 1.0, 0.9), 64, "grid")
    return lambda: grid.walk(answerer, grid.questions(rows, 1), lattice(2, size - 1), sampling)


AXES = {
    "objectives": (2, 3, 5, 8),
    "response length": (12, 24, 48, 96),
    "batch": (16, 32, 64, 128),
    "group": (2, 4, 8, 16),
    "preferences": (3, 5, 11, 21),
}


TITLES = {"seconds": "Processor seconds:", "mib": "MiB at most, beyond what model and optimiser hold:"}


def measure() -> list[dict[str, float | str]]:
    """Return a row per axis, size and turn; the first turn warms up and is left out."""
    rows: list[dict[str, float | str]] = []
    for axis, sizes in AXES.items():
        made = {size: steps(axis, size) for size in sizes}
        for turn in range(TURNS + 1):
            for size, step in made.items():
                began = time.process_time()
                with world.peak() as held:
                    step()
                spent = time.process_time() - began
                rows.append({"axis": axis, "size": size, "turn": turn, "seconds": spent, "mib": held[0]})
    return [row for row in rows if row["turn"]]


def page(rows: list[dict[str, float | str]]) -> str:
    """Return the benchmark's page."""
    parts = (__doc__ or "").split("\n\n")
    command = f"```\n{parts[1].strip()}\n```"
    tables = [f"{TITLES[column]}\n\n{_table(rows, column)}" for column in TITLES]
    text = f"{parts[2].strip()}\nMedians of {TURNS} turns."
    return "\n\n".join(["# How cost grows", command, text, *tables]) + "\n"


def _table(rows: list[dict[str, float | str]], column: str) -> str:
    lines = []
    for axis, sizes in AXES.items():
        medians = [
            statistics.median(float(r[column]) for r in rows if (r["axis"], r["size"]) == (axis, s)) for s in sizes
        ]
        slope = np.polyfit(np.log(sizes), np.log(medians), 1)[0]
        shown = [f"{size}: {median:.3g}" for size, median in zip(sizes, medians, strict=True)]
        lines.append([axis, *shown, f"{slope:.2f}"])
    return table(["axis", *["size: median"] * 4, "slope"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure()
    pq.write_table(pa.Table.from_pylist(rows), given.out)
    print(page(rows))


if __name__ == "__main__":
    main()
