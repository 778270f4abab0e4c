"""The table of answers for README.md: on a synthetic database, whose responses are hostile."""

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from moa.errors import MoaError
from moa.report import example
from tests import synthetic
from tests.workflow import snake

DOCUMENT = f"# Title\n\n{example.BEGIN}\nof an earlier run\n{example.END}\n\nThe rest.\n"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.warehouse(tmp_path_factory.mktemp("example"), seeds=(1, 2))


def write(database: Path, document: Path, *arguments: str) -> str:
    example.main(example._parser().parse_args(["--database", str(database), *arguments, str(document)]))
    return document.read_text(encoding="utf-8")


def test_the_block_is_replaced_and_nothing_else(database: Path, tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text(DOCUMENT, encoding="utf-8")
    first = write(database, document, "--task", "synthetic", "--row", "moc")
    assert first.startswith(f"# Title\n\n{example.BEGIN}\nPrompt: **")
    assert first.endswith(f"{example.END}\n\nThe rest.\n") and "of an earlier run" not in first
    assert write(database, document, "--task", "synthetic", "--row", "moc") == first


def test_the_rows_are_the_preferences_and_the_database_s_answers(database: Path) -> None:
    with duckdb.connect(str(database), read_only=True) as connection:
        lines = example.answers(connection, "synthetic", "moc").splitlines()
        (prompt_id,) = (
            connection.execute("SELECT min(prompt_id) FROM prompts WHERE split = 'evaluation'").fetchone() or ()
        )
        said = connection.execute(
            "SELECT response FROM generations WHERE method = 'moc' AND seed = 1 AND sample = 0 AND prompt_id = ?"
            " ORDER BY preference",
            [prompt_id],
        ).fetchall()
    assert lines[0].endswith("(row `moc` of task `synthetic`, seed 1)")
    assert lines[2] == "| sentiment | conciseness | answer | reward: sentiment | reward: conciseness |"
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines[4:]]
    assert [row[:2] for row in rows] == [  # the lattice of quarters, the first objective rising
        ["0.00", "1.00"],
        ["0.25", "0.75"],
        ["0.50", "0.50"],
        ["0.75", "0.25"],
        ["1.00", "0.00"],
    ]
    assert [row[2] for row in rows] == [example.cell(response) for (response,) in said]


@pytest.mark.parametrize("text", synthetic.HOSTILE)
def test_a_cell_is_one_line_without_markup(text: str) -> None:
    shown = example.cell(text)
    assert shown and not set(shown) & set("<>\n\x1b\u202e\u2028\u200b")
    assert all(shown[i - 1] == "\\" for i, character in enumerate(shown) if character in "|`*_[")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "synthetik", "--row", "moc"), "no task 'synthetik' in the database. Did you mean 'synthetic'?"),
        (("--task", "synthetic", "--row", "pama"), "no row 'pama' that answers preferences; it has linear, moc"),
    ],
)
def test_a_mistake_is_named(database: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    document = tmp_path / "README.md"
    document.write_text(DOCUMENT, encoding="utf-8")
    with pytest.raises(MoaError, match=message.replace("?", r"\?")):
        write(database, document, *arguments)
    assert document.read_text(encoding="utf-8") == DOCUMENT


@pytest.mark.parametrize("text", ["nothing", example.END + example.BEGIN, DOCUMENT + DOCUMENT])
def test_a_document_without_its_two_marks_is_refused(text: str) -> None:
    with pytest.raises(MoaError, match="D.md: the answers go between"):
        example.replaced(text, "block", "D.md")


def test_it_runs_on_the_finished_tiny_run(finished: Path) -> None:
    """As a user calls it: three preferences, three answers of a policy that was trained."""
    document = finished / "README.md"
    document.write_text(DOCUMENT, encoding="utf-8")
    command = [sys.executable, "-m", "moa.report.example", "--task", "tiny", "--row", "moc", "README.md"]
    ran = subprocess.run(
        command, cwd=finished, env=snake.environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    text = document.read_text(encoding="utf-8")
    assert text.count("| 0.00 | 1.00 | ") == text.count("| 0.50 | 0.50 | ") == text.count("| 1.00 | 0.00 | ") == 1
