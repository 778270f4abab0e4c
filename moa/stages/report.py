"""Builds reports/index.html and one page per task from results.duckdb.

`--out` names the pages that the caller expects; index.html and the page of every task of the database are written to
their folder, so that no link is dead.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from moa import tables
from moa.config import Name
from moa.errors import MoaError, nearest
from moa.report import pages
from moa.report.data import Task, connect, read
from moa.stages import common

log = logging.getLogger("moa")
NAME: TypeAdapter[str] = TypeAdapter(Name)


def build(database: Path, out: Sequence[Path]) -> list[Path]:
    """Write the pages and return their paths; a name in `out` that is no page of this database is a MoaError."""
