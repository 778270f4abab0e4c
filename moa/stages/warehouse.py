"""Collects every table of every task in one DuckDB file that any client from 1.0 on can open.

Tables, not views: views over Parquet paths break from another folder and need file access. The file is built beside its
place and renamed, so that it is complete or absent.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from moa import provenance, tables
from moa.errors import MoaError
from moa.stages import common

STORAGE = "v1.0.0"  # readable by every DuckDB from 1.0 on
BY_NAME = {table.name: table for table in tables.ALL}
LEADERBOARD_SQL = Path(__file__).parent.parent / "report" / "leaderboard.sql"
# child table, its columns, parent table: every child row has a parent row
KEYS = (
    ("reference_scores", ("task", "method", "seed", "point", "prompt_id", "sample"), "reference_responses"),
    ("text_scores", ("task", "text_id"), "texts"),
    ("generations", ("task", "prompt_id"), "prompts"),
    ("scores", ("task", "method", "seed", "point", "prompt_id", "sample"), "generations"),
    ("points", ("task", "method", "seed", "point"), "quality"),
    ("quality", ("task", "method", "seed", "point"), "generations"),
    ("metrics", ("task", "method", "seed"), "quality"),
    ("scores", ("task", "objective"), "normaliser"),
    ("curves", ("task", "method", "policy"), "policies"),
    *((table.name, ("task",), "runs") for table in tables.ALL if table is not tables.RUNS),
)


def build(runs: Sequence[Path], out: Path) -> None:
    """Write `out` from the run.parquet of each task; a locked, incomplete or inconsistent input is a MoaError."""
    if not runs:
        raise MoaError("no run.parquet given; run snakemake first")
    _refuse_locked(out)
    tables.atomically(out, lambda temporary: _build(runs, temporary))


def _refuse_locked(out: Path) -> None:
    """A client that writes to the old file would lose its work without a word: readers may stay, a writer is an error."""
    if not out.exists():
        return
    try:
        duckdb.connect(str(out), read_only=True).close()
    except duckdb.IOException as error:
        if "lock" in str(error):
            raise MoaError(f"{out}: another process has opened the database for writing; close it and run snakemake again ({_first_line(error)})") from None
        # not a database: it is about to be replaced


def _build(runs: Sequence[Path], out: Path) -> None:
    out.unlink()  # DuckDB wants to create the file itself
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH {_quoted(str(out))} AS warehouse (STORAGE_VERSION '{STORAGE}')")
        connection.execute("USE warehouse")
        for table in tables.ALL:
            connection.execute(_create(table))
        seen: dict[str, Path] = {}
        for path in runs:
            for run in tables.read(tables.RUNS, path).to_pylist():
                if run["task"] in seen:
                    raise MoaError(f"{path}: task '{run['task']}' is in {seen[run['task']]} as well; give each task a name of its own")
                seen[run["task"]] = path
                _load(connection, path, run)
        connection.execute(f"INSERT INTO leaderboard BY NAME {LEADERBOARD_SQL.read_text(encoding='utf-8')}")
        _check_keys(connection)
        _comment(connection)
        connection.execute("USE memory")
        connection.execute("DETACH warehouse")


def _create(table: tables.Table) -> str:
    columns = ", ".join(f'"{name}" {sql_type(column.type)}{"" if column.null else " NOT NULL"}' for name, column in table.columns.items())
    return f"CREATE TABLE {table.name} ({columns})"


def sql_type(kind: pa.DataType) -> str:
    """Return DuckDB's name of a column type of moa/tables.py."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    names = {tables.STRING: "VARCHAR", tables.INT: "BIGINT", tables.FLOAT: "DOUBLE", tables.SCORE: "FLOAT", tables.BOOL: "BOOLEAN"}
    return names[kind]


def _load(connection: duckdb.DuckDBPyConnection, path: Path, run: Mapping[str, Any]) -> None:
    """Insert the run, the policies of its rows and every table file that it lists."""
    _insert(connection, tables.RUNS, tables.from_rows(tables.RUNS, [run]))
    rows = [{"task": run["task"], "method": method, **policy} for method, used in json.loads(run["policies"]).items() for policy in used]
    _insert(connection, tables.POLICIES, tables.from_rows(tables.POLICIES, rows))
    for name, expected in json.loads(run["files"]).items():
        file = path.parent / name
        if file.suffix != ".parquet":
            continue
        if not file.exists():
            raise MoaError(f"{file}: listed by {path} but not there; run snakemake again to make it")
        if provenance.file_hash(file) != expected:
            raise MoaError(f"{file}: changed since {path} described it; run snakemake again, or delete the file if you edited it")
        table = _table_of(file)
        data = tables.read(table, file)
        tasks = set(data["task"].to_pylist()) - {run["task"]}
        if tasks:
            raise MoaError(f"{file}: holds rows of task '{min(tasks)}', expected '{run['task']}'")
        _insert(connection, table, data)


def _table_of(file: Path) -> tables.Table:
    try:
        metadata = pq.read_schema(file).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise MoaError(f"{file}: not a readable Parquet file ({error}); delete it and run snakemake again") from error
    name = metadata.get(b"moa.table", b"none").decode()
    if name not in BY_NAME:
        raise MoaError(f"{file}: holds table '{name}', which moa/tables.py does not know; delete it and run snakemake again")
    return BY_NAME[name]


def _insert(connection: duckdb.DuckDBPyConnection, table: tables.Table, data: pa.Table) -> None:
    connection.register("incoming", data)
    connection.execute(f"INSERT INTO {table.name} BY NAME SELECT * FROM incoming")
    connection.unregister("incoming")


def _check_keys(connection: duckdb.DuckDBPyConnection) -> None:
    """Check that keys are unique over all files and that no row is an orphan."""
    for table in tables.ALL:
        key = ", ".join(table.key)
        twice = connection.execute(f"SELECT {key} FROM {table.name} GROUP BY {key} HAVING count(*) > 1 LIMIT 1").fetchone()
        if twice:
            raise MoaError(f"table {table.name}: two rows with {key} = {', '.join(map(str, twice))}; a file is given twice, run snakemake again")
    for child, columns, parent in KEYS:
        joined = ", ".join(columns)
        orphans = connection.execute(f"SELECT {joined}, count(*) OVER () FROM (SELECT DISTINCT {joined} FROM {child}) ANTI JOIN {parent} USING ({joined})").fetchone()
        if orphans:
            raise MoaError(
                f"table {child}: {orphans[-1]} keys without a row in table {parent}, first {joined} = {', '.join(map(str, orphans[:-1]))}; "
                f"its files are older or newer than those of {parent}: run snakemake again"
            )


def _comment(connection: duckdb.DuckDBPyConnection) -> None:
    for table in tables.ALL:
        connection.execute(f"COMMENT ON TABLE {table.name} IS {_quoted(table.meaning)}")
        for name, column in table.columns.items():
            meaning = column.meaning + (f" (NULL: {column.null})" if column.null else "")
            connection.execute(f'COMMENT ON COLUMN {table.name}."{name}" IS {_quoted(meaning)}')


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def main(arguments: argparse.Namespace) -> None:
    build(arguments.runs, arguments.out)


if __name__ == "__main__":
    common.run(main, common.parser(__doc__, "runs*", "out"))
