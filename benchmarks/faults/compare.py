"""Compares two folders of results byte for byte; only documented columns, such as timings, may differ."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file

# What may differ between two runs of one experiment: what was measured with a clock, and hashes of files that hold it.
TIMED = {
    "costs": ("seconds", "cpu_seconds", "peak_memory"),
    "leaderboard": ("seconds", "generation_seconds"),
}
TIMED_QUANTITIES = ("seconds", "tokens_per_second", "memory")  # of table curves
TIMED_FILES = ("costs/", "curves/")  # whose hashes run.parquet lists
IGNORED = (".lock", ".tmp")
SHOWN = (".html", ".sha256")  # pages show timings, marks hash pages and database: only that they are there is compared
MAY_DIFFER = (
    "costs." + ", costs.".join(TIMED["costs"]),
    "curves.value of " + ", ".join(TIMED_QUANTITIES),
    "leaderboard." + ", leaderboard.".join(TIMED["leaderboard"]),
    "runs.files of " + ", ".join(TIMED_FILES),
)


def differences(right: Path, tried: Path) -> list[str]:
    """Return one line per file of `tried` that is missing, surplus or not as in `right`; two files or two folders."""
    if right.is_file() and tried.is_file():
        return [f"{tried.name}: {found}" for found in [_difference(right, tried)] if found]
    names = {p.relative_to(folder) for folder in (right, tried) for p in folder.rglob("*") if p.is_file()}
    lines = []
    for name in sorted(names):
        if name.suffix in IGNORED:
            continue
        if not (tried / name).is_file():
            lines.append(f"{name}: missing")
        elif not (right / name).is_file():
            lines.append(f"{name}: surplus")
        elif found := _difference(right / name, tried / name):
            lines.append(f"{name}: {found}")
    return lines


def _difference(right: Path, tried: Path) -> str:
    if right.read_bytes() == tried.read_bytes():
        return ""
    if right.suffix in SHOWN:
        return "" if tried.stat().st_size else "empty"
    if right.suffix == ".parquet":
        return _tables(*(pq.read_table(path, use_threads=False, partitioning=None) for path in (right, tried)))
    if right.suffix == ".duckdb":
        return _databases(right, tried)
    if right.suffix == ".safetensors":
        return _tensors(right, tried)
    return "bytes"


def _tables(right: pa.Table, tried: pa.Table) -> str:
    """Return the first column that differs; what was measured with a clock is left out."""
    if right.schema.metadata != tried.schema.metadata or right.schema != tried.schema:
        return "schema or metadata"
    name = (right.schema.metadata or {}).get(b"moa.table", b"").decode()
    return _rows(name, right.to_pylist(), tried.to_pylist(), right.schema.names)


def _rows(table: str, right: list[dict[str, Any]], tried: list[dict[str, Any]], columns: list[str]) -> str:
    if len(right) != len(tried):
        return f"{len(tried)} rows instead of {len(right)}"
    free = TIMED.get(table, ())
    if table == "curves":
        right, tried = ([r for r in rows if r["quantity"] not in TIMED_QUANTITIES] for rows in (right, tried))
    if table == "runs":
        right, tried = ([{**r, "files": _untimed(r["files"])} for r in rows] for rows in (right, tried))
    if free or table in ("curves", "runs"):
        differing = [c for c in columns if c not in free and [r[c] for r in right] != [r[c] for r in tried]]
        return f"columns {', '.join(differing)}" if differing else ""
    differing = [c for c in columns if [r[c] for r in right] != [r[c] for r in tried]]
    return f"columns {', '.join(differing)}" if differing else "bytes, with equal values"


def _untimed(files: str) -> dict[str, str]:
    return {k: "" if k.startswith(TIMED_FILES) else v for k, v in json.loads(files).items()}


def _databases(right: Path, tried: Path) -> str:
    with duckdb.connect(str(right), read_only=True) as one, duckdb.connect(str(tried), read_only=True) as other:
        names, found = (
            [n for (n,) in c.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()]
            for c in (one, other)
        )
        if names != found:
            return f"tables {found}"
        for name in names:
            rows = []
            for connection in (one, other):
                result = connection.execute(f"SELECT * FROM {name}")
                columns = [c[0] for c in result.description or []]
                rows.append([dict(zip(columns, r, strict=True)) for r in result.fetchall()])
            said = _rows(name, rows[0], rows[1], columns)
            if said and said != "bytes, with equal values":
                return f"table {name}: {said}"
    return ""


def _tensors(right: Path, tried: Path) -> str:
    try:
        one, other = load_file(right), load_file(tried)
    except (SafetensorError, OSError) as error:
        return f"unreadable ({error})"
    if one.keys() != other.keys():
        return "names of tensors"
    wrong = [k for k in one if one[k].tobytes() != other[k].tobytes()]
    return f"{len(wrong)} of {len(one)} tensors, first {wrong[0]}" if wrong else "bytes, with equal values"
