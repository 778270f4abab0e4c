r"""The one place that writes to a terminal: any text, in any encoding, at any width, and nothing that a terminal obeys.

Names and texts may come from a model, a data set or somebody else's database: what a terminal would obey or hide is
shown as its \u escape, and so is what the stream's encoding does not have.
"""

import io
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TextIO

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from moa.errors import shown, visible

FRAMED = 20  # columns; with fewer a frame would leave no room for values
COLUMN = 24  # characters of the narrowest column of texts
ENDLESS = 1_000_000  # a file or a pipe has no width: lines may be as long as they need to be


def say(text: str, stream: TextIO | None = None) -> None:
    """Print lines of text, on standard output unless another stream is given."""
    out = stream or sys.stdout
    if out is not None:  # the shell may have closed it
        print(shown(text), file=lenient(out), flush=True)


def note(text: str) -> None:
    """Print lines of text beside the output, on standard error."""
    if sys.stderr is not None:
        say(text, sys.stderr)


def lenient(stream: TextIO) -> TextIO:
    """Return the stream; from now on it writes what its encoding does not have as escapes."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def writer(stream: TextIO) -> Callable[[str], object]:
    """Return a function that writes data: unchanged into a file or a pipe, made visible on a terminal."""
    lenient(stream)
    return (lambda text: stream.write(shown(text))) if stream.isatty() else stream.write


@dataclass(frozen=True)
class Table:
    """A table for reading.

    Attributes:
        head: names of the columns.
        rows: their cells; None is a missing value.
        right: numbers of the columns that are aligned right.
        title: a line above it.
        needed: how many of the first columns always stay; where the terminal is too narrow the others are left out from
            the end, and named below. None: all stay.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str | None]]
    right: Collection[int] = ()
    title: str = ""
    needed: int | None = None


def show(table: Table, stream: TextIO) -> None:
    """Print a table that fits the stream's width: whole, or without its last columns, or a line per value."""
    lenient(stream)
    # Both sizes, or Rich takes a terminal without colours for 80 columns wide.
    width = shutil.get_terminal_size().columns if stream.isatty() else ENDLESS
    console = Console(file=stream, highlight=False, width=width, height=25)
    fitted = _encoded(table, stream.encoding or "utf-8")
    if fitted.title:
        console.print(Text(fitted.title))
    least = len(fitted.head) if table.needed is None else table.needed
    for count in range(len(fitted.head), least - 1, -1):
        kept = replace(fitted, head=fitted.head[:count], rows=[row[:count] for row in fitted.rows])
        if _width(console, kept) <= console.width:
            console.print(_grid(kept))
            left = ", ".join(fitted.head[count:])
            if left:
                console.print(f"left out, this terminal is too narrow: {left}", markup=False)
            return
    if console.width >= FRAMED:
        console.print(_records(fitted, console.width))
        return
    for row in fitted.rows:
        for name, value in zip(fitted.head, row, strict=True):
            console.print(Text(f"{name}: {'NULL' if value is None else value}", overflow="fold"))


def beside(heads: Sequence[str], answers: Sequence[str]) -> None:
    """Print answers in columns where the terminal is wide enough; else, and in a file, one below the other."""
    out = lenient(sys.stdout)
    width = shutil.get_terminal_size().columns if out.isatty() else 0
    if width < len(heads) * (COLUMN + 3) + 1:  # a column's frame and padding
        say("\n\n".join(f"{head}:\n{answer}" for head, answer in zip(heads, answers, strict=True)))
        return
    grid = Grid(header_style="none")
    for head in heads:
        grid.add_column(Text(shown(head)), overflow="fold")
    grid.add_row(*(Text(shown(answer)) for answer in answers))
    Console(file=out, highlight=False, width=width).print(grid)


def _encoded(table: Table, encoding: str) -> Table:
    """Return the table with its text made visible and within the encoding, so that widths are what is printed."""

    def fit(text: str) -> str:
        return visible(text).encode(encoding, "backslashreplace").decode(encoding)

    rows = [[None if cell is None else fit(cell) for cell in row] for row in table.rows]
    return replace(table, head=[fit(name) for name in table.head], rows=rows, title=fit(table.title))


def _width(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update(max_width=ENDLESS), _grid(table)).maximum


def _grid(table: Table) -> Grid:
    grid = Grid()
    for i, name in enumerate(table.head):
        grid.add_column(Text(name), justify="right" if i in table.right else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*map(_cell, row))
    return grid


def _records(table: Table, width: int) -> Grid:
    grid = Grid(show_header=False)
    grid.add_column(overflow="fold", min_width=min(max(map(len, table.head), default=0), width // 2))
    grid.add_column(overflow="fold")
    for row in table.rows:
        for name, value in zip(table.head, row, strict=True):
            grid.add_row(Text(name), _cell(value))
        grid.add_section()
    return grid


def _cell(value: str | None) -> Text:
    return Text("NULL", style="dim") if value is None else Text(value)
