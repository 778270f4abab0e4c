"""Collects every table of every task in one DuckDB file that any client from 1.0 on can open.

Tables, not views: views over Parquet paths break from another folder and need file access. The file is built beside its
place and renamed, so that it is complete or absent. The task that has just run must load; another task on disk whose
files are half rerun or outdated is left out with a warning, so that it cannot stop this one.
"""

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from moa.errors import MoaError
from moa.experiment.schema import TaskSection
from moa.job import command
from moa.store import provenance, sql, tables
from moa.store.files import atomically

log = logging.getLogger("moa")
STORAGE = "v1.0.0"  # readable by every DuckDB from 1.0 on
# What a user has added: the tables that are made here all have comments.
OTHERS = """
SELECT table_name FROM duckdb_tables() WHERE comment IS NULL
UNION ALL SELECT view_name FROM duckdb_views() WHERE NOT internal
ORDER BY ALL
"""
BY_NAME = {table.name: table for table in tables.ALL}
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


def build(runs: Sequence[Path], out: Path, task: str | None = None) -> None:
    """Write `out` from the run.parquet of each task.

    Args:
        runs: run.parquet files; the tables that each lists are found relative to its folder.
        out: the database.
        task: the task that must load; others are left out with a warning where they do not. None: all must load.

    Raises:
        MoaError: a database that must be kept; a file that is missing, foreign or changed; duplicate keys; orphan rows.
    """
    if not runs:
        raise MoaError("no run.parquet given; run snakemake first")
    refuse_to_replace(out)

    def write(temporary: Path) -> None:
        _build_or_clean(runs, temporary, task)
        refuse_to_replace(out)  # somebody may have come meanwhile

    atomically(out, write)


def _build_or_clean(runs: Sequence[Path], out: Path, task: str | None) -> None:
    try:
        _build(runs, out, task)
    except (
        duckdb.IOException,
        duckdb.TransactionException,
        duckdb.FatalException,
    ) as error:  # all inputs are in memory: these are about writing
        raise MoaError(
            f"{out.parent}: the database cannot be written ({_first_line(error)}); free some space and run the same"
            " command again"
        ) from None
    finally:
        out.with_name(out.name + ".wal").unlink(missing_ok=True)


def refuse_to_replace(out: Path) -> None:
    """Refuse to replace what is not this stage's alone: a client's work would be lost without a word.

    Readers may stay.

    Raises:
        MoaError: another process writes to the database, or died while it did; it holds tables of somebody else; it
            cannot be opened, or is no file.
    """
    again, changes = "and run snakemake again", out.with_name(out.name + ".wal")
    if out.exists() and not out.is_file():
        raise MoaError(f"{out}: not a file, and it is kept; move it away {again}")
    found, damage = [], ""
    try:
        if out.exists():
            with duckdb.connect(str(out), read_only=True) as connection:
                found = connection.execute(OTHERS).fetchall()
    except duckdb.Error as error:
        damage = _first_line(error)
    if "lock on file" in damage:
        raise MoaError(f"{out}: another process has opened the database for writing; close it {again} ({damage})")
    if changes.exists():
        raise MoaError(
            f"{changes}: changes of a program that was killed; open and close {out.name} once with duckdb, {again}"
        )
    if damage:
        raise MoaError(
            f"{out}: damaged, or not a database, and it is kept; move it away or delete it, {again} ({damage})"
        )
    if found:
        names = ", ".join(f"'{name}'" for (name,) in found)
        raise MoaError(
            f"{out}: holds {names}, which moa did not make and a new database would not have; export it, or move the"
            f" file away, {again}"
        )


def _build(runs: Sequence[Path], out: Path, task: str | None) -> None:
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH {_quoted(str(out))} AS warehouse (STORAGE_VERSION '{STORAGE}')")
        connection.execute("USE warehouse")
        connection.execute("BEGIN")  # one flush to disk instead of one per statement
        for table in tables.ALL:
            connection.execute(_create(table))
            _comment(connection, table)
            if any(pa.types.is_list(column.type) for column in table.columns.values()):
                _insert(connection, table, _placeholder(table))
        connection.execute("COMMIT")
        loaded: dict[str, Path] = {}
        for path in runs:
            _load_run(connection, path, task, loaded)
        if task is not None and task not in loaded:
            raise MoaError(f"no run.parquet of task '{task}' among {', '.join(map(str, runs))}")
        for table in tables.ALL:
            connection.execute(f"DELETE FROM {table.name} WHERE task = ''")
        connection.execute(f"INSERT INTO leaderboard BY NAME {sql.LEADERBOARD}")
        connection.execute("USE memory")
        connection.execute("DETACH warehouse")


