"""The Markdown summary of a task on a synthetic database."""

from pathlib import Path

import pytest

from moa.errors import MoaError
from moa.report.summary import summary
from tests import synthetic


def test_summary_has_every_method_and_refuses_an_unknown_task(tmp_path: Path) -> None:
    database = synthetic.warehouse(tmp_path)
    text = summary(database, "synthetic")
    rows = [line.split(" | ")[0].removeprefix("| ") for line in text.split("\n\n")[0].splitlines()[2:]]
    assert {"reference", "moc", "pama", "morlhf"} <= set(rows)
    assert "not steerable" in text
    with pytest.raises(MoaError, match="no task 'other'. Known: synthetic"):
        summary(database, "other")
