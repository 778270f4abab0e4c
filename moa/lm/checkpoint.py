"""Training checkpoints: safetensors and JSON in a folder named by what the run depends on.

The newest readable one counts. No random state is stored: every step seeds the generators from (seed, step), so a
resumed step draws what it would have.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moa.lm.models import restore_adapter
from moa.store import files
from moa.store.provenance import text_hash

log = logging.getLogger("moa")
KEPT = 2  # the newest, and one to go back to should the disk lose it


@dataclass(frozen=True)
class Trainee:
    """What a policy's checkpoint holds; heads and optimizer are None where the trainer has none to keep."""

    model: PeftModel
    heads: nn.Module | None = None
    optimizer: torch.optim.Optimizer | None = None


def seed_step(seed: int, step: int) -> None:
    """Seed torch for one step: what a step draws depends on (seed, step) alone, so resuming needs no random state."""
    torch.manual_seed(int(text_hash("step", str(seed), str(step)), 16) % 2**63)


def write(folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> None:
    """Write a checkpoint of `step` finished steps, a file for each part.

    It is complete or absent. Afterwards all older ones but the last are removed.
    """
    with files.folder(folder / f"step-{step:06d}") as temporary:
        for name, tensors in parts.items():
            save_file(
                {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()},
                temporary / f"{name}.safetensors",
            )
        (temporary / "state.json").write_text(
            json.dumps({"step": step, "parts": list(parts), **state}), encoding="utf-8"
        )
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)


def save(folder: Path, step: int, trainee: Trainee, state: dict[str, Any]) -> None:
    """Write a policy's checkpoint of `step` finished steps."""
    parts: dict[str, Mapping[str, Tensor]] = {"adapter": get_peft_model_state_dict(trainee.model)}
    if trainee.heads is not None:
        parts["value_heads"] = trainee.heads.state_dict()
    if trainee.optimizer is not None:
        parts["optimizer"] = moments(trainee.optimizer)
    write(folder, step, parts, state)


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an Adam's running moments and step counts under flat names; `restore_optimizer` reads them."""
    return {
        f"{i}.{name}": value for i, entry in optimizer.state_dict()["state"].items() for name, value in entry.items()
    }


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint that can be read, or None; a damaged one is named in the log."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            _check(path)
        except (OSError, ValueError, SafetensorError) as error:
            log.warning("checkpoint %s cannot be read (%s): going back to the one before it", path, error)
        else:
            return path
    return None


def micro_batch(folder: Path, configured: int) -> int:
    """Return how many examples at a time to begin with.

    That is what the newest checkpoint's attempt had left of the configured number.
    """
    path = newest(folder)
    return configured if path is None else min(configured, int(read_state(path)["micro"]))


def _check(path: Path) -> None:
    """Raise where a file is missing, truncated or not what its name says."""
    parts = read_state(path).get("parts")
    if not parts:
        raise ValueError("state.json names no parts")
    for part in parts:
        with safe_open(path / f"{part}.safetensors", "pt"):
            pass


def restore(path: Path, trainee: Trainee) -> dict[str, Any]:
    """Load a policy's checkpoint into model, heads and optimizer; return its state."""
    restore_adapter(trainee.model, path / "adapter.safetensors")
    if trainee.heads is not None:
        trainee.heads.load_state_dict(load_file(path / "value_heads.safetensors"))
    if trainee.optimizer is not None:
        restore_optimizer(path, trainee.optimizer)
    return read_state(path)


def read_state(path: Path) -> dict[str, Any]:
    """Return a checkpoint's state without loading its tensors; its 'step' is the number of finished steps."""
    state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return state


def restore_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Load what `moments` returned from part `optimizer` of a checkpoint."""
    template = optimizer.state_dict()
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in load_file(path / "optimizer.safetensors").items():
        index, _, key = name.partition(".")
        entries.setdefault(int(index), {})[key] = tensor
    template["state"] = entries
    optimizer.load_state_dict(template)
