"""Read-only queries of results.duckdb: nothing is written, no file outside the database is read, nothing is loaded.

The database is opened read-only, without access to files or the network, and with its settings locked. On top of that
only queries are let through, so that the message says what is allowed. Results may hold text that a model wrote: what a
terminal would obey is shown as escapes (moa/store/terminal.py). What a query may take is bounded (moa/store/limits.py).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TextIO

import duckdb
import pyarrow as pa

from moa.errors import MoaError, nearest
from moa.store import tables
from moa.store.limits import TOO_LARGE, Limits, bounded
from moa.store.output import Output, Result, write

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
BRACKETS = 200  # open at once; DuckDB's parser takes time with their square, and cannot be interrupted
MADE_ANEW = "make it anew with snakemake --cores all -R build_warehouse"


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


def connect(path: Path, **settings: str) -> duckdb.DuckDBPyConnection:
    """Open the database for reading only; `settings` are DuckDB's, beside those that lock it.

    Raises:
        MoaError: the file is missing, locked, no database, or another DuckDB's.
    """
    try:
        if path.is_dir():
            raise MoaError(f"{path}: a folder, not a database; name the file in it, e.g. {path / 'results.duckdb'}")
        if not path.exists():
            raise MoaError(f"{path}: no such database; run snakemake first (snakemake --cores all)")
        if not path.is_file():
            raise MoaError(f"{path}: not a file, so no database; name the one that a run built")
        return duckdb.connect(str(path), read_only=True, config={**LOCKED, **settings})
    except (duckdb.Error, OSError) as error:
        raise MoaError(f"{path}: {_unopened(str(error))}") from None


def _unopened(error: str) -> str:
    first = error.splitlines()[0]
    if "lock on file" in error:
        return f"another process has opened the database for writing; close it first ({first})"
    if "Permission denied" in error:
        return f"may not be read ({first}); give yourself the right to read it: chmod u+r"
    if "version number" in error:
        return f"another DuckDB built it, this is {duckdb.__version__} ({first}); read it with that one, or {MADE_ANEW}"
    if "not a valid DuckDB database" in error:
        return f"cannot be opened ({first}); delete it and run snakemake again"
    return f"cannot be opened ({first}); it may be damaged: {MADE_ANEW}"


@contextmanager
def reading(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the database for the project's own queries.

    A database that another version built, without their columns, or a damaged one is a MoaError.
    """
    with connect(path) as connection:
        try:
            yield connection
        except (duckdb.BinderException, duckdb.CatalogException) as error:
            raise MoaError(
                f"{path}: built by another version, it lacks what this one reads ({_one_line(error)}); {MADE_ANEW}"
            ) from None
        except duckdb.Error as error:
            raise MoaError(f"{path}: cannot be read ({_one_line(error)}); it may be damaged: {MADE_ANEW}") from error


def query(path: Path, sql: str, output: Output, stream: TextIO, limits: Limits = Limits()) -> None:
    """Write the result of one query to `stream`, a batch of rows at a time.

    Args:
        path: results.duckdb.
        sql: one SELECT, FROM, DESCRIBE, SHOW, SUMMARIZE, PIVOT or EXPLAIN statement.
        output: 'table' for reading (the first 200 rows, long text cut), 'csv' or 'json' for all of it, values
            unchanged: what Python or JSON have no type for is the text that DuckDB writes for it.
        stream: where to write; the table is laid out for its width. On a terminal control characters are escapes.
        limits: what the query may take.

    Raises:
        MoaError: no database, a mistake in the query, a statement that is not a query, or one that takes too much.
        Unstoppable: the same for a query that did not end when it was told to; the process must.
    """
    with bounded(limits) as (settings, clock):
        connection = connect(path, **settings)

        def answer() -> None:
            with connection:  # closed here: from outside, closing would wait for a query that cannot be interrupted
                try:
                    statement = _only_statement(connection, sql)
                    write(Result(connection, statement, output, clock), output, stream)
                except duckdb.Error as error:
                    raise MoaError(_explain(connection, error)) from None

        clock.watch(answer, connection.interrupt)


def _only_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """Return the statement if it is one query, without what follows its semicolon: it becomes part of another."""
    if _open_brackets(sql) > BRACKETS:
        raise MoaError(f"more than {BRACKETS} brackets are open at once; write it in parts, e.g. WITH part AS (...)")
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise MoaError(f'{len(statements)} statements; give one query, e.g. "from leaderboard"')
    try:
        kind = statements[0].type
        name = kind.name
    except ValueError:  # DuckDB's newest statements have no name in Python
        kind, name = None, "this statement"
    if kind not in QUERIES:
        raise MoaError(
            f"{name} is not allowed: the database is open for queries only (SELECT, FROM, DESCRIBE, SHOW,"
            " SUMMARIZE, PIVOT, EXPLAIN)"
        )
    encoded = sql.encode()  # places are counted in bytes
    ends = (
        at for at, kind in duckdb.tokenize(sql) if kind == duckdb.token_type.operator and encoded[at : at + 1] == b";"
    )
    return encoded[: next(ends, None)].decode()


def _open_brackets(sql: str) -> int:
    steps = accumulate((c in "([{") - (c in ")]}") for c in sql if c in "([{}])")
    return max(steps, default=0)


def _explain(connection: duckdb.DuckDBPyConnection, error: duckdb.Error) -> str:
    missing = re.search(r"Table with name (\S+) does not exist", str(error))
    if missing:
        known = [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        return f"there is no table '{missing[1]}'.{nearest(missing[1], known)}"
    if isinstance(error, duckdb.OutOfMemoryException):
        return TOO_LARGE
    if "max_temp_directory_size" in str(error):
        return TOO_LARGE
    return _one_line(error)


def _one_line(error: Exception) -> str:
    """Return DuckDB's message without its picture of the statement."""
    return " ".join(str(error).partition("\n\nLINE ")[0].split())
