"""The README's command for a machine without the hub names every source of its experiment."""

import re
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from moa.experiment.schema import parse
from moa.plan import Plan

ROOT = Path(__file__).parents[2]


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
