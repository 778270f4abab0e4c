"""The read-only shell: the eight queries answer, output is faithful and harmless, what a query takes is bounded."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import duckdb
import pytest

from moa.errors import MoaError
from moa.report import leaderboard
from moa.store import limits, output, sql
from moa.store.limits import Limits
from tests import synthetic

ROOT = Path(__file__).parent.parent.parent
QUERIES = sorted((ROOT / "moa/report/queries").glob("[0-9]*.sql"))


@pytest.fixture(autouse=True)
def time_zone(monkeypatch):
    """Times with a zone are shown in the machine's own."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return synthetic.warehouse(tmp_path_factory.mktemp("sql"), ("sentiment", "conciseness"), seeds=(0, 2))


def ask(database, query, form="json"):
    stream = io.StringIO()
    sql.query(database, query, form, stream)
    return json.loads(stream.getvalue()) if form == "json" else stream.getvalue()


def test_there_are_eight_queries_in_order():
    assert [p.name[:3] for p in QUERIES] == [f"0{i}_" for i in range(1, 9)]


@pytest.mark.parametrize("path", QUERIES, ids=[p.stem for p in QUERIES])
def test_queries_answer_and_say_what(database, path):
    text = path.read_text(encoding="utf-8")
    first = text.splitlines()[0]
    assert first.startswith("-- ") and first[-1] in "?." and not text.splitlines()[1].startswith("--")
    rows = ask(database, text)
    assert rows and set(rows[0]) == set(rows[-1])
    assert "task" in rows[0] and {r["task"] for r in rows} == {"synthetic"}
    assert ask(database, text, "table") and ask(database, text, "csv")


def test_the_queries_know_the_answers_that_the_tree_was_made_with(database):
    first, front, steering, payoff, judges, readability, responses, costs = (
        ask(database, p.read_text(encoding="utf-8")) for p in QUERIES
    )
    assert first[0]["method"] == "morlhf" and first[0]["seeds"] == 2 and first[-1]["method"] == "reference"
    assert {r["tau"] for r in first if r["method"] in synthetic.FREE} == {None}
    # The point that was made to lie behind the front, and only where the seeds say so.
    shares = {(r["method"], str(r["preference"])): r["share_of_seeds_on_front"] for r in front}
    assert shares["linear", "[0.5, 0.5]"] == 0 and shares["morlhf", "[0.5, 0.5]"] == 1
    assert set(front[0]["normalised"]) == {"sentiment", "conciseness"}
    assert {r["metric"] for r in steering} == {"tau", "order_rate", "control_error"}
    assert min(r["loss"] for r in payoff if r["trained_on"] not in ("reference", r["objective"])) > 0.4
    assert all(r["correlation"] > 0.9 for r in judges)
    assert readability[0]["method"] == "pama" and readability[0]["degenerate"] and "repeat" in readability[0]["reason"]
    assert len({r["prompt"] for r in responses}) == 1 and len(responses) == 4 * 5 + 2 + 2
    assert costs[0]["method"] == "reference" and costs[-1] == {**costs[-1], "method": "morlhf", "models": 5}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("FROM leaderbord", "there is no table 'leaderbord'. Did you mean 'leaderboard'?"),
        ("FROM xyzzy", "there is no table 'xyzzy'. Known: costs, curves"),
        ("SELECT hypervolum FROM leaderboard", '"hypervolume"'),
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("", "0 statements; give one query"),
        ("-- only a comment", "0 statements"),
        ("FROM runs; FROM runs", "2 statements; give one query"),
        ("CREATE VIEW v AS SELECT 1", "CREATE is not allowed: the database is open for queries only"),
        ("SELECT error('made by the query')", "made by the query"),
        ("SELECT 1 AS a, 2 AS A, 3 AS a", "JSON needs different names"),
        ("SELECT " + "(" * 20_000, "more than 200 brackets are open at once"),
        ("SELECT $1", "Values were not provided for the following parameters: 1"),
    ],
)
def test_mistakes_are_explained(database, query, message):
    with pytest.raises(MoaError) as caught:
        ask(database, query)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["summary", "figure", "leaderboard"])
