"""Hostile SQL: statements that read or write other files, load code, never end, or speak to the terminal.

Each is given to `moa sql` in a fork. Beside the database lies a secret; a canary must not appear. A statement may be
refused in a line, or answered where the answer is harmless.
"""

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.trial import Place, Trial, Verdict, isolated
from benchmarks.faults.world import Command, World

HOW = "moa sql, in a fork, beside a file with a secret; database, folder and output are looked at afterwards"
SECRET = "the-secret-of-this-campaign"
# What a statement may take, and when it must have ended, with how many MiB: the libraries, and 512 MiB beside its own.
LIMITS = ("--memory", "1GB", "--timeout", "8")
SECONDS, MEMORY = 20.0, 2048.0
ERROR_LINES = 12  # the parser's own pointer into a long statement included
INTERRUPTED = 3.0  # seconds that a query may still take after Ctrl-C
D = "results/results.duckdb"

READS = (
    "FROM 'secret.txt'",
    "FROM 'secret.csv'",
    "SELECT * FROM read_csv('secret.csv')",
    "SELECT * FROM read_csv_auto('secret.csv')",
    "SELECT * FROM read_text('secret.txt')",
    "SELECT content FROM read_text('*')",
    "SELECT * FROM read_blob('secret.txt')",
    "SELECT * FROM read_parquet('results/faults/prompts.parquet')",
    "SELECT * FROM parquet_metadata('results/faults/prompts.parquet')",
    "SELECT * FROM parquet_kv_metadata('results/faults/prompts.parquet')",
    "SELECT * FROM read_json('secret.json')",
    "SELECT * FROM read_json_auto('secret.json')",
    "SELECT * FROM read_ndjson_objects('secret.json')",
    "SELECT * FROM sniff_csv('secret.csv')",
    "SELECT * FROM glob('*')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_csv('/proc/self/environ')",
    "SELECT * FROM read_text('/proc/self/maps')",
    "SELECT * FROM read_text('file:///etc/passwd')",
    "SELECT * FROM read_text('results/../secret.txt')",
    "SELECT * FROM 'http://127.0.0.1:9/x.parquet'",
    "SELECT * FROM read_csv('https://127.0.0.1:9/x.csv')",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT * FROM query('SELECT content FROM read_text(''secret.txt'')')",
    "SELECT * FROM query_table('secret.txt')",
    "SELECT * FROM query_table(['secret.csv'])",
    "WITH x AS (FROM read_text('secret.txt')) SELECT * FROM x",
    "SELECT (SELECT content FROM read_text('secret.txt'))",
    "SELECT * FROM leaderboard, read_text('secret.txt')",
    "FROM leaderboard UNION ALL BY NAME SELECT content AS task FROM read_text('secret.txt')",
    "SELECT * FROM leaderboard LEFT JOIN LATERAL (SELECT * FROM read_text('secret.txt')) ON true",
    "DESCRIBE SELECT * FROM 'secret.csv'",
    "SUMMARIZE 'secret.csv'",
    "EXPLAIN ANALYZE SELECT * FROM read_text('secret.txt')",
    "PIVOT 'secret.csv' ON a USING count(*)",
    "UNPIVOT 'secret.csv' ON COLUMNS(*)",
    "SELECT getenv('MOA_SECRET')",
    "SELECT current_setting('MOA_SECRET')",
    "SELECT getvariable('secret')",
    "FROM os",
    "FROM sys",
    "FROM secret_frame",
    "SELECT * FROM python_map_function(NULL)",
    "SELECT * FROM pandas_scan(0)",
    "SELECT * FROM arrow_scan(0, 0, 0)",
    "SELECT * FROM arrow_scan(140000000000000, 140000000000000, 140000000000000)",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM which_secret('s3://x', 's3')",
    "SELECT * FROM sqlite_scan('x.db', 'x')",
    "SELECT * FROM postgres_scan('host=127.0.0.1', 'public', 'x')",
    "SELECT * FROM iceberg_scan('x')",
    "SELECT * FROM st_read('secret.csv')",
    "SELECT * FROM read_xlsx('secret.xlsx')",
    "SELECT * FROM seq_scan('secret.txt')",
)
WRITES = (
    "COPY leaderboard TO 'canary.csv'",
    "COPY (SELECT 1) TO 'canary.parquet'",
    "COPY (SELECT 1) TO '/tmp/canary-of-moa.csv'",
    "COPY leaderboard FROM 'secret.csv'",
    "EXPORT DATABASE 'canary'",
    "IMPORT DATABASE 'canary'",
    "ATTACH 'canary.db'",
    "ATTACH ':memory:' AS m",
    f"ATTACH '{D}' AS again",
    "DETACH results",
    "USE memory",
    "CREATE TABLE canary (a INT)",
    "CREATE TEMP TABLE canary AS SELECT 1",
    "CREATE VIEW canary AS SELECT 1",
    "CREATE OR REPLACE MACRO f() AS 1",
    "CREATE TYPE mood AS ENUM ('a')",
    "CREATE SEQUENCE s",
    "CREATE SCHEMA s",
    "CREATE SECRET s (TYPE s3)",
    "CREATE INDEX i ON leaderboard (task)",
    "INSERT INTO leaderboard SELECT * FROM leaderboard",
    "UPDATE leaderboard SET hypervolume = 1",
    "DELETE FROM leaderboard",
    "TRUNCATE leaderboard",
    "DROP TABLE leaderboard",
    "ALTER TABLE leaderboard RENAME TO canary",
    "COMMENT ON TABLE leaderboard IS 'canary'",
    "MERGE INTO leaderboard USING leaderboard AS o ON true WHEN MATCHED THEN DELETE",
    "VACUUM",
    "ANALYZE",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "BEGIN",
    "COMMIT",
    "EXPLAIN ANALYZE DELETE FROM leaderboard",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO 'canary.csv'",
    "EXPLAIN ANALYZE INSERT INTO leaderboard SELECT * FROM leaderboard",
    "WITH x AS (DELETE FROM leaderboard RETURNING *) SELECT * FROM x",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD 'canary.duckdb_extension'",
    "INSTALL 'http://127.0.0.1:9/x.duckdb_extension'",
    "FORCE INSTALL json FROM 'http://127.0.0.1:9'",
    "UPDATE EXTENSIONS",
    "SET enable_external_access = true",
    "SET GLOBAL lock_configuration = false",
    "RESET enable_external_access",
    "SET VARIABLE secret = 1",
    "SET allowed_directories = ['/']",
    "SET temp_directory = 'canary'",
    "SET custom_extension_repository = 'http://127.0.0.1:9'",
    "PRAGMA enable_external_access = true",
    "PRAGMA enable_profiling = 'json'",
    "PRAGMA profile_output = 'canary.json'",
    "PRAGMA database_list",
    "PRAGMA version",
    "CALL pragma_version()",
    "CALL start_ui()",
    "CALL force_checkpoint()",
    "CALL enable_logging(storage = 'file', storage_path = 'canary')",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "SELECT 1; DROP TABLE leaderboard",
    "SELECT 1; COPY (SELECT 1) TO 'canary.csv'",
    "/* */ ; COPY leaderboard TO 'canary.csv' -- SELECT",
    "SELECT 1 -- \n; DELETE FROM leaderboard",
    "",
    ";",
    "-- nothing",
    "\x00",
    "SELECT '\x00'; DROP TABLE leaderboard",
    "SELECT 1 UNION SELECT 2;;;;",
    "KILL 1",
    "SHUTDOWN",
    ".shell touch canary",
    ".read secret.txt",
    "\\! touch canary",
    "$(touch canary)",
    "SELECT nextval('s')",
    "SELECT setseed(0.5)",
    "SELECT write_log('canary')",
    "SELECT * FROM duckdb_logs()",
    "SELECT error('a message of its own')",
    "SELECT add_parquet_key('k', '0123456789112345')",
)
ENDLESS = (
    "SELECT count(*) FROM range(10000000000000)",
    "SELECT * FROM range(100000000000)",
    "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t",
    "WITH RECURSIVE t(x) AS (SELECT 'a' UNION ALL SELECT x || x FROM t) SELECT max(len(x)) FROM t",
    "SELECT count(*) FROM generations a, generations b, generations c, generations d, generations e, generations f",
    "SELECT * FROM generations a, generations b, generations c, generations d ORDER BY random()",
    "SELECT repeat('x', 100000000000)",
    "SELECT len(repeat(repeat('x', 1000000), 10000))",
    "SELECT list(i) FROM range(3000000000) t(i)",
    "SELECT range(3000000000)",
    "SELECT string_agg(i::VARCHAR, ',') FROM range(3000000000) t(i)",
    "SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b",
    "SELECT regexp_matches(repeat('a', 100000), '(a*)*b')",
    "SELECT " + "(" * 5_000 + "1" + ")" * 5_000,
    "SELECT " + "1 + " * 20_000 + "1",
    "SELECT " + ", ".join(f"{i} AS c{i}" for i in range(5_000)),
    "SELECT " + "[" * 2_000 + "1" + "]" * 2_000,
    "SELECT list_transform(range(100000), x -> list_sum(range(x))) IS NULL",
    "SELECT histogram(i) FROM range(300000000) t(i)",
    "PIVOT (SELECT i, i % 100000 AS k FROM range(1000000) t(i)) ON k USING sum(i)",
    "SELECT lpad('x', 2147483647, 'y'), lpad('x', 2147483647, 'z')",
    "SELECT bit_count(bitstring('1', 2000000000))",
)
WORDS = (
    "SELECT chr(27) || '[2J' || chr(27) || ']0;title' || chr(7)",
    'SELECT 1 AS "\x1b[31mred"',
    "SELECT chr(8238) || 'gpj.exe', chr(8203), chr(13), chr(10)",
    "SELECT '[bold]markup[/bold][link=file:///etc/passwd]x[/link]'",
    "SELECT error(chr(27) || '[2J')",
    'SELECT * FROM "\x1b[2J"',
    "SELECT 1 AS a, 2 AS a",
    "SELECT now(), current_timestamp, today()",
    "SELECT TIMESTAMPTZ '2020-01-01 00:00:00+00'",
    "SELECT 'NaN'::DOUBLE, 'inf'::DOUBLE, NULL",
    "SELECT '\\x80'::BLOB",
    "SELECT uuid(), INTERVAL 1 YEAR, MAP {'a': 1}, {'b': [1, NULL]}",
    "SELECT 170141183460469231731687303715884105727::HUGEINT, 1e308 * 10",
    "SELECT 'caf\u00e9 \U0001f600', chr(55296)",
    "SHOW ALL TABLES",
    "FROM duckdb_settings()",
    "FROM duckdb_functions()",
    "FROM responses",
)
INTERRUPT = ENDLESS[:2] + ENDLESS[4:5] + ENDLESS[11:12]


