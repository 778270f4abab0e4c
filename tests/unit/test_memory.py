"""Memory that does not suffice on a CPU is the same error as on a GPU, and training goes on with less."""

from pathlib import Path

import pytest
import torch

from moa.job.memory import allocating
from moa.lm.packing import Packed
from moa.rl import update
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
