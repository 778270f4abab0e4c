"""The campaign's table, and its place in a document."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

Rows = Sequence[Mapping[str, Any]]
BEGIN, END = "<!-- table: python -m benchmarks.faults -->", "<!-- end of table -->"
HEAD = "| kind | tried | survived | bytes compared | equal | what differed or failed |\n|---|---:|---:|---:|---:|---|"
SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("number", pa.int64()),
        ("seed", pa.int64()),
        ("what", pa.string()),
        ("how", pa.string()),
        ("tried", pa.int64()),
        ("survived", pa.bool_()),
        ("equal", pa.bool_()),
        ("outcome", pa.string()),
        ("said", pa.string()),
        ("differed", pa.string()),
        ("seconds", pa.float64()),
    ]
)
SHOWN = 6  # failures that the table names; the Parquet file has all
NAMES = {
    "kill": "kills, several in one run",
    "damaged": "damaged files",
    "damaged-own": "damaged files of the user",
    "checkpoint": "damaged checkpoints",
    "hostile-experiment": "hostile experiment files",
    "hostile-data": "hostile data files",
    "hostile-model": "hostile model folders",
    "statement": "hostile SQL statements",
    "disk": "full disks",
    "reward": "rewards that fail",
}


def table(rows: Rows) -> str:
    """Return the table, a line per kind: an attempt counts as often as its trial tried something."""
    lines = [HEAD]
    for kind in [k for k in NAMES if any(r["kind"] == k for r in rows)]:
        found = [r for r in rows if r["kind"] == kind]
        tried, survived = (sum(r["tried"] for r in some) for some in (found, [r for r in found if r["survived"]]))
        compared = sum(r["tried"] for r in found if r["equal"] is not None)
        equal = sum(r["tried"] for r in found if r["equal"])
        lines.append(f"| {NAMES[kind]} | {tried} | {survived} | {compared} | {equal} | {_failures(found)} |")
    return "\n".join(lines)


def _failures(rows: Rows) -> str:
    failed = sorted((r for r in rows if not r["survived"]), key=lambda r: r["number"])
    names = [f"{r['kind']}-{r['number']}" for r in failed]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) + more) or "nothing"


def write(path: Path, rows: Rows) -> None:
    """Write the table between the two marks of a document."""
    text = path.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"error: {path}: the lines {BEGIN} and {END} are not both there")
    seeds = ", ".join(str(s) for s in sorted({r["seed"] for r in rows}))
    minutes = sum(r["seconds"] for r in rows) / 60
    note = f"Seed {seeds}, {len(rows)} trials, {minutes:.0f} minutes."
    path.write_text(f"{head}{begin}\n\n{table(rows)}\n\n{note}\n\n{end}{tail}", encoding="utf-8")