def _load_run(connection: duckdb.DuckDBPyConnection, path: Path, required: str | None, loaded: dict[str, Path]) -> None:
    name = path.parent.name  # of a run.parquet that cannot be read
    connection.execute("BEGIN")
    try:
        rows = tables.read(tables.RUNS, path).to_pylist()
        if len(rows) != 1:
            raise MoaError(f"{path}: {len(rows)} rows, expected one")
        name = rows[0]["task"]
        if name in loaded:
            raise MoaError(f"{path}: task '{name}' is in {loaded[name]} as well; give each task a name of its own")
        _load(connection, path, rows[0])
        _check_keys(connection, name)
    except MoaError as error:
        connection.execute("ROLLBACK")
        if required is None or name == required:
            raise
        log.warning("task '%s' is left out of the database: %s", name, error)
        return
    connection.execute("COMMIT")
    loaded[name] = path


def _create(table: tables.Table) -> str:
    columns = ", ".join(
        f'"{name}" {sql.sql_type(column.type)}{"" if column.null else " NOT NULL"}'
        for name, column in table.columns.items()
    )
    return f"CREATE TABLE {table.name} ({columns})"


def _placeholder(table: tables.Table) -> pa.Table:
    """Return one row without NULLs that is deleted before the file is closed; its task is ''.

    DuckDB 1.0.0 cannot read a column of lists, written by DuckDB 2.0, that holds no element at all, as table
    reference_responses does (no preferences). A deleted row leaves its element on disk.
    """
    return tables.from_rows(
        table, [{name: _BLANKS[sql.sql_type(column.type)] for name, column in table.columns.items()}]
    )


_BLANKS: dict[str, Any] = {
    "VARCHAR": "",
    "BIGINT": 0,
    "DOUBLE": 0.0,
    "FLOAT": 0.0,
    "BOOLEAN": False,
    "DOUBLE[]": [0.0],
    "VARCHAR[]": [""],
}


def _load(connection: duckdb.DuckDBPyConnection, path: Path, run: Mapping[str, Any]) -> None:
    """Insert the run, the policies of its rows and every table file that it lists."""
    _insert(connection, tables.RUNS, tables.from_rows(tables.RUNS, [run]))
    rows = [
        {"task": run["task"], "method": method, **policy}
        for method, used in json.loads(run["policies"]).items()
        for policy in used
    ]
    _insert(connection, tables.POLICIES, tables.from_rows(tables.POLICIES, rows))
    for name, expected in json.loads(run["files"]).items():
        file = path.parent / name
        if file.suffix != ".parquet":
            continue
        if not file.exists():
            raise MoaError(f"{file}: listed by {path} but not there; run snakemake again to make it")
        if provenance.file_hash(file) != expected:
            raise MoaError(
                f"{file}: changed since {path} described it; run snakemake again, or delete the file if you edited it"
            )
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
        raise MoaError(
            f"{file}: holds table '{name}', which moa/store/tables.py does not know; delete it and run snakemake again"
        )
    return BY_NAME[name]


def _insert(connection: duckdb.DuckDBPyConnection, table: tables.Table, data: pa.Table) -> None:
    connection.register("incoming", data)
    connection.execute(f"INSERT INTO {table.name} BY NAME SELECT * FROM incoming")
    connection.unregister("incoming")


def _check_keys(connection: duckdb.DuckDBPyConnection, task: str) -> None:
    """Check that the task's keys are unique over all its files and that no row is an orphan."""
    for table in tables.ALL:
        key = ", ".join(table.key)
        twice = connection.execute(
            f"SELECT {key} FROM {table.name} WHERE task = ? GROUP BY {key} HAVING count(*) > 1 LIMIT 1", [task]
        ).fetchone()
        if twice:
            raise MoaError(
                f"table {table.name}: two rows with {key} = {', '.join(map(str, twice))}; two of its files overlap, run"
                " snakemake again"
            )
    for child, columns, parent in KEYS:
        key = ", ".join(columns)
        children, parents = (f"SELECT DISTINCT {key} FROM {name} WHERE task = $task" for name in (child, parent))
        orphans = connection.execute(
            f"SELECT {key}, count(*) OVER () FROM ({children} EXCEPT {parents}) LIMIT 1", {"task": task}
        ).fetchone()
        if orphans:
            raise MoaError(
                f"table {child}: {orphans[-1]} keys without a row in table {parent}, first {key} ="
                f" {', '.join(map(str, orphans[:-1]))}; its files do not belong to those of {parent}: run snakemake"
                " again"
            )


def _comment(connection: duckdb.DuckDBPyConnection, table: tables.Table) -> None:
    connection.execute(f"COMMENT ON TABLE {table.name} IS {_quoted(table.meaning)}")
    for name, column in table.columns.items():
        meaning = column.meaning + (f" (NULL: {column.null})" if column.null else "")
        connection.execute(f'COMMENT ON COLUMN {table.name}."{name}" IS {_quoted(meaning)}')


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def main(arguments: argparse.Namespace) -> None:
    build(arguments.runs, arguments.out, TaskSection.model_validate_json(arguments.section).task)
    if arguments.mark is not None:
        provenance.mark(arguments.mark, arguments.out)


if __name__ == "__main__":
    command.run(main, command.parser(__doc__, "runs*", "out", "mark?"))
