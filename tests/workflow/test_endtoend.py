"""tests/tiny.yaml from config to report: every stage and every method, for real."""

import json
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from moa.store import tables
from tests.workflow import snake


def test_it_prints_the_leaderboard_and_where_the_report_is(tiny_run: snake.Run) -> None:
    printed = tiny_run.output
    assert "hypervolume on the normalised scale" in printed
    for row in snake.ROWS:
        assert any(line.replace("│", " ").split()[:1] == [row] for line in printed.splitlines()), f"no line for {row}"
    assert f"Report: {tiny_run.directory / 'reports' / 'index.html'}" in printed


def test_progress_shows_on_the_console(tiny_run: snake.Run) -> None:
    assert "ETA" in tiny_run.output


def test_every_table_is_in_the_database(tiny_run: snake.Run) -> None:
    with duckdb.connect(str(tiny_run.directory / "results" / "results.duckdb"), read_only=True) as connection:
        for table in tables.ALL:
            found = connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()
            assert found is not None and found[0] > 0, f"table {table.name} is empty"
        methods = [m for (m,) in connection.execute("SELECT method FROM leaderboard").fetchall()]
    assert sorted(methods) == sorted(snake.ROWS)


def test_every_output_is_a_valid_table(tiny_run: snake.Run) -> None:
    by_name = {table.name: table for table in tables.ALL}
    files = sorted((tiny_run.directory / "results").rglob("*.parquet"))
    assert len(files) > 30
    for path in files:
        name = pq.read_schema(path).metadata[b"moa.table"].decode()
        tables.read(by_name[name], path)


def test_models_are_safetensors(tiny_run: snake.Run) -> None:
    names = {p.suffix for p in (tiny_run.directory / "results").rglob("*") if p.is_file()}
    assert ".safetensors" in names
    assert not names & {".bin", ".pt", ".pth", ".pkl", ".ckpt"}


class Fetches(HTMLParser):
    """Collects what a page would fetch by itself when it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [
            value or ""
            for name, value in attrs
            if name in ("src", "srcset", "href", "data") and tag != "a" and not (value or "").startswith(("data:", "#"))
        ]


@pytest.mark.parametrize("page", ["index.html", "tiny.html"])
def test_the_report_fetches_nothing(tiny_run: snake.Run, page: str) -> None:
    reader = Fetches()
    reader.feed((tiny_run.directory / "reports" / page).read_text())
    assert {"html", "body", "table"} <= reader.tags
    assert reader.found == []


def test_the_run_says_where_it_comes_from(tiny_run: snake.Run) -> None:
    (row,) = tables.read(tables.RUNS, tiny_run.directory / "results" / "tiny" / "run.parquet").to_pylist()
    assert json.loads(row["config"])["task"] == "tiny"
    for name in json.loads(row["files"]):
        assert (tiny_run.directory / "results" / "tiny" / name).exists()


@pytest.mark.parametrize(
    "arguments", [("sql", "SELECT method, hypervolume FROM leaderboard"), ("leaderboard",), ("leaderboard", "tiny")]
)
def test_the_command_line_reads_the_results(tiny_run: snake.Run, arguments: tuple[str, ...]) -> None:
    shown = snake.moa(tiny_run.directory, *arguments)
    assert shown.returncode == 0, shown.stderr
    for row in snake.ROWS:
        assert row in shown.stdout


def test_an_unknown_task_is_refused(tiny_run: snake.Run) -> None:
    refused = snake.moa(tiny_run.directory, "leaderboard", "tinny")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "no task 'tinny'. Did you mean 'tiny'?" in refused.stderr


def test_the_leaderboard_before_the_first_run(tmp_path: Path) -> None:
    (tmp_path / "moa").symlink_to(snake.ROOT / "moa")
    refused = snake.moa(tmp_path, "leaderboard")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: results/results.duckdb: no such database")
