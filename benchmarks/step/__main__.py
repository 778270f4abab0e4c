"""One training step against peers and against the least work.

    python -m benchmarks.step --shape embedded
    python -m benchmarks.step --shape 135m --pairs 5
    python -m benchmarks.step --shape 7b --arms ours --pairs 2 --memory 48        (an NVIDIA GPU)

The arms do the same work: model, prompts (16 of 45 tokens), response tokens (64 of forced lengths up to 48), rewards,
optimiser steps (4 of 16 responses) and trained parameters. They take turns; every pair of turns gives one ratio.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.step import world
from benchmarks.step.least import Least
from benchmarks.step.ours import Ours
from benchmarks.step.world import SHAPES, Phases, memory

PHASES = ("rollout", "scoring", "reading", "update", "other")
CONTEXT = 0.6 * 2**30  # bytes of a CUDA context
ARMS = ("ours", "gae", "three objectives", "eight objectives", "trl", "plain")


def build(name: str, given: world.World) -> Any:
    """Return an arm, ready for its first step."""
    if name in ("trl", "plain"):
        from benchmarks.step import peers

        return peers.Trl(given) if name == "trl" else peers.Plain(given)
    objectives = {"three objectives": 3, "eight objectives": 8}.get(name, 2)
    return Ours(given, objectives, "gae" if name == "gae" else "group")


def turn(name: str, arm: Any, number: int) -> list[dict[str, Any]]:
    """Do one step and return a row per phase."""
    phases: Phases = arm.phases
    phases.spent.clear()
    arm.step()
    return [
        {"arm": name, "turn": number, "phase": phase, "seconds": spent[0], "cpu_seconds": spent[1], "mib": memory()}
        for phase, spent in phases.spent.items()
    ]


def least_rows(given: world.World, number: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Time the least work once and return a row per part."""
    return [
        {
            "arm": "least",
            "turn": number,
            "phase": part.name,
            "seconds": part.seconds,
            "cpu_seconds": part.seconds,
            "flop": part.flop,
        }
        for part in Least(given, dtype).parts()
    ]


def measure(given: world.World, arms: list[str], pairs: int) -> list[dict[str, Any]]:
    """Let the arms take turns after one step each to warm up; the least work is timed before and after."""
    made = {name: build(name, given) for name in arms}
    for name, arm in made.items():
        turn(name, arm, -1)
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    rows = least_rows(given, 0, dtype)
    for number in range(pairs):
        for name, arm in made.items():
            rows += turn(name, arm, number)
    rows += least_rows(given, 1, dtype)
    tokens = sum(given.lengths)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    shared = {"shape": given.shape, "device": device, "threads": torch.get_num_threads(), "response_tokens": tokens}
    return [{**shared, "flop": None, "mib": None, **row} for row in rows]


def totals(rows: list[dict[str, Any]], arm: str) -> list[float]:
    """Return the arm's seconds per turn."""
    turns = sorted({row["turn"] for row in rows if row["arm"] == arm})
    return [sum(row["seconds"] for row in rows if row["arm"] == arm and row["turn"] == t) for t in turns]


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table: medians per arm and phase, tokens/s, and the ratio of whole steps."""
    arms = list(dict.fromkeys(row["arm"] for row in rows if row["arm"] != "least"))
    ours, tokens = totals(rows, "ours"), rows[0]["response_tokens"]
    lines = [
        f"| arm | {' | '.join(PHASES)} | step (s) | CPU (s) | tokens/s | MiB | step, of ours (range) |",
        "|---|" + "---:|" * (len(PHASES) + 5),
    ]
    for arm in arms:
        whole = totals(rows, arm)
        median = statistics.median(whole)
        ratios = [a / b for a, b in zip(whole, ours, strict=True)]
        cells = [f"{_median(rows, arm, phase, 'seconds'):.2f}" for phase in PHASES]
        cpu = sum(_median(rows, arm, phase, "cpu_seconds") for phase in PHASES)
        held = max(row["mib"] for row in rows if row["arm"] == arm)
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        cells += [f"{median:.2f}", f"{cpu:.2f}", f"{tokens / median:.0f}", f"{held:.0f}", spread]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    least = statistics.median(totals(rows, "least"))
    cells = [f"{least:.2f}", "", f"{tokens / least:.0f}", "", f"{least / statistics.median(ours):.2f}"]
    lines.append(f"| least work |{' |' * len(PHASES)} {' | '.join(cells)} |")
    return lines


def _median(rows: list[dict[str, Any]], arm: str, phase: str, column: str) -> float:
    found = [row[column] for row in rows if row["arm"] == arm and row["phase"] == phase]
    return statistics.median(found) if found else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="embedded")
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", type=float, help="GB of the card that may be used, its CUDA context included")
    parser.add_argument("--out", type=Path, help="the rows; step_SHAPE.parquet beside this script without it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory and torch.cuda.is_available():
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (args.memory * 1e9 - CONTEXT) / whole))
    sizes = {"prompt": 256, "limit": 128} if args.shape == "7b" else {}
    rows = measure(world.make(args.shape, **sizes), args.arms, args.pairs)
    out = args.out or Path(__file__).with_name(f"step_{args.shape}.parquet")
    pq.write_table(pa.Table.from_pylist(rows), out)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