def test_a_database_of_another_version(command, tmp_path):
    """Its leaderboard lacks a column that today's queries read."""
    old = synthetic.warehouse(tmp_path, ("sentiment", "conciseness"), seeds=(0,))
    with duckdb.connect(str(old)) as connection:
        connection.execute("ALTER TABLE leaderboard DROP COLUMN kl")
    with pytest.raises(
        MoaError, match=r"built by another version, it lacks what this one reads .*kl.*make it anew with snakemake"
    ):
        leaderboard.rows(old)
    ended = subprocess.run(
        [sys.executable, "-m", "moa", command, "--database", str(old), "synthetic"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1 and ended.stderr.startswith(f"error: {old}") and "Traceback" not in ended.stderr


def test_no_database_foreign_file_and_lock(tmp_path, database):
    with pytest.raises(MoaError, match=r"results.duckdb: no such database; run snakemake first"):
        ask(tmp_path / "results.duckdb", "SELECT 1")
    foreign = tmp_path / "foreign.duckdb"
    foreign.write_bytes(b"x" * 20_000)
    with pytest.raises(MoaError, match=r"foreign.duckdb: cannot be opened .*delete it and run snakemake again"):
        ask(foreign, "SELECT 1")
    locked = tmp_path / "locked.duckdb"
    locked.write_bytes(database.read_bytes())
    code = f"import duckdb, time; c = duckdb.connect({str(locked)!r}); print('open', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "open\n"
            with pytest.raises(
                MoaError,
                match=(
                    "locked.duckdb: another process has opened the database for writing; close it first .*PID"
                    f" {other.pid}"
                ),
            ):
                ask(locked, "SELECT 1")
        finally:
            other.kill()


def test_two_queries_at_once(database):
    with sql.connect(database) as first, sql.connect(database) as second:
        assert (
            first.execute("SELECT count(*) FROM runs").fetchall()
            == second.execute("SELECT count(*) FROM runs").fetchall()
            == [(1,)]
        )


def test_csv_and_json_give_every_row_and_value_unchanged(database):
    query = "SELECT method, seed, point, preference, prompt_id, response, nll, finished FROM generations ORDER BY ALL"
    with duckdb.connect(str(database), read_only=True, config=dict(sql.LOCKED)) as connection:
        expected = connection.execute(query).fetchall()
    assert [tuple(row.values()) for row in ask(database, query)] == expected
    rows = list(csv.reader(io.StringIO(ask(database, query, "csv"), newline="")))
    assert len(rows) == len(expected) + 1 > 500
    assert [row[5] for row in rows[1:]] == [row[5] for row in expected]
    assert [float(row[6]) if row[6] else None for row in rows[1:]] == [row[6] for row in expected]


def test_json_is_json_where_numbers_are_not(database):
    assert ask(
        database,
        "SELECT 'nan'::DOUBLE AS a, [1.5, 'inf'::DOUBLE] AS b, {'c': '-inf'::DOUBLE} AS d, DATE '2026-01-02' AS e",
    ) == [{"a": None, "b": [1.5, None], "d": {"c": None}, "e": "2026-01-02"}]
    assert ask(database, "SELECT 1 AS a WHERE false") == []


def test_the_table_shows_what_a_terminal_would_obey(database):
    shown = ask(database, "SELECT response FROM generations WHERE method = 'moc' AND point = 0 AND seed = 0", "table")
    assert "\x1b" not in shown and "\u202e" not in shown and "\u200b" not in shown
    assert r"\u001b[2J\u001b]0;title\u0007 escape [bold red]markup[/bold red]" in shown
    assert "</script><script>alert(1)</script>" in shown  # not obeyed by a terminal
    assert "long long" in shown and max(map(len, shown.splitlines())) < output.TABLE_CHARACTERS + 10


def test_the_table_stops_somewhere_and_says_so(database):
    assert f"the first {output.TABLE_ROWS} rows; csv and json give all" in ask(database, "FROM scores", "table")
    short = ask(database, f"FROM scores LIMIT {output.TABLE_ROWS}", "table")
    assert "the first" not in short and len(short.splitlines()) == output.TABLE_ROWS + 4


def test_numbers_nulls_and_lists_in_the_table(database):
    shown = ask(
        database, "SELECT 0.123456789::DOUBLE AS a, NULL AS b, [1/3, 2/3] AS c, true AS d, 12345678 AS e", "table"
    )
    for text in ("0.123457", "NULL", "[0.3333, 0.6667]", "True", "12345678"):
        assert text in shown


def test_a_table_wider_than_the_terminal_becomes_one_line_per_value(database):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream, columns = Terminal(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "70"
    try:
        sql.query(database, "FROM leaderboard LIMIT 2", "table", stream)  # 22 columns in 70 characters
    finally:
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    lines = stream.getvalue().splitlines()
    assert sum("hypervolume_readable" in line for line in lines) == 2
    assert any("morlhf" in line and "method" in line for line in lines)


# A value, and what it is in JSON and in CSV. Text is what DuckDB itself writes.
VALUES = {
    "TIMESTAMPTZ '2026-01-02 03:04:05.678901+00'": ("2026-01-02 03:04:05.678901+00", None),
    "TIMESTAMP_NS '2026-01-02 03:04:05.123456789'": ("2026-01-02 03:04:05.123456789", None),  # Python has no ns
    "TIMETZ '10:00:00+02'": ("10:00:00+02", None),
    "INTERVAL '1 month 1 day'": ("1 month 1 day", None),  # not 31 days
    "'infinity'::DATE": ("infinity", None),  # not the year 9999
    "'-infinity'::TIMESTAMP": ("-infinity", None),
    "DATE '0044-03-15 (BC)'": ("0044-03-15 (BC)", None),
    "1.50::DECIMAL(10, 2)": (1.5, "1.50"),
    "'a' || chr(0) || chr(255)": ("a\x00\xff", None),
    "'\\xAA\\x00b'::BLOB": ("\\xAA\\x00b", None),
    "'0110'::BIT": ("0110", None),
    "'6d0d9a2e-0b0f-4b3c-8c8e-2b1f5a1f5a1f'::UUID": ("6d0d9a2e-0b0f-4b3c-8c8e-2b1f5a1f5a1f", None),
    "170141183460469231731687303715884105727": (2**127 - 1, str(2**127 - 1)),
    "123456789012345678901234567890123456789012::BIGNUM": ("123456789012345678901234567890123456789012", None),
    "'nan'::DOUBLE": (None, "nan"),
    "'-inf'::FLOAT": (None, "-inf"),
    "NULL": (None, ""),
    "true": (True, "True"),
    "[1.5, NULL, 'nan'::DOUBLE]": ([1.5, None, None], "[1.5, NULL, nan]"),
    "[[1], []]": ([[1], []], "[[1], []]"),
    "[1, 2]::INTEGER[2]": ([1, 2], "[1, 2]"),
    "{'a b': DATE '2026-01-02', 'n': {'x': 1}}": (
        {"a b": "2026-01-02", "n": {"x": 1}},
        "{'a b': 2026-01-02, 'n': {'x': 1}}",
    ),
    "MAP {DATE '2026-01-02': 1.5}": ({"2026-01-02": 1.5}, "{2026-01-02=1.5}"),
    "'b'::ENUM ('a', 'b')": ("b", None),
    "'x'::UNION(n INTEGER, s VARCHAR)": ("x", None),
    "row(1, DATE '2026-01-02')": ("(1, 2026-01-02)", None),
    """'{"a": 1}'::JSON""": ('{"a": 1}', None),
    "1::VARIANT": ("1", None),
    "[1, 2.5]::VARIANT": ("[1.0, 2.5]", None),
}


@pytest.mark.parametrize("value", VALUES)
def test_a_value_of_any_type_has_its_own_text_or_number(database, value):
    as_json, as_csv = VALUES[value]
    (row,) = ask(database, f"SELECT {value} AS a")
    assert row == {"a": as_json}
    (cells,) = list(csv.reader(io.StringIO(ask(database, f"SELECT {value} AS a, 1 AS b", "csv"), newline="")))[1:]
    assert cells == [as_json if as_csv is None else as_csv, "1"]
    assert len(ask(database, f"SELECT {value} AS a", "table").splitlines()) == 5


def test_now_answers_in_every_form(database):
    for query in ("SELECT now()", "SELECT [now()], {'a': now()}, MAP {now(): 1}", "FROM (VALUES (current_timestamp))"):
        for form in ("table", "csv", "json"):
            assert "20" in str(ask(database, query, form))
    pivot = "PIVOT (SELECT now() AS t, objective, score FROM scores) ON objective USING avg(score) GROUP BY t"
    assert {"t", "conciseness", "sentiment"} == set(ask(database, pivot)[0])


def test_what_is_hidden_in_a_statement_ends_with_it(database):
    for query in (
        "SELECT now() AS a -- the end",
        "SELECT now() AS a, ';é' AS \"é;\"; -- the ; end",
        "SELECT now() AS a /* ) */ ;",
        "SELECT now() AS a; -- the end\n;;",
    ):
        assert "a" in ask(database, query)[0]


def test_a_query_that_takes_too_much_ends_in_one_line(database, tmp_path, monkeypatch):
    """Lists and texts are beyond DuckDB's own limit; 512 MiB of them are beyond the process's."""
    monkeypatch.setattr(limits.tempfile, "gettempdir", lambda: str(tmp_path))
    before = limits.resource.getrlimit(limits.resource.RLIMIT_DATA)
    monkeypatch.setattr(limits, "BESIDE", 2**26)
    large = (
        "SELECT list(a) FROM range(100000000) t(a)",
        "SELECT range(200000000)",  # 1.6 GB
        "SELECT repeat(a::VARCHAR, 200) FROM range(200000) t(a) ORDER BY hash(a)",  # 240 MB to disk: it may take 60
    )
    for query in large:
        with pytest.raises(MoaError, match="needs more memory than it may take; ask for less .* --memory") as caught:
            sql.query(database, query, "csv", io.StringIO(), Limits("60MB"))
        assert "\n" not in str(caught.value)
    assert limits.resource.getrlimit(limits.resource.RLIMIT_DATA) == before
    assert list(tmp_path.iterdir()) == []


def test_a_query_that_takes_too_long_ends_in_one_line(database):
    endless = "WITH RECURSIVE t AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM t) SELECT max(i) FROM t"
    with pytest.raises(MoaError, match=r"no answer within 0.2 s; ask for less, or allow more seconds: --timeout 600"):
        sql.query(database, endless, "table", io.StringIO(), Limits(seconds=0.2))


def test_writing_a_result_is_no_part_of_its_time(database):
    """The reader takes 3 seconds, by a stream that waits; the query may take one."""

    class Slow(io.StringIO):
        def write(self, text):
            if text.startswith("1,"):
                time.sleep(1.5)
            return super().write(text)

    sql.query(database, "SELECT i, i FROM (VALUES (1), (1)) AS t(i)", "csv", stream := Slow(), Limits(seconds=1))
    assert stream.getvalue().count("1,1") == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Limits("much"), "--memory much: no size .*; give one like 2GB, 500MB or 25%"),
        (Limits("-1"), "--memory -1: give a positive size"),
        (Limits("120%"), "--memory 120%: no size"),
        (Limits("0%"), "--memory 0%: no size"),
        (Limits(seconds=0), "--timeout 0: give a number of seconds above 0"),
        (Limits(seconds=float("nan")), "--timeout nan: give a number"),
    ],
)
def test_limits_that_are_none(database, asked, message):
    with pytest.raises(MoaError, match=message):
        sql.query(database, "SELECT 1", "csv", io.StringIO(), asked)