@dataclass(frozen=True)
class Statement:
    """One statement in one output format."""

    world: World
    text: str
    output: str
    interrupt: bool = False  # Ctrl-C after two seconds

    def __call__(self, place: Place) -> Verdict:
        (place.folder / "results").mkdir()
        database = place.folder / D
        database.write_bytes((self.world.folder / D).read_bytes())
        for name in ("secret.txt", "secret.csv", "secret.json"):
            (place.folder / name).write_text(f'"{SECRET}"\n')
        before = _state(place.folder)
        command = Command("moa", ("sql", "--format", self.output, *LIMITS, "--", self.text))

        def body() -> None:
            os.environ["MOA_SECRET"] = SECRET
            if self.interrupt:
                threading.Thread(target=_press, args=(os.getpid(),), daemon=True).start()
            command.run()

        end = isolated(body, Place(place.folder, place.random, SECONDS))
        why = end.unclear(lines=ERROR_LINES) if end.status or end.hung else ""
        if self.interrupt and not why and end.seconds > 2 + INTERRUPTED:
            why = f"ended {end.seconds - 2:.1f} s after Ctrl-C"
        if self.interrupt and end.status == 130 and not end.trace:
            why = "" if end.seconds <= 2 + INTERRUPTED else f"ended {end.seconds - 2:.1f} s after Ctrl-C"
        if end.memory > MEMORY:
            why = f"took {end.memory:.0f} MiB"
        if end.status == 0 and end.trace:
            why = f"a trace: {end.last}"
        if SECRET in end.output and SECRET not in self.text:
            why = "ESCAPE: the secret was read"
        if _state(place.folder) != before or Path("/tmp/canary-of-moa.csv").exists():
            why = "ESCAPE: the folder or the database has changed"
        if "\x1b" in end.output and (self.output == "table" or end.status):
            why = "control characters reached the terminal"
        outcome = "harmless" if end.status == 0 else "refused"
        said = (end.complaint or end.last)[:300]
        return Verdict(not why, None, outcome if not why else "unclear", why or said)


def _press(process: int) -> None:
    time.sleep(2.0)
    os.kill(process, signal.SIGINT)


def _state(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
        for p in sorted(folder.rglob("*"))
    }


def _all() -> Iterator[tuple[str, str, bool]]:
    formats = ("table", "csv", "json")
    for i, text in enumerate((*READS, *WRITES, *ENDLESS, *WORDS)):
        yield text, formats[i % 3], False
    for text in WORDS[:6]:
        yield text, "table", False
    for text in INTERRUPT:
        yield text, "csv", True


def trials(world: World) -> list[Trial]:
    """Return one trial per statement."""
    return [
        Trial(
            "statement", i, ("Ctrl-C: " if stop else "") + repr(text[:120]), HOW, Statement(world, text, output, stop)
        )
        for i, (text, output, stop) in enumerate(_all())
    ]
