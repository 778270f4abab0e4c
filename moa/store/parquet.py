"""Tables as Parquet files: what a table is, one writer, one reader; moa/store/tables.py says which tables there are.

A stage writes a table with `write` (validate, temporary file in the same folder, fsync, rename) and reads it with
`read`, which refuses what is truncated, foreign or of another version.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moa.errors import MoaError, one_line
from moa.store.files import atomically

VERSION = "2"


@dataclass(frozen=True)
class Column:
    """One column: Arrow type, unit and meaning; `null` says what NULL means where it is allowed."""

    type: pa.DataType
    meaning: str
    null: str = ""


@dataclass(frozen=True)
class Table:
    """One table: its columns in order, and the columns that together identify a row."""

    name: str
    meaning: str
    key: tuple[str, ...]
    columns: Mapping[str, Column]

    @property
    def schema(self) -> pa.Schema:
        fields = [
            pa.field(n, c.type, nullable=bool(c.null), metadata={"meaning": c.meaning}) for n, c in self.columns.items()
        ]
        return pa.schema(fields, metadata={"moa.table": self.name, "moa.version": VERSION})


STRING, INT, FLOAT, SCORE, BOOL = pa.string(), pa.int64(), pa.float64(), pa.float32(), pa.bool_()
VECTOR = pa.list_(pa.field("element", FLOAT, nullable=False))


def from_rows(table: Table, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return an Arrow table of `table`'s schema from dictionaries; a missing or unknown column is a MoaError."""
    listed = list(rows)
    for index, row in enumerate(listed):
        if set(row) != set(table.columns):
            raise MoaError(
                f"table {table.name}, row {index}: missing {sorted(set(table.columns) - set(row))}, unknown"
                f" {sorted(set(row) - set(table.columns))}"
            )
    try:
        return pa.Table.from_pylist(listed, schema=table.schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise MoaError(f"table {table.name}: {one_line(error)}") from error


def validate(table: Table, data: pa.Table, where: str) -> None:
    """Raise a MoaError that names `where`, the column and the fault.

    Faults are wrong names or types, nulls, numbers that are not finite, duplicate keys and wrong preferences.
    """
    if data.schema.names != list(table.columns):
        missing, unknown = (
            sorted(set(table.columns) - set(data.schema.names)),
            sorted(set(data.schema.names) - set(table.columns)),
        )
        raise MoaError(
            f"{where}: columns of table {table.name}: missing {missing}, unknown {unknown}, expected"
            f" {list(table.columns)}"
        )
    for name, column in table.columns.items():
        _check_column(f"{where}: column {name} of table {table.name}", data[name], column)
    if data.num_rows and data.group_by(list(table.key)).aggregate([]).num_rows != data.num_rows:
        raise MoaError(f"{where}: table {table.name} has rows with the same {', '.join(table.key)}")
    if "preference" in table.columns:
        _check_preferences(data["preference"], where)


def _check_column(what: str, values: pa.ChunkedArray, column: Column) -> None:
    if values.type != column.type:
        raise MoaError(f"{what} is {values.type}, expected {column.type}")
    if values.null_count and not column.null:
        raise MoaError(f"{what} holds {values.null_count} nulls")
    if pa.types.is_list(column.type):
        values = pc.list_flatten(values)
        if values.null_count:
            raise MoaError(f"{what} holds nulls inside {values.null_count} lists")
    if pa.types.is_floating(values.type) and not pc.all(pc.is_finite(values), min_count=0).as_py():
        raise MoaError(f"{what} is NaN or infinite, first in value {pc.index(pc.is_finite(values), False).as_py()}")


def _check_preferences(column: pa.ChunkedArray, where: str) -> None:
    lists = column.drop_null().combine_chunks()
    values = lists.flatten().to_numpy()
    parents = pc.list_parent_indices(lists).to_numpy()
    off = abs(np.bincount(parents, weights=values, minlength=len(lists)) - 1) > 1e-6
    off[parents[values < 0]] = True
    if off.any():
        raise MoaError(
            f"{where}: preference {lists[int(off.argmax())].as_py()} is off the simplex (weights >= 0 that sum to 1)"
        )


def write(
    table: Table, data: pa.Table | Iterable[Mapping[str, Any]], path: Path, notes: Mapping[str, str] | None = None
) -> None:
    """Write `data` to `path` so that the file is either complete or absent; `notes` join its key-value metadata."""
    arrow = data if isinstance(data, pa.Table) else from_rows(table, data)
    validate(table, arrow, str(path))
    arrow = arrow.cast(table.schema).replace_schema_metadata({**(table.schema.metadata or {}), **(notes or {})})
    atomically(path, lambda temporary: pq.write_table(arrow, temporary, compression="zstd", write_page_checksum=True))


def read(table: Table, path: Path) -> pa.Table:
    """Read and check a table; a truncated, foreign or outdated file is a MoaError that says how to make it anew."""
    remedy = "delete it and run snakemake again: the stage that makes it will rerun"
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            data = file.read()
        data.validate(full=True)
        metadata = {key.decode(): value.decode() for key, value in (data.schema.metadata or {}).items()}
    except FileNotFoundError as error:
        raise MoaError(f"{path}: no such file; run the stage that makes table {table.name}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise MoaError(f"{path}: not a readable Parquet file ({one_line(error)}); {remedy}") from error
    found, version = metadata.get("moa.table", "none"), metadata.get("moa.version", "none")
    if found != table.name:
        raise MoaError(f"{path}: holds table '{found}', expected '{table.name}'; {remedy}")
    if version != VERSION:
        raise MoaError(f"{path}: written by schema version {version}, this is {VERSION}; {remedy}")
    validate(table, data, str(path))
    return data
