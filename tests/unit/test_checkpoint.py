"""Checkpoints: what is taken, what is passed over and why, and what a kill leaves, on a module of six numbers."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from moa.lm import checkpoint
from moa.lm.checkpoint import Checkpoints, Spent
from moa.lm.training import State
from moa.store import files
from tests.killed import seal

LAST = 9


def module() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1, bias=False))
    made[1].weight.requires_grad_(False)  # as a base's are
    return made


def learn(made: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    made(torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    optimizer.step()


def adam(made: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for p in made.parameters() if p.requires_grad], lr=0.1)


def checkpoints(folder: Path, made: nn.Module) -> Checkpoints[State]:
    return Checkpoints(folder, State, {"weights": made}, last=LAST)


def state(step: int) -> State:
    return State(step=step, watch=Spent(seconds=1.5, cpu_seconds=2.5), micro=4, losses=[0.1, 1 / 3, float("nan")])


def train(folder: Path, steps: int) -> nn.Module:
    """Train and keep every step."""
    made = module()
    optimizer = adam(made)
    for step in range(1, steps + 1):
        learn(made, optimizer)
        checkpoints(folder, made).save(state(step), optimizer)
    return made


def test_what_is_restored_is_what_was_kept(tmp_path: Path) -> None:
    """Weights and moments: the fourth step from the checkpoint is the fourth step of never stopping, bit for bit."""
    train(tmp_path / "a", 3)
    resumed = module()
    optimizer = adam(resumed)
    kept = checkpoints(tmp_path / "a", resumed)
    found = kept.newest()
    assert found is not None and found.step == 3
    assert (found.watch, found.losses[:2], str(found.losses[2])) == (state(3).watch, [0.1, 1 / 3], "nan")
    kept.restore(found, optimizer)
    learn(resumed, optimizer)
    for p, q in zip(resumed.parameters(), train(tmp_path / "b", 4).parameters(), strict=True):
        assert torch.equal(p, q)


def flip(path: Path) -> None:
    """Turn one bit in the middle of a file over."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def as_a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("no folder")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: flip(p / "weights.safetensors"), "weights.safetensors is not what was written"),
        (lambda p: flip(p / "optimizer.safetensors"), "optimizer.safetensors is not what was written"),
        (lambda p: flip(p / "state.json"), "state.json is not what was written"),
        (lambda p: flip(p / "hashes.json"), ""),
        (lambda p: (p / "hashes.json").write_text("{}"), "it holds nothing instead of optimizer.safetensors, state"),
        (lambda p: (p / "hashes.json").write_text("[" * 100_000), ""),
        (lambda p: (p / "hashes.json").unlink(), "it has no hashes.json: an earlier version wrote it"),
        (lambda p: (p / "state.json").unlink(), "state.json is missing"),
        (lambda p: os.truncate(p / "weights.safetensors", 10), "weights.safetensors is not what was written"),
        (as_a_file, "Not a directory"),
    ],
)
def test_damage_is_passed_over(
    damage: Callable[[Path], object], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = train(tmp_path, 3)
    damage(tmp_path / "step-000003")
    found = checkpoints(tmp_path, made).newest()
    assert found is not None and found.step == 2
    first, second = caplog.messages
    assert first.startswith(f"checkpoint {tmp_path / 'step-000003'} cannot be used: ") and reason in first
    assert second == "going back to the one before it, of step 2"
    assert all("\n" not in message for message in caplog.messages)


def tensors(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return a change of a part's tensors."""

    def apply(path: Path) -> None:
        found = load_file(path / f"{name}.safetensors")
        change(found)
        save_file(found, path / f"{name}.safetensors")

    return apply


def facts(**changes: object) -> Callable[[Path], None]:
    """Return a change of the state's keys; None removes one."""

    def apply(path: Path) -> None:
        found = {**json.loads((path / "state.json").read_text()), **changes}
        (path / "state.json").write_text(json.dumps({k: v for k, v in found.items() if v is not None}))

    return apply


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (tensors("weights", lambda t: t.pop("0.bias")), "lacks 0.bias (1 of 2 tensors)"),
        (tensors("weights", lambda t: t.clear()), "lacks 0.bias (2 of 2 tensors)"),
        (tensors("weights", lambda t: t.update(other=t.pop("0.bias"))), "lacks 0.bias"),
        (tensors("weights", lambda t: t.update(other=torch.ones(1))), "has the unknown other (1 of 2 tensors)"),
        (tensors("weights", lambda t: t.update({"0.bias": torch.ones(3)})), "0.bias has the shape [3], not [2]"),
        (
            tensors("weights", lambda t: t["0.bias"].fill_(torch.nan)),
            "weights.safetensors: 0.bias holds NaN or infinity",
        ),
        (tensors("optimizer", lambda t: t.clear()), "optimizer.safetensors is empty"),
        (
            tensors("optimizer", lambda t: t.update(other=t.pop("weights.0.bias.exp_avg"))),
            "optimizer.safetensors lacks weights.0.bias.exp_avg",
        ),
        (
            tensors("optimizer", lambda t: t.update({f"0.{i}": t.pop(k) for i, k in enumerate(list(t))})),
            "optimizer.safetensors has the unknown 0.0 (6 of 0 tensors)",
        ),
        (
            tensors("optimizer", lambda t: t.update({"weights.0.bias.exp_avg_sq": torch.ones(2, 2)})),
            "weights.0.bias.exp_avg_sq has the shape [2, 2], not [2]",
        ),
        (tensors("optimizer", lambda t: t["weights.0.weight.exp_avg"].fill_(torch.inf)), "holds NaN or infinity"),
        (facts(micro=None), "State: micro: Field required"),
        (facts(micro="four"), "State: micro: Input should be a valid integer"),
        (facts(losses={}), "State: losses: Input should be a valid array"),
        (facts(watch={"seconds": -1.0, "cpu_seconds": 1.0}), "State: watch.seconds: Input should be greater"),
        (facts(surprise=1), "State: surprise: Extra inputs are not permitted"),
        (facts(step=2), "state.json says step 2"),
    ],
)
def test_what_opens_but_does_not_fit_is_passed_over(
    change: Callable[[Path], None], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The hashes are right, as if the code that wrote it had been another."""
    made = train(tmp_path, 3)
    change(tmp_path / "step-000003")
    seal(tmp_path / "step-000003")
    found = checkpoints(tmp_path, made).newest()
    assert found is not None and found.step == 2
    assert reason in caplog.messages[0]


def test_none_fits_and_the_log_says_that_training_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, 3)
    wider = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1, bias=False))
    wider[1].weight.requires_grad_(False)
    assert checkpoints(tmp_path, wider).newest() is None
    assert [m.partition(" cannot")[0] for m in caplog.messages[:2]] == [
        f"checkpoint {tmp_path / f'step-00000{n}'}" for n in (3, 2)
    ]
    assert caplog.messages[2] == f"no checkpoint in {tmp_path} can be used: training begins anew"
    assert checkpoints(tmp_path / "empty", wider).newest() is None and len(caplog.messages) == 3, (
        "a first start is silent"
    )


def test_one_of_more_steps_than_there_are_is_passed_over(tmp_path: Path) -> None:
    made = train(tmp_path, 3)
    shutil.copytree(tmp_path / "step-000003", tmp_path / "step-000010")
    facts(step=10)(tmp_path / "step-000010")
    seal(tmp_path / "step-000010")
    found = checkpoints(tmp_path, made).newest()
    assert found is not None and found.step == 3


def test_a_parameter_that_got_no_gradient_has_no_moments(tmp_path: Path) -> None:
    """Value heads under group-relative advantages, and a model's layers that a task does not use."""
    made = module()
    unused = nn.Linear(2, 2)
    optimizer = torch.optim.Adam([made[0].weight, made[0].bias, *unused.parameters()], lr=0.1)
    learn(made, optimizer)
    kept = Checkpoints(tmp_path, State, {"weights": made, "value_heads": unused}, last=LAST)
    kept.save(state(1), optimizer)
    found = kept.newest()
    assert found is not None
    kept.restore(found, optimizer)
    assert len(optimizer.state) == 2


def test_what_was_passed_over_displaces_nothing(tmp_path: Path) -> None:
    """Two damaged ones of higher numbers: what the new attempt keeps is not removed as older than these."""
    made = train(tmp_path, 3)
    for step in (2, 3):
        (tmp_path / f"step-00000{step}" / "hashes.json").unlink()
    assert checkpoints(tmp_path, made).newest() is None
    train(tmp_path, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def test_they_are_in_order_of_their_numbers(tmp_path: Path) -> None:
    made = module()
    optimizer = adam(made)
    learn(made, optimizer)
    kept = Checkpoints(tmp_path, State, {"weights": made}, last=2_000_000)
    for step in (999_998, 999_999, 1_000_000):
        kept.save(state(step), optimizer)
    (tmp_path / "step-notes").mkdir()
    found = kept.newest()
    assert found is not None and found.step == 1_000_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-1000000", "step-999999", "step-notes"]


def test_a_kill_at_any_moment_of_writing_leaves_one_that_is_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child dies before its n-th operation on the disk, for every n until it comes through."""
    made = train(tmp_path / "before", 2)
    optimizer = adam(made)
    learn(made, optimizer)
    operations = [
        (checkpoint, "save_file"),
        (checkpoint, "file_hash"),
        (files, "flush"),
        (shutil, "rmtree"),
        (Path, "write_text"),
        (Path, "replace"),
        (Path, "mkdir"),
    ]
    survived, n, finished = [], 0, False
    while not finished:
        n += 1
        folder = Path(shutil.copytree(tmp_path / "before", tmp_path / str(n)))
        child = os.fork()
        if child == 0:
            _die_before(n, operations)
            checkpoints(folder, made).save(state(3), optimizer)
            os._exit(0)
        finished = os.waitpid(child, 0)[1] == 0
        found = checkpoints(folder, made).newest()
        assert found is not None
        survived.append(found.step)
        checkpoints(folder, made).save(state(4), optimizer)
        assert all(not p.name.startswith(".") for p in folder.iterdir()), "what the dead one was writing is gone"
    assert set(survived) == {2, 3} and survived == sorted(survived) and n > 15


def _die_before(n: int, operations: list[tuple[Any, str]]) -> None:
    done = [0]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            done[0] += 1
            if done[0] == n:
                os._exit(9)
            return real(*arguments, **options)

        return call

    for where, name in operations:
        setattr(where, name, counted(getattr(where, name)))


def test_micro_batch_is_what_the_newest_attempt_had_left(tmp_path: Path) -> None:
    assert checkpoint.micro_batch(tmp_path, 64) == 64
    train(tmp_path, 3)  # its state says 4
    assert (checkpoint.micro_batch(tmp_path, 64), checkpoint.micro_batch(tmp_path, 2)) == (4, 2)
    facts(micro=3)(tmp_path / "step-000003")  # which no hash knows
    assert checkpoint.micro_batch(tmp_path, 64) == 4
    shutil.rmtree(tmp_path / "step-000002")
    assert checkpoint.micro_batch(tmp_path, 64) == 64
