"""Hostile statements: more than a hundred, and none writes, reads another file, leaves the process or tells a secret.

A statement is refused, or it is a query after all and answers from the database alone. Either way nothing is left in
the folder that it names, the database has the same bytes, and the answer has no line of the file that it wanted to
read. The second test takes the check of the statement's kind away: the connection alone holds, too.
"""

import hashlib
import io
from pathlib import Path

import duckdb
import pytest

from moa.errors import MoaError
from moa.store import sql
from moa.store.limits import Limits

WRITES = [
    "COPY scores TO '{folder}/stolen.csv'",
    "COPY (SELECT 1) TO '{folder}/stolen.parquet'",
    "COPY scores TO '{folder}/stolen.json' (FORMAT json)",
    "COPY scores TO '{folder}/parts' (PARTITION_BY (method))",
    "COPY scores TO '/dev/stdout'",
    "COPY scores FROM '{secret}'",
    "COPY FROM DATABASE results TO memory",
    "EXPORT DATABASE '{folder}/everything'",
    "IMPORT DATABASE '{folder}'",
    "ATTACH '{folder}/new.duckdb' AS other",
    "ATTACH '{folder}/new.sqlite' AS other (TYPE sqlite)",
    "ATTACH ':memory:' AS other",
    "ATTACH IF NOT EXISTS '{database}' AS other (READ_WRITE)",
    "DETACH results",
    "USE memory",
    "CREATE TABLE mine AS SELECT 1",
    "CREATE OR REPLACE TABLE scores AS SELECT 1",
    "CREATE TEMP TABLE mine AS SELECT 1",
    "CREATE TABLE temp.mine (a INT)",
    "CREATE SCHEMA mine",
    "CREATE VIEW mine AS SELECT 1",
    "CREATE TEMP VIEW scores AS SELECT 1",
    "CREATE MACRO mine() AS TABLE FROM read_text('{secret}')",
    "CREATE TEMP MACRO sum(a) AS 0",
    "CREATE SEQUENCE mine",
    "CREATE TYPE mine AS ENUM ('a')",
    "CREATE INDEX mine ON scores (score)",
    "CREATE SECRET mine (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "CREATE PERSISTENT SECRET mine (TYPE http)",
    "INSERT INTO scores SELECT * FROM scores",
    "INSERT OR REPLACE INTO runs SELECT * FROM runs",
    "MERGE INTO scores USING scores AS s ON false WHEN NOT MATCHED THEN INSERT",
    "UPDATE scores SET score = 0",
    "DELETE FROM scores",
    "TRUNCATE scores",
    "DROP TABLE scores",
    "DROP SCHEMA main CASCADE",
    "ALTER TABLE scores DROP COLUMN score",
    "ALTER TABLE scores RENAME TO gone",
    "COMMENT ON TABLE scores IS 'mine'",
    "WITH gone AS (DELETE FROM scores RETURNING *) SELECT * FROM gone",
    "WITH new AS (INSERT INTO runs SELECT * FROM runs RETURNING *) FROM new",
    "FROM (UPDATE scores SET score = 0 RETURNING *)",
    "EXPLAIN ANALYZE COPY scores TO '{folder}/stolen.csv'",
    "EXPLAIN ANALYZE DELETE FROM scores",
    "EXPLAIN ANALYZE CREATE TABLE mine AS SELECT 1",
    "EXPLAIN ANALYZE EXPORT DATABASE '{folder}/everything'",
    "VACUUM",
    "VACUUM ANALYZE scores",
    "ANALYZE",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "FROM checkpoint()",
    "FROM force_checkpoint()",
    "BEGIN TRANSACTION",
    "COMMIT",
    "ROLLBACK",
]
READS = [
    "SELECT * FROM read_csv('{secret}')",
    "SELECT * FROM read_csv_auto('{secret}', header = false)",
    "SELECT * FROM sniff_csv('{secret}')",
    "SELECT * FROM read_text('{secret}')",
    "SELECT content FROM read_blob('{secret}')",
    "SELECT * FROM read_json('{secret}')",
    "SELECT * FROM read_ndjson_objects('{secret}')",
    "SELECT * FROM read_parquet('{secret}')",
    "SELECT * FROM parquet_metadata('{secret}')",
    "SELECT * FROM parquet_schema('{secret}')",
    "SELECT * FROM parquet_kv_metadata('{secret}')",
    "SELECT * FROM read_duckdb('{secret}')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM glob('**')",
    "SELECT * FROM '{secret}'",
    'SELECT * FROM "{secret}"',
    "FROM '{folder}/*.txt'",
    "FROM 'file://{secret}'",
    "DESCRIBE FROM '{secret}'",
    "SUMMARIZE '{secret}'",
    "PIVOT '{secret}' ON column0",
    "EXPLAIN ANALYZE FROM read_text('{secret}')",
    "WITH a AS (FROM read_text('{secret}')) SELECT (SELECT content FROM a)",
    "SELECT (SELECT content FROM read_text('{secret}'))",
    "SELECT * FROM runs, LATERAL (SELECT * FROM read_text('{secret}'))",
    "SELECT * FROM scores WHERE method IN (SELECT content FROM read_text('{secret}'))",
    "FROM query('FROM read_text(''{secret}'')')",
    "FROM query('COPY scores TO ''{folder}/stolen.csv''')",
    "FROM query('CREATE TABLE mine AS SELECT 1')",
    "FROM query('SELECT 1; DROP TABLE scores')",
    "FROM query_table('{secret}')",
    "FROM query_table(['runs', '{secret}'])",
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''{secret}'')'))",
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM ''{secret}'''))",
    "SELECT * FROM read_text(current_setting('home_directory') || '/.netrc')",
    "SELECT * FROM read_csv('https://example.com/a.csv')",
    "SELECT * FROM 'https://example.com/a.parquet'",
    "SELECT * FROM read_parquet('s3://bucket/a.parquet')",
    "SELECT * FROM read_text('hf://datasets/a/b/c.csv')",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT * FROM read_text('/dev/stdin')",
    "SELECT getenv('MOA_SECRET')",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_secrets(redact = false)",
    "SELECT * FROM which_secret('s3://bucket/a', 's3')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_extensions()",
    "SELECT * FROM database",
    "SELECT * FROM MOA_SECRET",
    "SELECT * FROM pandas_frame",
    "SELECT /* harmless */ * /* FROM runs */ FROM /**/ read_text('{secret}') -- FROM runs",
    "SELECT * FROM READ_TEXT(E'{secret}')",
    "SELECT * FROM read_text($${secret}$$)",
    "SELECT * FROM read_text(['{secret}'])",
    "SELECT * FROM system.main.read_text('{secret}')",
    "SELECT pg_read_file('{secret}')",
    "SELECT load_extension('{secret}')",
]
SETTINGS = [
    "INSTALL httpfs",
    "INSTALL spatial FROM community",
    "FORCE INSTALL httpfs FROM 'https://example.com'",
    "LOAD httpfs",
    "LOAD '{folder}/mine.duckdb_extension'",
    "UPDATE EXTENSIONS",
    "SET enable_external_access = true",
    "SET GLOBAL enable_external_access = true",
    "SET SESSION threads = 1",
    "SET VARIABLE mine = (SELECT content FROM read_text('{secret}'))",
    "SET lock_configuration = false",
    "SET python_enable_replacements = true",
    "SET allowed_paths = ['{secret}']",
    "SET allowed_directories = ['/']",
    "SET temp_directory = '{folder}/temp'",
    "SET memory_limit = '100TB'",
    "SET max_execution_time = 0",
    "SET log_query_path = '{folder}/queries.log'",
    "SET autoinstall_known_extensions = true",
    "RESET enable_external_access",
    "RESET lock_configuration",
    "PRAGMA database_list",
    "PRAGMA enable_profiling = 'json'",
    "PRAGMA profiling_output = '{folder}/profile.json'",
    "PRAGMA enable_logging",
    "PRAGMA import_database('{folder}')",
    "CALL pragma_version()",
    "CALL enable_logging(storage = 'file', storage_config = {{'path': '{folder}'}})",
    "FROM enable_logging(storage = 'file', storage_config = {{'path': '{folder}'}})",
    "FROM enable_profiling()",
    "CALL enable_profiling(save_location = '{folder}/profile.json')",
    "SELECT write_log('mine', level := 'ERROR')",
    "FROM truncate_duckdb_logs()",
    "PREPARE mine AS COPY scores TO '{folder}/stolen.csv'",
    "EXECUTE mine",
    "DEALLOCATE mine",
    "SELECT 1; DROP TABLE scores",
    "SELECT 1;; COPY scores TO '{folder}/stolen.csv'",
    "SELECT 1 -- ;\n; DELETE FROM scores",
    "SELECT 1) TO '{folder}/stolen.csv' --",
    "SELECT 1) ; COPY (SELECT 1) TO '{folder}/stolen.csv' --",
    "/* SELECT */ DROP /* ; */ TABLE scores",
    ".shell touch {folder}/stolen",
    ".read {secret}",
    "SELECT system('touch {folder}/stolen')",
]
HOSTILE = WRITES + READS + SETTINGS
# Harmless to the connection: they change nothing outside of it, and the check of the statement's kind refuses them.
OWN = ("CREATE TEMP", "CREATE TABLE temp", "SET VARIABLE", "SET SESSION", "PRAGMA database_list", "CALL pragma_version")
SECRET = "the-secret-of-another-file"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "results.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE runs AS SELECT 'reviews' AS task")
        connection.execute("CREATE TABLE scores AS SELECT 'moc' AS method, 0.5 AS score FROM range(10)")
    return path


@pytest.fixture
def places(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("MOA_SECRET", SECRET)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in ("folder", "home"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ".netrc").write_text(SECRET)
    (tmp_path / "secret.txt").write_text(f"{SECRET},1\n")
    monkeypatch.chdir(tmp_path)
    return {"folder": str(tmp_path / "folder"), "secret": str(tmp_path / "secret.txt"), "database": str(database)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_are_more_than_a_hundred_and_no_two_are_equal() -> None:
    assert len(HOSTILE) == len(set(HOSTILE)) >= 150


def test_no_hostile_statement_does_what_it_wants(database: Path, places: dict[str, str], tmp_path: Path) -> None:
    hashed, before = hashlib.sha256(database.read_bytes()).hexdigest(), contents(tmp_path)
    refused = 0
    for statement in HOSTILE:
        stream = io.StringIO()
        try:
            sql.query(database, statement.format(**places), "csv", stream, Limits("200MB"))
        except MoaError as error:
            refused += 1
            assert str(error) and "\n" not in str(error), statement
            assert SECRET not in str(error), statement
        assert SECRET not in stream.getvalue(), statement
        assert contents(tmp_path) == before, statement
    assert hashlib.sha256(database.read_bytes()).hexdigest() == hashed
    assert [path for path in database.parent.glob("results.duckdb*") if path != database] == []
    # What answers is a query of the database alone: its settings, an empty log, a checkpoint of nothing.
    assert refused >= len(HOSTILE) - 8


def test_the_connection_alone_does_not_let_them_either(database: Path, places: dict[str, str], tmp_path: Path) -> None:
    hashed, before = hashlib.sha256(database.read_bytes()).hexdigest(), contents(tmp_path)
    with sql.connect(database) as connection:
        for statement in (s for s in HOSTILE if not s.startswith(OWN)):
            try:  # a cursor is a connection of its own to the same opened database
                answer = str(connection.cursor().execute(statement.format(**places)).fetchall())
            except (duckdb.Error, RuntimeError) as error:
                answer = str(error)
            assert SECRET not in answer, statement
            assert contents(tmp_path) == before, statement
    assert hashlib.sha256(database.read_bytes()).hexdigest() == hashed


def test_a_hostile_database_reads_no_file_either(tmp_path: Path, places: dict[str, str]) -> None:
    """Views and macros that somebody else stored in it are bound by the same locks."""
    path = tmp_path / "hostile.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"CREATE VIEW leaderboard AS SELECT content AS method FROM read_text('{places['secret']}')")
        connection.execute(f"CREATE MACRO tell() AS TABLE FROM read_text('{places['secret']}')")
        connection.execute("CREATE MACRO sum(a) AS getvariable('MOA_SECRET')")
    for statement in ("FROM leaderboard", "FROM tell()", "SUMMARIZE leaderboard"):
        with pytest.raises(MoaError, match="(file system operations are disabled|does not exist)") as caught:
            sql.query(path, statement, "csv", io.StringIO())
        assert SECRET not in str(caught.value)
