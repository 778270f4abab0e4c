"""Trainings that are killed, and checkpoints that are damaged, for tests of what a second attempt does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from moa.lm import training
from moa.lm.training import Continued
from moa.store.provenance import file_hash


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


def seal(path: Path) -> None:
    """Let a checkpoint that a test has changed say that it was written so."""
    hashes = {file.name: file_hash(file) for file in path.iterdir() if file.name != "hashes.json"}
    (path / "hashes.json").write_text(json.dumps(hashes))
