"""Read-only queries of results.duckdb: nothing is written, no file outside the database is read, nothing is loaded.

The database is opened read-only, without access to files or the network, and with its settings locked. On top of that
only queries are let through, so that the message says what is allowed. Results may hold text that a model wrote: in the
table view control characters are shown as escapes.
"""

import csv
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from moa.errors import MoaError, nearest
from moa.store import tables

Output = Literal["table", "csv", "json"]
# How far a row's policies ended from the reference: the mean over its policies, borrowed ones included, and their last
# ten steps. Hypervolume grows with it, so it belongs beside every comparison.
DISTANCE = """
SELECT policies.task, policies.method, seen.seed, avg(seen.value) AS kl
FROM policies
JOIN (
    SELECT *, max(step) OVER (PARTITION BY task, method, policy, seed) AS last FROM curves WHERE quantity = 'kl'
) AS seen
    ON seen.task = policies.task AND seen.method = policies.owner AND seen.policy = policies.policy
WHERE seen.step > seen.last - 10
GROUP BY ALL
"""
# What training a row's policies took in a measured seed, borrowed policies included; wall-clock is comparable as far as
# the machine's speed is.
TRAINING = """
SELECT policies.task, policies.method, costs.seed, sum(seconds) AS seconds, sum(tokens) AS tokens, sum(models) AS models
FROM policies
JOIN costs ON costs.task = policies.task AND costs.method = policies.owner AND costs.job = policies.policy
    AND costs.stage = 'train'
SEMI JOIN metrics ON metrics.task = policies.task AND metrics.method = policies.method AND metrics.seed = costs.seed
GROUP BY ALL
"""
# Training is counted for the seeds that the row was evaluated with; borrowed policies count in full for each borrower.
LEADERBOARD = f"""
WITH per_seed AS (
    SELECT task, method, seed, count(*) AS points,
        sum(non_dominated::INT) AS non_dominated, sum(degenerate::INT) AS degenerate,
        sum(below_reference::INT) AS below_reference
    FROM quality GROUP BY ALL
),
counted AS (
    SELECT task, method, max(points) AS points,
        avg(non_dominated) AS non_dominated, avg(degenerate) AS degenerate, avg(below_reference) AS below_reference
    FROM per_seed GROUP BY ALL
),
measured AS (
    SELECT task, method,
        avg(value) FILTER (metric = 'hypervolume') AS hypervolume,
        avg(low) FILTER (metric = 'hypervolume') AS low,
        avg(high) FILTER (metric = 'hypervolume') AS high,
        stddev_samp(value) FILTER (metric = 'hypervolume') AS seed_sd,
        avg(value) FILTER (metric = 'hypervolume_readable') AS hypervolume_readable,
        avg(value) FILTER (metric = 'tau') AS tau,
        avg(value) FILTER (metric = 'tau_bound') AS tau_bound,
        avg(value) FILTER (metric = 'control_error') AS control_error,
        max(n) AS prompts, count(DISTINCT seed) AS seeds
    FROM metrics WHERE objective = 'all' GROUP BY ALL
),
training AS (
    SELECT task, method, sum(seconds) AS seconds, sum(tokens) AS tokens, sum(models) AS models
    FROM ({TRAINING}) GROUP BY ALL
),
distance AS (
    SELECT task, method, avg(kl) AS kl FROM ({DISTANCE}) SEMI JOIN metrics USING (task, method, seed) GROUP BY ALL
),
generation AS (SELECT task, method, sum(seconds) AS seconds FROM costs WHERE stage = 'generate' GROUP BY ALL)
SELECT measured.*, counted.* EXCLUDE (task, method), distance.kl,
    coalesce(training.seconds, 0) / seeds AS seconds,
    coalesce(training.tokens, 0) / seeds AS tokens,
    coalesce(training.models, 0) / seeds AS models,
    coalesce(generation.seconds, 0) / seeds AS generation_seconds
FROM measured
JOIN counted USING (task, method)
LEFT JOIN training USING (task, method)
LEFT JOIN distance USING (task, method)
LEFT JOIN generation USING (task, method)
ORDER BY task, hypervolume DESC, method
"""
QUERIES = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI}  # MULTI: PIVOT
LOCKED = {
    "enable_external_access": "false",
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "lock_configuration": "true",
}
TABLE_ROWS = 200
TABLE_CHARACTERS = 120
ENDLESS = 1_000_000
BATCH = 10_000
INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidirectional, zero width), surrogate, line separators


