"""Memory that does not suffice on a CPU is the same error as on a GPU, and training goes on with less."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moa.errors import MoaError
from moa.job.memory import allocating
from moa.lm import generation
from moa.lm.packing import Packed
from moa.rl import reading, update
from moa.rl.actor import Actor
from tests.tiny_policy import loop


def test_the_cpus_own_error_is_recognised() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="can't allocate memory"), allocating():
        torch.empty(10**15)
    with pytest.raises(RuntimeError, match="size") as other, allocating():
        torch.ones(2) + torch.ones(3)
    assert not isinstance(other.value, torch.OutOfMemoryError)


def test_training_halves_the_micro_batch_where_the_cpu_has_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = update.log_probabilities

    def limited(logits: torch.Tensor, packed: Packed, temperature: float) -> torch.Tensor:
        if len(packed.tokens) > 3:
            torch.empty(10**15)
        return real(logits, packed, temperature)

    monkeypatch.setattr(update, "log_probabilities", limited)
    run = loop("linear", tmp_path, steps=1, epochs=1, mini_batch_size=12)
    list(run.run())
    assert [value for _, quantity, _, value in run.curve if quantity == "micro_batch"] == [3.0]


@pytest.mark.parametrize("kind", ["linear", "pama", "moc"])
def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = loop(kind, tmp_path / "a", steps=1, epochs=1, mini_batch_size=12)
    list(plain.run())
    real = update.log_probabilities

    def limited(logits: torch.Tensor, packed: Packed, temperature: float) -> torch.Tensor:
        if len(packed.tokens) > 3:
            raise torch.OutOfMemoryError("a limit of 3 responses, as a full GPU would set")
        return real(logits, packed, temperature)

    monkeypatch.setattr(update, "log_probabilities", limited)
    tight = loop(kind, tmp_path / "b", steps=1, epochs=1, mini_batch_size=12)
    list(tight.run())
    assert tight.value("micro_batch") == 3.0
    # Adam's first step divides a gradient by its size, rounding errors too: gradients are compared, of which it keeps
    # a tenth.
    for one, other in zip(plain.optimizer.state.values(), tight.optimizer.state.values(), strict=True):
        torch.testing.assert_close(one["exp_avg"], other["exp_avg"], atol=1e-6, rtol=1e-4)


def test_out_of_memory_with_one_row_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory at all")

    monkeypatch.setattr(update, "log_probabilities", never)
    with pytest.raises(MoaError, match="micro-batch of one response; lower generation.max_new_tokens"):
        list(loop("linear", tmp_path, steps=1).run())


def test_out_of_memory_in_the_rollout_samples_fewer_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = generation.Sampler.draw
    sizes: list[int] = []

    def limited(sampler: generation.Sampler, reader: object, prompts: Sequence[str], *rest: Any) -> generation.Rollout:
        if len(prompts) > 4:
            raise torch.OutOfMemoryError("a limit of 4 prompts")
        sizes.append(len(prompts))
        return real(sampler, reader, prompts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(generation.Sampler, "draw", limited)
    run = loop("moc", tmp_path, steps=2)
    list(run.run())
    # 12 prompts: 12 and 6 do not fit, 3 do; the second step starts with what fitted
    assert sizes == [3] * 8
    assert run.value("rollout_rows") == 3.0
    assert run.value("kl") > 0.0


@pytest.mark.parametrize("kind", ["moc", "moc_feedback"])
def test_a_batch_that_was_not_read_leaves_no_mark_on_the_running_means(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch, all rewards at the top, fails for memory.

    The second, all at the bottom, is the first that counts: means 0, not 0.9.
    """
    real, scored, reads = reading.read, [], []

    def limited(actor: Actor, rollout: generation.Rollout, rows: torch.Tensor, sensitive: bool) -> reading.Reading:
        reads.append(rows)
        if len(reads) == 1:
            raise torch.OutOfMemoryError("the first read")
        return real(actor, rollout, rows, sensitive)

    def falling(prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        scored.append(len(responses))
        return (
            np.full((len(responses), 2), 1.0, np.float32)
            if len(scored) == 1
            else np.array([[-1.0, 0.0]] * len(responses), np.float32)
        )

    monkeypatch.setattr(reading, "read", limited)
    run = loop(kind, tmp_path, steps=1, score=falling)
    list(run.run())
    assert scored == [12, 12]
    assert run.method.state() == {f"w{p}": [0.0, 0.0] for p in ("0-1", "0.5-0.5", "1-0")}
