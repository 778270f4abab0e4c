"""A Trainer that is killed in the middle, for tests of what a second attempt does."""

from typing import Any

import pytest
import torch

from moa.lm import training
from moa.lm.training import Continued


def in_step(monkeypatch: pytest.MonkeyPatch, trainer: type[Continued], number: int) -> list[int]:
    """Let `trainer` keep a checkpoint before every step and die once, in its `number`-th.

    The list that is returned grows with every step begun.
    """
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    step, begun = trainer.training_step, []

    def killed(self: Continued, *arguments: Any) -> torch.Tensor:
        begun.append(1)
        if len(begun) == number:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(trainer, "training_step", killed)
    return begun
