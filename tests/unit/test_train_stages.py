"""What all trainers share.

Checkpoints outlive a death before the last output, and costs count what came before.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

from moa.errors import MoaError
from moa.experiment.preferences import Preference
from moa.job import command
from moa.stages import train
from moa.store import tables
from moa.trainers import setup, trl_grpo
from moa.trainers.grpo_run import GrpoRun
from tests import killed, tiny_policy, trained

Row = tuple[str, tuple[float, float] | None]
ROWS: list[Row] = [("linear", None), ("modpo", (0.5, 0.5)), ("ric", None), ("grpo", None)]  # one of every trainer


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.write_inputs(tmp_path_factory.mktemp("inputs"))


def die_at_the_costs(row: Row, inputs: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Run a training that ends before its costs are written; return the checkpoints that it leaves."""

    def ended(*_: object) -> None:
        raise MoaError("killed")

    with monkeypatch.context() as patch, pytest.raises(MoaError, match="killed"):
        patch.setattr(command.Cost, "write", ended)
        trained.run(inputs, out, *row)
    return sorted((out / "checkpoints").glob("*/step-*"))


@pytest.mark.parametrize("row", ROWS, ids=[name for name, _ in ROWS])
def test_checkpoints_go_after_the_last_output(
    row: Row, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = die_at_the_costs(row, inputs, tmp_path, monkeypatch)
    assert left
    with caplog.at_level("INFO", "moa"):
        trained.run(inputs, tmp_path, *row)
    assert "resumed a" in caplog.text
    assert (tmp_path / "costs.parquet").exists()
    assert not left[0].parent.exists()


def renamed(path: Path) -> None:
    """Give an adapter's tensors other names, as if another version had written it."""
    found = load_file(path / "adapter.safetensors")
    save_file({f"other.{name}": tensor for name, tensor in found.items()}, path / "adapter.safetensors")
    killed.seal(path)


@pytest.mark.parametrize("row", ROWS, ids=[name for name, _ in ROWS])
def test_a_checkpoint_that_does_not_fit_is_passed_over(
    row: Row, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The newest one's names are others: the one before it counts, and the policy is that of never stopping."""
    *_, before, newest = die_at_the_costs(row, inputs, tmp_path, monkeypatch)
    whole = load_file(tmp_path / "policy" / "adapter" / "adapter_model.safetensors")
    renamed(newest)
    with caplog.at_level("INFO", "moa"):
        trained.run(inputs, tmp_path, *row)
    step = int(before.name.removeprefix("step-"))
    assert f"checkpoint {newest} cannot be used: adapter.safetensors lacks base_model" in caplog.text
    assert f"going back to the one before it, of step {step}" in caplog.text and "resumed a" in caplog.text
    again = load_file(tmp_path / "policy" / "adapter" / "adapter_model.safetensors")
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize("row", ROWS[:1], ids=["linear"])
def test_where_none_fits_the_log_says_that_training_begins_anew(
    row: Row, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = die_at_the_costs(row, inputs, tmp_path, monkeypatch)
    for path in left:
        renamed(path)
    with caplog.at_level("INFO", "moa"):
        trained.run(inputs, tmp_path, *row)
    assert f"no checkpoint in {left[0].parent} can be used: training begins anew" in caplog.text
    assert "resumed at" not in caplog.text


@pytest.mark.parametrize("row", ROWS, ids=[name for name, _ in ROWS])
def test_an_evaluation_prompt_that_does_not_fit_is_refused_before_training(
    row: Row, inputs: Path, tmp_path: Path
) -> None:
    """Else the policy would be trained first, and the remedy, other prompts, would train it anew."""
    shutil.copytree(inputs, tmp_path / "inputs")
    table = tmp_path / "inputs" / "prompts.parquet"
    long = {"task": "t", "prompt_id": "long", "split": "evaluation", "prompt": "very long " * 200}
    tables.write(tables.PROMPTS, [*tables.read(tables.PROMPTS, table).to_pylist(), long], table)
    with pytest.raises(
        MoaError, match=r"prompt '.*very long.*the model's context leaves room for \d+ .*lower data.prompt_characters"
    ):
        trained.run(tmp_path / "inputs", tmp_path / "out", *row)
    assert not list((tmp_path / "out" / "checkpoints").glob("*/step-*"))


def test_the_preferences_that_will_be_drawn_are_known_beforehand(tmp_path: Path) -> None:
    """So that a prompt too long for one of them is refused before training.

    Two steps of four groups: eight draws, in the loop's order.
    """
    run = tiny_policy.loop("linear", tmp_path, steps=2, advantages="group", group_size=3)
    run.task.dirichlet, read, text_of = 1.0, [], run.task.text_of

    def noted(prompt: str, preference: Preference | None) -> str:
        read.append(preference)
        return text_of(prompt, preference)

    run.task.text_of = noted
    list(run.run())
    assert read[::3] == setup.drawn_preferences(run.ppo, list(run.task.training), 1.0, 0)
    assert len(set(read)) == 8


def test_grpo_is_checked_with_the_preferences_that_its_own_groups_draw(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shared loop would draw one preference for eight responses, GRPO draws one for each of its groups."""
    checked: list[Preference] = []
    drawn: list[list[float]] = []
    real = trl_grpo.data

    def noted(run: GrpoRun, first: int) -> Dataset:
        drawn.extend(real(run, first)["preference"])
        return real(run, first)

    monkeypatch.setattr(setup, "check_lengths", lambda actor, task, prompts, read: checked.extend(read))
    monkeypatch.setattr(trl_grpo, "data", noted)
    given = trained.command(inputs, tmp_path, "grpo", ppo={"steps": 2, "group_size": 8}, group_size=4)
    given.section = json.dumps({**json.loads(given.section), "dirichlet": 1.0})
    train.main(given)
    assert len(set(map(tuple, drawn))) == 4 and set(map(tuple, drawn)) < set(checked)


@pytest.mark.parametrize("row", ROWS, ids=[name for name, _ in ROWS])
def test_costs_count_wall_clock_and_processor_of_earlier_attempts(
    row: Row, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest checkpoint is made to say that the attempt before took 100 000 s and 200 000 s of the processor."""
    newest = die_at_the_costs(row, inputs, tmp_path, monkeypatch)[-1]
    state = json.loads((newest / "state.json").read_text())
    assert state["watch"]["seconds"] > 0 and state["watch"]["cpu_seconds"] > 0
    (newest / "state.json").write_text(json.dumps({**state, "watch": {"seconds": 1e5, "cpu_seconds": 2e5}}))
    killed.seal(newest)
    trained.run(inputs, tmp_path, *row)
    (cost,) = tables.read(tables.COSTS, tmp_path / "costs.parquet").to_pylist()
    assert 1e5 < cost["seconds"] < 1.5e5
    assert 2e5 < cost["cpu_seconds"] < 2.5e5