def sql_type(kind: pa.DataType) -> str:
    """Return DuckDB's name of a column type of moa/store/tables.py."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    names = {
        tables.STRING: "VARCHAR",
        tables.INT: "BIGINT",
        tables.FLOAT: "DOUBLE",
        tables.SCORE: "FLOAT",
        tables.BOOL: "BOOLEAN",
    }
    return names[kind]


def connect(path: Path) -> duckdb.DuckDBPyConnection:
    """Open the database for reading only; a missing, locked or foreign file is a MoaError."""
    if not path.is_file():
        raise MoaError(f"{path}: no such database; run snakemake first (snakemake --cores all)")
    try:
        return duckdb.connect(str(path), read_only=True, config=dict(LOCKED))
    except duckdb.Error as error:
        if "lock on file" in str(error):
            raise MoaError(
                f"{path}: another process has opened the database for writing; close it first ({_first_line(error)})"
            ) from None
        remedy = (
            "delete it and run snakemake again"
            if "not a valid DuckDB database" in str(error)
            else "close what else has it open, or make it again"
        )
        raise MoaError(f"{path}: cannot be opened ({_first_line(error)}); {remedy}") from None


@contextmanager
def reading(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the database for the project's own queries.

    A database that another version built, without their columns, is a MoaError.
    """
    with connect(path) as connection:
        try:
            yield connection
        except (duckdb.BinderException, duckdb.CatalogException) as error:
            remedy = "make it anew with snakemake --cores all -R build_warehouse"
            raise MoaError(
                f"{path}: built by another version, it lacks what this one reads ({_first_line(error)}); {remedy}"
            ) from None


def query(path: Path, sql: str, output: Output, stream: TextIO) -> None:
    """Write the result of one query to `stream`.

    Args:
        path: results.duckdb.
        sql: one SELECT, FROM, DESCRIBE, SHOW, SUMMARIZE, PIVOT or EXPLAIN statement.
        output: 'table' for reading (the first 200 rows, long text cut), 'csv' or 'json' for all of it, values
            unchanged.
        stream: where to write; the table is laid out for its width.

    Raises:
        MoaError: no database, a mistake in the query, or a statement that is not a query.
    """
    with connect(path) as connection:
        try:
            _check_statement(connection, sql)
            connection.execute(sql)
            names = [column[0] for column in connection.description or []]
            if output == "csv":
                _write_csv(names, _rows(connection), stream)
            elif output == "json":
                _write_json(names, _rows(connection), stream)
            else:
                _write_table(names, connection.fetchmany(TABLE_ROWS + 1), stream)
        except duckdb.Error as error:
            raise MoaError(_explain(connection, error)) from None


def _check_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise MoaError(f'{len(statements)} statements; give one query, e.g. "from leaderboard"')
    kind = statements[0].type
    if kind not in QUERIES:
        raise MoaError(
            f"{kind.name} is not allowed: the database is open for queries only (SELECT, FROM, DESCRIBE, SHOW,"
            " SUMMARIZE, PIVOT, EXPLAIN)"
        )


def _explain(connection: duckdb.DuckDBPyConnection, error: duckdb.Error) -> str:
    missing = re.search(r"Table with name (\S+) does not exist", str(error))
    if missing:
        known = [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        return f"there is no table '{missing[1]}'.{nearest(missing[1], known)}"
    return str(error).strip()


def _rows(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while batch := connection.fetchmany(BATCH):
        yield from batch


def _write_csv(names: Sequence[str], rows: Iterator[tuple[Any, ...]], stream: TextIO) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)


def _write_json(names: Sequence[str], rows: Iterator[tuple[Any, ...]], stream: TextIO) -> None:
    """Write a list of objects, one per line. NaN and infinities, which JSON does not have, become null."""
    if len(set(names)) < len(names):
        raise MoaError(f"columns {list(names)}: JSON needs different names; rename one with AS")
    stream.write("[")
    for i, row in enumerate(rows):
        stream.write(
            (",\n " if i else "\n ") + json.dumps(dict(zip(names, map(_finite, row), strict=True)), default=str)
        )
    stream.write("\n]\n")


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_table(names: Sequence[str], rows: Sequence[tuple[Any, ...]], stream: TextIO) -> None:
    # A file or a pipe has no width: lines may be as long as they need to be.
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else ENDLESS)
    table = _grid(names, rows[:TABLE_ROWS])
    if Measurement.get(console, console.options.update(max_width=ENDLESS), table).maximum > console.width:
        table = _records(names, rows[:TABLE_ROWS])
    console.print(table)
    if len(rows) > TABLE_ROWS:
        console.print(f"the first {TABLE_ROWS} rows; csv and json give all")


def _grid(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> Table:
    table = Table()
    for i, name in enumerate(names):
        numbers = bool(rows) and all(isinstance(row[i], int | float | None) for row in rows)
        table.add_column(Text(visible(name)), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _records(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> Table:
    """Lay out one line per value, for a result that is wider than the terminal."""
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        for name, value in zip(names, row, strict=True):
            table.add_row(Text(visible(name)), _cell(value))
        table.add_section()
    return table


def _cell(value: Any) -> Text:
    if value is None:
        return Text("NULL", style="dim")
    if isinstance(value, float):
        return Text(f"{value:.6g}")
    if isinstance(value, list) and all(isinstance(item, float) for item in value):
        return Text("[" + ", ".join(f"{item:.4g}" for item in value) + "]")
    shown = visible(str(value))
    return Text(shown if len(shown) <= TABLE_CHARACTERS else shown[: TABLE_CHARACTERS - 1] + "\u2026")


def visible(text: str) -> str:
    r"""Return `text` with characters that a terminal would obey, not show, as \u escapes."""
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c) in INVISIBLE else c for c in text)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