def test_a_long_result_is_written_in_batches(database):
    """As Python's objects 100 000 rows at once would take more than 8 MB: a tuple and a number are over 80 bytes."""

    class Counting(io.StringIO):
        lines = 0

        def write(self, text):
            self.lines += text.count("\n")
            return len(text)

    tracemalloc.start()
    sql.query(database, "FROM range(100000)", "csv", stream := Counting())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stream.lines == 100_001 and peak < 2e6


@pytest.mark.parametrize(
    "query", ["SELECT count(*) FROM range(100000000) a, range(100000000) b", "SELECT range(30000000)"]
)
def test_an_interrupted_query_ends_at_once(database, query, tmp_path):
    """Ctrl-C is answered within a second, also where DuckDB does not look for it."""
    started = tmp_path / "started"
    code = (
        "import pathlib, signal, sys; from moa.store import sql; from moa import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which the background of a shell ignores
        "check = sql._only_statement\n"
        f"sql._only_statement = lambda *given: (check(*given), pathlib.Path({str(started)!r}).touch())[0]\n"
        f"sys.argv = ['moa', 'sql', '--database', {str(database)!r}, '--format', 'csv', {query!r}]\n"
        "cli.main()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=ROOT) as child:
        while not started.exists() and child.poll() is None:
            time.sleep(0.02)
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        began = time.perf_counter()
        said = child.communicate()[1]
        assert time.perf_counter() - began < 3  # one second where the machine is quiet
    assert (child.returncode, said) == (130, "error: interrupted\n")


def of_version(database, path, version):
    """Write a copy whose header has another version, and the checksum that DuckDB itself computes for it."""
    content = bytearray(database.read_bytes())
    content[12:20] = version.to_bytes(8, "little")  # after 8 bytes of checksum and "DUCK"
    path.write_bytes(content)
    with pytest.raises(MoaError, match="checksum") as damaged:
        sql.connect(path)
    content[:8] = int(re.search(r"computed checksum (\d+)", str(damaged.value))[1]).to_bytes(8, "little")
    path.write_bytes(content)


def test_what_is_no_database_of_ours_is_said_in_one_line(database, tmp_path):
    good = database.read_bytes()
    (tmp_path / "folder.duckdb").mkdir()
    os.mkfifo(tmp_path / "pipe.duckdb")
    (tmp_path / "text.duckdb").write_text("not a database\n" * 1_000)
    (tmp_path / "short.duckdb").write_bytes(b"x")
    (tmp_path / "empty.duckdb").write_bytes(b"")
    (tmp_path / "sqlite.duckdb").write_bytes(b"SQLite format 3\x00" + bytes(5_000))
    (tmp_path / "half.duckdb").write_bytes(good[: len(good) // 2])
    (tmp_path / "damaged.duckdb").write_bytes(good[:20_000] + bytes(40_000) + good[60_000:])
    of_version(database, tmp_path / "newer.duckdb", 200)
    of_version(database, tmp_path / "older.duckdb", 1)
    messages = {
        "folder.duckdb": "a folder, not a database; name the file in it",
        "pipe.duckdb": "not a file, so no database",
        "text.duckdb": "cannot be opened .*not a valid DuckDB database.*; delete it and run snakemake again",
        "short.duckdb": "cannot be opened .*not a valid DuckDB database",
        "empty.duckdb": "cannot be opened .*not a valid DuckDB database",
        "sqlite.duckdb": "cannot be opened",
        "half.duckdb": "cannot be opened .*it may be damaged: make it anew with snakemake --cores all -R build_ware",
        "damaged.duckdb": "(cannot be opened|cannot be read) .*it may be damaged: make it anew",
        "newer.duckdb": r"another DuckDB built it, this is \d.*version number 200.*read it with that one",
        "older.duckdb": "another DuckDB built it",
        "text.duckdb/inside": "no such database",
        "x" * 300: "cannot be opened .*File name too long",
    }
    for name, message in messages.items():
        for read in (lambda path: ask(path, "FROM scores"), leaderboard.rows):
            with pytest.raises(MoaError, match=f"{re.escape(name)}: {message}") as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_database_that_may_not_be_read(database, tmp_path):
    path = tmp_path / "mine.duckdb"
    path.write_bytes(database.read_bytes())
    path.chmod(0)
    with pytest.raises(MoaError, match=r"mine.duckdb: may not be read .*chmod u\+r"):
        ask(path, "SELECT 1")


def test_no_folder_for_temporary_files(database, monkeypatch):
    """An ordinary query needs none; a large one says what it lacked."""

    def none():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(limits.tempfile, "gettempdir", none)
    assert ask(database, "SELECT 1 AS a") == [{"a": 1}]
    monkeypatch.setattr(limits.tempfile, "gettempdir", lambda: "/nowhere/at/all")
    assert ask(database, "SELECT 1 AS a") == [{"a": 1}]
    with pytest.raises(MoaError, match=r'Failed to create directory "/nowhere/at/all') as caught:
        sql.query(
            database, "FROM range(10000000) a, range(10) b ORDER BY ALL DESC", "csv", io.StringIO(), Limits("60MB")
        )
    assert "\n" not in str(caught.value)
