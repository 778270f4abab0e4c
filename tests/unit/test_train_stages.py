"""What the stages that train share.

Checkpoints outlive a death before the last output, and costs count what came before.
"""

import json
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from moa.errors import MoaError
from moa.job import command
from moa.stages import train, train_grpo, train_modpo, train_ric
from moa.store import tables
from tests import tiny_policy, trained

Stage = tuple[Callable[[Namespace], None], str, tuple[float, float] | None]
STAGES: list[Stage] = [
    (train.main, "linear", None),
    (train_modpo.main, "modpo", (0.5, 0.5)),
    (train_ric.main, "ric", None),
    (train_grpo.main, "grpo", None),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.write_inputs(tmp_path_factory.mktemp("inputs"))


def die_at_the_costs(stage: Stage, inputs: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Run a stage that ends before its costs are written; return the checkpoints that it leaves."""
    main, row, weights = stage

    def killed(*_: object) -> None:
        raise MoaError("killed")

    with monkeypatch.context() as patch, pytest.raises(MoaError, match="killed"):
        patch.setattr(command.Cost, "write", killed)
        trained.run(main, inputs, out, row, weights)
    return sorted((out / "checkpoints").glob("*/step-*"))


@pytest.mark.parametrize("stage", STAGES, ids=[row for _, row, _ in STAGES])
def test_checkpoints_go_after_the_last_output(
    stage: Stage, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = die_at_the_costs(stage, inputs, tmp_path, monkeypatch)
    assert left
    main, row, weights = stage
    with caplog.at_level("INFO", "moa"):
        trained.run(main, inputs, tmp_path, row, weights)
    assert "resumed a" in caplog.text
    assert (tmp_path / "costs.parquet").exists()
    assert not left[0].parent.exists()


@pytest.mark.parametrize("stage", STAGES, ids=[row for _, row, _ in STAGES])
def test_an_evaluation_prompt_that_does_not_fit_is_refused_before_training(
    stage: Stage, inputs: Path, tmp_path: Path
) -> None:
    """Else the policy would be trained first, and the remedy, other prompts, would train it anew."""
    shutil.copytree(inputs, tmp_path / "inputs")
    table = tmp_path / "inputs" / "prompts.parquet"
    long = {"task": "t", "prompt_id": "long", "split": "evaluation", "prompt": "very long " * 200}
    tables.write(tables.PROMPTS, [*tables.read(tables.PROMPTS, table).to_pylist(), long], table)
    main, row, weights = stage
    with pytest.raises(
        MoaError, match=r"prompt '.*very long.*the model's context leaves room for \d+ .*lower data.prompt_characters"
    ):
        trained.run(main, tmp_path / "inputs", tmp_path / "out", row, weights)
    assert not list((tmp_path / "out" / "checkpoints").glob("*/step-*"))


def test_the_preferences_that_will_be_drawn_are_known_beforehand(tmp_path: Path) -> None:
    """So that a prompt too long for one of them is refused before training.

    Two steps of four groups: eight draws, in the loop's order.
    """
    run = tiny_policy.loop("linear", tmp_path, steps=2, advantages="group", group_size=3)
    run.task.dirichlet, read, text_of = 1.0, [], run.task.text_of
    run.task.text_of = lambda prompt, preference: read.append(preference) or text_of(prompt, preference)  # type: ignore[func-returns-value, assignment]
    list(run.run())
    assert read[::3] == train.drawn_preferences(run.ppo, list(run.task.training), 1.0, 0)
    assert len(set(read)) == 8


@pytest.mark.parametrize("stage", STAGES, ids=[row for _, row, _ in STAGES])
def test_costs_count_wall_clock_and_processor_of_earlier_attempts(
    stage: Stage, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest checkpoint is made to say that the attempt before took 100 000 s and 200 000 s of the processor."""
    newest = die_at_the_costs(stage, inputs, tmp_path, monkeypatch)[-1]
    state = json.loads((newest / "state.json").read_text())
    assert state["watch"]["seconds"] > 0 and state["watch"]["cpu_seconds"] > 0
    (newest / "state.json").write_text(json.dumps({**state, "watch": {"seconds": 1e5, "cpu_seconds": 2e5}}))
    main, row, weights = stage
    trained.run(main, inputs, tmp_path, row, weights)
    (cost,) = tables.read(tables.COSTS, tmp_path / "costs.parquet").to_pylist()
    assert 1e5 < cost["seconds"] < 1.5e5
    assert 2e5 < cost["cpu_seconds"] < 2.5e5
