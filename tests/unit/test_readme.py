"""The README's eight queries run, and are the ones that moa/report/queries holds."""

import io
import re
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from moa.experiment.schema import parse
from moa.plan import Plan
from moa.store import sql
from tests import synthetic

ROOT = Path(__file__).parents[2]
QUERIES = re.findall(r"```sql\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
FILES = sorted((ROOT / "moa" / "report" / "queries").glob("0*.sql"))


def test_the_command_with_local_folders_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every source of experiments/imdb.yaml is replaced by what the command under 'At 7B' names."""
    block = re.search(
        r"--configfile (experiments/imdb.yaml) --config (.*?)\npython",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert block is not None
    data = yaml.safe_load((ROOT / block[1]).read_text(encoding="utf-8"))
    for key, value in re.findall(r"(\w+)='(.*?)'", block[2]):
        update_config(data, {key: yaml.safe_load(value)})
    plan = Plan(parse(data, block[1]), block[1])
    monkeypatch.chdir(tmp_path)
    assert plan.remote()
    for folder in ("data/imdb", "models/gpt2"):
        (tmp_path / folder).mkdir(parents=True)
    assert not plan.remote()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.warehouse(tmp_path_factory.mktemp("readme"))


def test_there_are_eight_and_they_are_the_files() -> None:
    assert len(QUERIES) == len(FILES) == 8
    for shown, file in zip(QUERIES, FILES, strict=True):
        assert shown.strip() == file.read_text(encoding="utf-8").strip().split("\n", 1)[1].strip(), file.name


@pytest.mark.parametrize("query", QUERIES, ids=[f.stem for f in FILES])
def test_a_query_answers(query: str, database: Path) -> None:
    out = io.StringIO()
    sql.query(database, query, "csv", out)
    assert len(out.getvalue().splitlines()) > 1
