"""Builds reports/index.html and one page per task from results.duckdb.

Every task of the database gets its page, not only the one that asks, so that no link of the index is dead.
"""

import argparse
import logging
import re
from pathlib import Path

from moa.errors import MoaError
from moa.experiment.schema import TaskSection
from moa.job import command
from moa.report import pages
from moa.report.data import named, read
from moa.store import provenance
from moa.store.files import atomically
from moa.store.sql import reading

log = logging.getLogger("moa")
FILE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # what the config allows as a task's name


def build(database: Path, out: Path, asked: str | None = None) -> list[Path]:
    """Write index.html and <task>.html into the folder `out` and return their paths.

    Task `asked` must be among them.
    """
    with reading(database) as connection:
        tasks = read(connection)
    if asked is not None:
        named(tasks, asked)
    for task in tasks:
        if not FILE_NAME.fullmatch(task.name) or task.name == "index":
            raise MoaError(
                f"{database}: task {task.name!r} cannot name a page; `task` in the experiment file takes letters,"
                " digits and underscores, and not 'index'"
            )
    written = [_write(out / f"{task.name}.html", pages.task_page(task, tasks)) for task in tasks]
    return [*written, _write(out / "index.html", pages.index(tasks))]


def _write(path: Path, page: str) -> Path:
    """Write bytes as they are: the content policy holds hashes of the scripts, line ends included."""
    atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8", newline="\n"))
    log.info("%s: %.1f MB", path, path.stat().st_size / 1e6)
    return path


def main(arguments: argparse.Namespace) -> None:
    made = build(arguments.database, arguments.out, TaskSection.model_validate_json(arguments.section).task)
    if arguments.mark is not None:
        provenance.mark(arguments.mark, *made)


if __name__ == "__main__":
    command.run(main, command.parser(__doc__, "database", "out", "mark?"))
