"""The eight queries of docs/queries.md run, and are the ones that moa/report/queries holds."""

import io
import re
from pathlib import Path

import pytest

from moa.store import sql
from tests import synthetic

ROOT = Path(__file__).parents[2]
QUERIES = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "queries.md").read_text(encoding="utf-8"), re.DOTALL)
FILES = sorted((ROOT / "moa" / "report" / "queries").glob("0*.sql"))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.warehouse(tmp_path_factory.mktemp("queries"))


def test_there_are_eight_and_they_are_the_files() -> None:
    assert len(QUERIES) == len(FILES) == 8
    for shown, file in zip(QUERIES, FILES, strict=True):
        assert shown.strip() == file.read_text(encoding="utf-8").strip().split("\n", 1)[1].strip(), file.name


@pytest.mark.parametrize("query", QUERIES, ids=[f.stem for f in FILES])
def test_a_query_answers(query: str, database: Path) -> None:
    out = io.StringIO()
    sql.query(database, query, "csv", out)
    assert len(out.getvalue().splitlines()) > 1
