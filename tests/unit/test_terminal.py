"""Where a terminal is written to: escapes instead of what it would obey, any encoding, any width; one place."""

import ast
import io
import logging
import os
import sys
from pathlib import Path

import pytest

from moa.errors import shown, visible
from moa.job.command import Visible
from moa.report import leaderboard
from moa.store import terminal
from moa.store.terminal import Table
from tests import synthetic

ROOT = Path(__file__).parents[2]
# A program of its own that prints a corpus of ours.
APART = {"moa/tasks/reviews.py"}


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def encoded(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")


def written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(stream.encoding)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain, é, 漢字, 😀", "plain, é, 漢字, 😀"),
        ("\x1b[2J\x07\r\x00\x7f\x9b", r"\u001b[2J\u0007\u000d\u0000\u007f\u009b"),
        ("\u202eright to left\u202c \u2066\u2069\u200f", r"\u202eright to left\u202c \u2066\u2069\u200f"),
        ("\u200b\ufeff\u00ad", r"\u200b\ufeff\u00ad"),  # no width
        ("\u2028\u2029\x85", r"\u2028\u2029\u0085"),  # ends of lines
        ("\U000e0041", r"\U000e0041"),  # a tag: nobody sees it, a model reads it
        ("\udcff", r"\udcff"),  # a byte that was no UTF-8
        ("a\nb", r"a\u000ab"),
    ],
)
def test_what_a_terminal_would_obey_or_hide_is_an_escape(text: str, seen: str) -> None:
    assert visible(text) == seen
    assert visible(seen) == seen
    assert shown(text) == seen.replace(r"\u000a", "\n")


@pytest.mark.parametrize(
    ("encoding", "seen"),
    [("utf-8", "café €"), ("latin-1", r"café \u20ac"), ("ascii", r"caf\xe9 \u20ac"), ("cp1252", "café €")],
)
def test_what_an_encoding_does_not_have_is_an_escape(encoding: str, seen: str) -> None:
    terminal.say("café €", stream := encoded(encoding))
    assert written(stream) == f"{seen}\n"
    terminal.show(Table(["é"], [["€"], ["plain"], [None]], title="café €"), stream := encoded(encoding))
    lines = written(stream).splitlines()
    assert lines[0].rstrip() == seen.removesuffix("\n") and len({len(line) for line in lines[1:]}) == 1  # columns fit
    assert seen.split()[1] in lines[-4] and "NULL" in lines[-2]
    terminal.writer(stream := encoded(encoding))("café €\x1b")
    assert written(stream) == f"{seen}\x1b"  # a file has the data


def test_data_is_unchanged_in_a_file_and_escaped_on_a_terminal() -> None:
    for stream, seen in ((io.StringIO(), "a\x1b[31m\u202e\nb"), (Screen(), "a\\u001b[31m\\u202e\nb")):
        terminal.writer(stream)("a\x1b[31m\u202e\nb")
        assert stream.getvalue() == seen


def test_a_stream_that_the_shell_has_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    terminal.say("nobody hears it")
    terminal.note("nor this")


def test_the_log_shows_escapes() -> None:
    record = logging.LogRecord("moa", logging.INFO, "", 0, "reward %s", ("\x1b[2J\u202e",), None)
    assert Visible("%(message)s").format(record) == r"reward \u001b[2J\u202e"


@pytest.mark.parametrize("columns", [1, 10, 20, 40, 60, 80, 100, 200])
def test_a_table_fits_every_width(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole where there is room, then without its last columns, then a line per value; nothing is cut away unsaid."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "dumb")  # no colours
    head = [f"column_{i}" for i in range(8)]
    rows = [[f"value_{i}" for i in range(8)], ["x" * 50, *["y"] * 7]]
    for needed in (None, 2):
        terminal.show(Table(head, rows, needed=needed), screen := Screen())
        text = screen.getvalue()
        assert max(map(len, text.splitlines())) <= columns and "…" not in text and "\x1b" not in text
        together = "".join(c for c in text if c.isalnum() or c == "_")
        assert all("".join(name) in together or columns < 40 for name in head)
        assert together.count("x") == 50


def test_no_color_and_a_terminal_with_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(["a"], [["\x1b[31mred"], [None]])
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.show(table, screen := Screen())
    assert "\x1b[3" not in screen.getvalue() and r"\u001b[31mred" in screen.getvalue()
    monkeypatch.setenv("TERM", "dumb")
    terminal.show(table, screen := Screen())
    assert "\x1b" not in screen.getvalue()


def test_the_leaderboard_on_a_narrow_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = synthetic.warehouse(tmp_path)
    lines = {}
    for columns in (200, 80, 20):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setattr(sys, "stdout", screen := Screen())
        leaderboard.show(database, tmp_path / "none.html")
        lines[columns] = screen.getvalue().splitlines()
        assert max(map(len, lines[columns])) <= columns
    assert not any("left out" in line for line in lines[200])
    left = " ".join(lines[80]).partition("left out, this terminal is too narrow:")[2]
    assert left.split()[-1] == "training" and "hypervolume" not in left and any("morlhf" in line for line in lines[80])
    assert sum("method" in line for line in lines[20]) == 7  # a record per row


def prints(path: Path) -> list[str]:
    """Return the places of a file where it prints, or writes to a standard stream, by itself."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("print", "pprint", "Console", "typer.echo", "sys.stdout.write", "sys.stderr.write"):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {called}")
    return found


def test_there_is_one_place_that_writes_to_a_terminal() -> None:
    files = [path for path in sorted((ROOT / "moa").rglob("*.py")) if path.relative_to(ROOT).as_posix() not in APART]
    found = [place for path in files for place in prints(path)]
    assert {place.split(":")[0] for place in found} == {"moa/store/terminal.py"}, found


def test_standard_streams_are_lenient_after_a_word() -> None:
    terminal.say("x", stream := encoded("ascii"))
    stream.write("é")  # a library that writes by itself
    assert written(stream) == "x\n\\xe9" and os.linesep == "\n"
