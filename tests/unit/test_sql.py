"""The read-only shell: the eight queries answer, fifteen hostile statements do not, output is faithful and harmless."""

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from moa.errors import MoaError
from moa.report import leaderboard
from moa.store import sql
from tests import synthetic

ROOT = Path(__file__).parent.parent.parent
QUERIES = sorted((ROOT / "moa/report/queries").glob("[0-9]*.sql"))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return synthetic.warehouse(tmp_path_factory.mktemp("sql"), ("sentiment", "conciseness"), seeds=(0, 2))


def ask(database, query, output="json"):
    stream = io.StringIO()
    sql.query(database, query, output, stream)
    return json.loads(stream.getvalue()) if output == "json" else stream.getvalue()


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


HOSTILE = [
    "COPY scores TO '{folder}/stolen.csv'",
    "COPY (SELECT 1) TO '{folder}/stolen.parquet'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM glob('/etc/*')",
    "ATTACH '{folder}/new.duckdb' AS other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "PRAGMA database_list",
    "CREATE TABLE mine AS SELECT 1",
    "CREATE TEMP TABLE mine AS SELECT 1",
    "INSERT INTO scores SELECT * FROM scores",
    "UPDATE scores SET score = 0",
    "DELETE FROM scores",
    "DROP TABLE scores",
    "EXPORT DATABASE '{folder}/everything'",
    "CALL pragma_version()",
    "EXPLAIN ANALYZE COPY scores TO '{folder}/stolen.csv'",
    "WITH gone AS (DELETE FROM scores RETURNING *) SELECT * FROM gone",
    "SELECT 1; DROP TABLE scores",
    "SELECT * FROM database",
    "CHECKPOINT",
]


@pytest.mark.parametrize("statement", HOSTILE)
def test_hostile_statements_are_refused(database, statement, tmp_path):
    before = hashlib.sha256(database.read_bytes()).hexdigest()
    with pytest.raises(MoaError) as caught:
        ask(database, statement.format(folder=tmp_path))
    assert str(caught.value)
    assert hashlib.sha256(database.read_bytes()).hexdigest() == before
    assert list(tmp_path.iterdir()) == []


def test_the_connection_alone_refuses_them_too(database, tmp_path):
    """The connection refuses them without the check of the statement's kind, too.

    That check makes the message clear and stops what is harmless but no query.
    """
    harmless = ("PRAGMA", "CALL", "CHECKPOINT", "CREATE TEMP")
    for statement in [s.format(folder=tmp_path) for s in HOSTILE if not s.startswith(harmless)]:
        with sql.connect(database) as connection, pytest.raises(duckdb.Error):
            connection.execute(statement)
    assert list(tmp_path.iterdir()) == []


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
    ],
)
def test_mistakes_are_explained(database, query, message):
    with pytest.raises(MoaError) as caught:
        ask(database, query)
    assert message in str(caught.value)


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
    with pytest.raises(MoaError, match="no such database"):
        ask(tmp_path, "SELECT 1")
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
    assert "long long" in shown and max(map(len, shown.splitlines())) < sql.TABLE_CHARACTERS + 10


def test_the_table_stops_somewhere_and_says_so(database):
    assert f"the first {sql.TABLE_ROWS} rows; csv and json give all" in ask(database, "FROM scores", "table")
    short = ask(database, f"FROM scores LIMIT {sql.TABLE_ROWS}", "table")
    assert "the first" not in short and len(short.splitlines()) == sql.TABLE_ROWS + 4


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
        sql.query(database, "FROM leaderboard LIMIT 2", "table", stream)
    finally:
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    lines = stream.getvalue().splitlines()
    assert sum("hypervolume_readable" in line for line in lines) == 2
    assert any("morlhf" in line and "method" in line for line in lines)
