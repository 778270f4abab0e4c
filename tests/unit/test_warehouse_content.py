"""The database: complete, described, readable by old clients."""

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from moa.stages import warehouse
from moa.store import tables
from moa.store.sql import sql_type
from tests import synthetic
from tests.synthetic import ask

ROOT = Path(__file__).parent.parent.parent
OLDEST = "1.0.0"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A database of two seeds, built once; tests only read it."""
    return synthetic.warehouse(tmp_path_factory.mktemp("warehouse"), seeds=(0, 1))


def test_every_table_and_column_is_there_with_its_meaning_and_no_view(built):
    assert ask(built, "SELECT count(*) FROM duckdb_views() WHERE NOT internal") == [(0,)]
    found = ask(
        built,
        "SELECT table_name, column_name, data_type, is_nullable, comment FROM duckdb_columns() WHERE NOT internal ORDER"
        " BY table_name, column_index",
    )
    expected = []
    for table in sorted(tables.ALL, key=lambda t: t.name):
        for name, column in table.columns.items():
            comment = column.meaning + (f" (NULL: {column.null})" if column.null else "")
            expected.append((table.name, name, sql_type(column.type), bool(column.null), comment))
    assert found == expected
    assert dict(ask(built, "SELECT table_name, comment FROM duckdb_tables() WHERE NOT internal")) == {
        table.name: table.meaning for table in tables.ALL
    }


def test_every_row_of_every_file_is_there_unchanged(built):
    folder = built.parent / synthetic.TASK
    for table in tables.ALL:
        files = [p for p in folder.rglob("*.parquet") if warehouse._table_of(p) is table]
        rows = sorted((row for p in files for row in tables.read(table, p).to_pylist()), key=repr)
        if table in (tables.POLICIES, tables.LEADERBOARD):
            assert not files
            continue
        with duckdb.connect(str(built), read_only=True) as connection:
            stored = connection.sql(f"SELECT * FROM {table.name}").to_arrow_table().to_pylist()
        assert rows and sorted(stored, key=repr) == rows, table.name


def test_leaderboard_by_hand(built):
    metrics = tables.read(tables.METRICS, built.parent / synthetic.TASK / "evaluation/metrics.parquet").to_pylist()
    volumes = [m for m in metrics if m["method"] == "morlhf" and m["metric"] == "hypervolume"]
    (row,) = ask(
        built,
        "SELECT hypervolume, low, high, seed_sd, points, prompts, seeds, models, seconds, tokens, generation_seconds"
        " FROM leaderboard WHERE method = 'morlhf'",
    )
    first, second = (v["value"] for v in volumes)
    assert row[0] == pytest.approx((first + second) / 2)
    assert row[1:3] == pytest.approx((sum(v["low"] for v in volumes) / 2, sum(v["high"] for v in volumes) / 2))
    assert row[3] == pytest.approx(abs(first - second) / 2**0.5)
    assert row[4:7] == (5, 12, 2)
    # Five policies: two corners borrowed from single_objective, three of its own. A job takes 20 s + 1 s per letter of
    # the policy's name.
    names = ["sentiment", "conciseness", "w0.25-0.75", "w0.5-0.5", "w0.75-0.25"]
    assert row[7] == 5 and row[8] == pytest.approx(sum(20 + len(n) for n in names))
    assert row[9] == 5 * 64 * 24 * synthetic.STEPS and row[10] == 7.5
    # steps 2 to 11 of 0 to 11 at 0.2 step / 11: 0.2 * 6.5 / 11; nothing is trained for the reference
    rows = "('moc', 'rewarded_soups', 'reference')"
    assert dict(ask(built, f"SELECT method, kl FROM leaderboard WHERE method IN {rows}")) == {
        "moc": pytest.approx(0.2 * 6.5 / 11), "rewarded_soups": pytest.approx(0.2 * 6.5 / 11), "reference": None,
    }  # fmt: skip
    assert ask(
        built, "SELECT tau, control_error, models, seconds, seeds FROM leaderboard WHERE method = 'reference'"
    ) == [(None, None, 0, 0, 2)]
    assert ask(built, "SELECT hypervolume_readable, degenerate FROM leaderboard WHERE method = 'pama'") == [(0, 1)]


def test_opens_in_the_oldest_client(built, request):
    """Install DuckDB 1.0.0 into a folder of its own and query the file with it."""
    target = request.config.cache.mkdir(f"duckdb-{OLDEST}")
    if not (target / "duckdb").exists():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--target",
            str(target),
            f"duckdb=={OLDEST}",
        ]
        installed = subprocess.run(pip, capture_output=True, text=True, timeout=120)
        if installed.returncode:
            pytest.skip(f"no package index gives duckdb {OLDEST}: {installed.stderr.strip().splitlines()[-1]}")
    queries = [p.read_text(encoding="utf-8") for p in sorted((ROOT / "moa/report/queries").glob("[0-9]*.sql"))]
    code = (
        "import sys, json, duckdb\n"
        "assert duckdb.__version__ == sys.argv[1], duckdb.__version__\n"
        "c = duckdb.connect(sys.argv[2], read_only=True)\n"
        "for q in json.loads(sys.argv[3]): assert c.execute(q).fetchall(), q\n"
        "print(json.dumps([len(c.execute('FROM ' + t).fetchall()) for t in json.loads(sys.argv[4])]))\n"
    )
    names = [table.name for table in tables.ALL]
    command = [sys.executable, "-c", code, OLDEST, str(built), json.dumps(queries), json.dumps(names)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, env={"PYTHONPATH": str(target)})
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [ask(built, f"SELECT count(*) FROM {name}")[0][0] for name in names]
