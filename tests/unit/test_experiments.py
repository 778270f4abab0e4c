"""Every experiment file of the repository parses and plans; the package imports fast and without torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moa.experiment.schema import load
from moa.methods import catalogue
from moa.plan import Plan

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "config.yaml", ROOT / "tests" / "tiny.yaml", *sorted((ROOT / "experiments").glob("*.yaml"))]


@pytest.mark.parametrize("file", FILES, ids=[f.stem for f in FILES])
def test_an_experiment_plans(file: Path) -> None:
    experiment = load(file)
    plan = Plan(experiment, file.name)
    assert {row for row, _ in plan.policies} <= set(plan.rows)

    assert len(experiment.evaluation_preferences()) >= 3


def test_the_full_experiment_is_full() -> None:
    experiment = load(ROOT / "experiments" / "full.yaml")
    assert len(experiment.evaluation_preferences()) == 11
    assert len(experiment.run.seeds) == 5
    kinds = {experiment.methods.get(row, {}).get("kind") or row for row in experiment.run.methods}
    assert kinds == set(catalogue.names()) - {"external"}, "external needs a model of the user's"


def test_importing_the_package_is_light() -> None:
    code = (
        "import time; t = time.process_time(); import moa; s = time.process_time() - t; import sys; print(s < 0.2,"
        " 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "False"]


def test_the_plan_needs_no_torch() -> None:
    code = (
        "from pathlib import Path; import moa.cli; from moa.experiment.schema import load; from moa.plan import Plan;"
        " Plan(load(Path('config.yaml')), 'c').policies; import sys, moa.lm.inspect;"
        " import moa.lm.inspect_adapter; print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False"]


def test_nothing_is_reported_to_the_hub() -> None:
    code = "import moa; from huggingface_hub import constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK")
    }
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["True"]
