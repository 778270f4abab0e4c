"""Writes the rows of a query: a table for reading, CSV or JSON for all of it, a batch at a time."""

import csv
import json
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Literal, TextIO

import duckdb
from duckdb.sqltypes import DuckDBPyType

from moa.errors import MoaError, visible
from moa.store import terminal
from moa.store.limits import Clock

Output = Literal["table", "csv", "json"]
TABLE_ROWS = 200
TABLE_CHARACTERS = 120
BATCH = 1_000
INTEGERS = {f"{sign}{size}" for sign in ("", "u") for size in ("tinyint", "smallint", "integer", "bigint", "hugeint")}
PLAIN = {*INTEGERS, "boolean", "float", "double", "varchar", "null"}  # Python has them exactly


class Result:
    """The rows of a query, in types that every output can write; read once, a batch at a time."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, sql: str, output: Output, clock: Clock) -> None:
        with clock.running():
            asked = connection.sql(sql)
            self.names: list[str] = list(asked.columns)
            wanted = [_wanted(kind, output) for kind in asked.types]
            columns = [f"#{i}" if to is None else f"CAST(#{i} AS {to})" for i, to in enumerate(wanted, start=1)]
            cast = asked.project(", ".join(columns)).sql_query() if any(wanted) else sql
            connection.execute(cast)
        self.connection, self.clock = connection, clock

    def rows(self, most: int | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield every row, or the first `most`."""
        size = BATCH if most is None else most
        while batch := self._batch(size):
            yield from batch
            if most is not None:
                return

    def _batch(self, size: int) -> list[tuple[Any, ...]]:
        with self.clock.running():
            return self.connection.fetchmany(size)


def _wanted(kind: DuckDBPyType, output: Output) -> str | None:
    """Return the type to which the database casts a column before Python reads it; None where none is needed.

    Python's own types for dates, times, intervals and blobs lose a part of them, and time zones need a package more.
    """
    if output == "json":
        inner = _json_type(kind)
        return None if inner == str(kind) else inner
    if kind.id in PLAIN or (output == "table" and _numbers(kind)):
        return None
    return "VARCHAR"


def _json_type(kind: DuckDBPyType) -> str:
    """Return the nearest type that is a value of JSON: a number, text, a list or an object."""
    if kind.id in PLAIN:
        return str(kind)
    if kind.id == "decimal":
        return "DOUBLE"
    if kind.id in ("list", "array"):
        return f"{_json_type(_child(kind, 0))}[]"
    if kind.id == "map":
        return f"MAP(VARCHAR, {_json_type(_child(kind, 1))})"
    if kind.id == "struct" and all(name for name, _ in kind.children):
        names = [str(name).replace('"', '""') for name, _ in kind.children]
        return "STRUCT(" + ", ".join(f'"{n}" {_json_type(_child(kind, i))}' for i, n in enumerate(names)) + ")"
    return "VARCHAR"


def _child(kind: DuckDBPyType, at: int) -> DuckDBPyType:
    found = kind.children[at][1]
    assert isinstance(found, DuckDBPyType), "lists, arrays, maps and structs have types as children"
    return found


def _numbers(kind: DuckDBPyType) -> bool:
    return kind.id == "list" and _child(kind, 0).id in ("float", "double")


def write(result: Result, output: Output, stream: TextIO) -> None:
    """Write the rows of a result."""
    match output:
        case "csv":
            _write_csv(result, terminal.writer(stream))
        case "json":
            _write_json(result, terminal.writer(stream))
        case "table":
            _write_table(result, stream)


def _write_csv(result: Result, write: Callable[[str], object]) -> None:
    writer = csv.writer(SimpleNamespace(write=write), lineterminator="\n")
    writer.writerow(result.names)
    writer.writerows(result.rows())


def _write_json(result: Result, write: Callable[[str], object]) -> None:
    """Write a list of objects, one per line. NaN and infinities, which JSON does not have, become null."""
    if len(set(result.names)) < len(result.names):
        raise MoaError(f"columns {result.names}: JSON needs different names; rename one with AS")
    write("[")
    for i, row in enumerate(result.rows()):
        found = dict(zip(result.names, map(_finite, row), strict=True))
        write((",\n " if i else "\n ") + json.dumps(found))
    write("\n]\n")


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_table(result: Result, stream: TextIO) -> None:
    rows = list(result.rows(TABLE_ROWS + 1))
    numbers = {
        i
        for i in range(len(result.names))
        if rows and all(isinstance(row[i], int | float | None) for row in rows[:TABLE_ROWS])
    }
    cells = [[_cell(value) for value in row] for row in rows[:TABLE_ROWS]]
    terminal.show(terminal.Table(result.names, cells, numbers), stream)
    if len(rows) > TABLE_ROWS:
        terminal.say(f"the first {TABLE_ROWS} rows; csv and json give all", stream)


def _cell(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "[" + ", ".join("NULL" if item is None else f"{item:.4g}" for item in value) + "]"
    text = visible(str(value))
    return text if len(text) <= TABLE_CHARACTERS else text[: TABLE_CHARACTERS - 3] + "..."
