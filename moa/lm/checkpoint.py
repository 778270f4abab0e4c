"""Training checkpoints: safetensors and JSON in a folder named by what the run depends on.

A checkpoint is taken if every file is the one that was written, which their hashes say, and if it fits what it is
loaded into: names, shapes, finite values, the keys and types of its state. Else the one before it counts, and the log
says why. No random state is stored: every step seeds the generators from (seed, step), so a resumed step draws what it
would have.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moa.store import files
from moa.store.provenance import file_hash, text_hash

log = logging.getLogger("moa")
KEPT = 2  # the newest, and one to go back to should the disk lose it
STATE, HASHES = "state.json", "hashes.json"
NAME = re.compile(r"step-(\d+)")
OPTIMIZER = "optimizer"  # the part that holds Adam's moments
MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # of every parameter that Adam has moved


class Unfit(ValueError):
    """Why a checkpoint cannot be taken."""


class Spent(BaseModel):
    """What `Stopwatch.state` returns."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    seconds: float = Field(ge=0)
    cpu_seconds: float = Field(ge=0)


class State(BaseModel):
    """What a checkpoint says beside its tensors; every trainer adds its own keys.

    Attributes:
        step: number of finished steps.
        watch: what they took.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    step: int = Field(ge=0)
    watch: Spent


S = TypeVar("S", bound=State)


def seed_step(seed: int, step: int) -> None:
    """Seed torch for one step: what a step draws depends on (seed, step) alone, so resuming needs no random state."""
    torch.manual_seed(int(text_hash("step", str(seed), str(step)), 16) % 2**63)


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that training changes, by name; tied ones once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


@dataclass(frozen=True)
class Checkpoints(Generic[S]):
    """The checkpoints of one training, and what one must hold to be taken.

    Attributes:
        folder: where they lie, each a folder `step-000020`; nobody else writes there.
        kind: the class of their state.
        modules: by the name of their part, the modules whose trained parameters they hold.
        last: most finished steps that one can have.
        moments: whether they hold an Adam's running moments of these parameters as well.
    """

    folder: Path
    kind: type[S]
    modules: Mapping[str, nn.Module]
    last: int
    moments: bool = True

    def newest(self) -> S | None:
        """Return the state of the newest checkpoint that fits, or None; what is passed over stands in the log."""
        reason = None
        for number, path in _newest_first(self.folder):
            try:
                state = self._checked(number, path)
            except (OSError, ValueError, SafetensorError) as error:
                reason = line(error)
                log.warning("checkpoint %s cannot be used: %s", path, reason)
                continue
            if reason is not None:
                log.warning("going back to the one before it, of step %d", number)
            return state
        if reason is not None:
            log.warning("no checkpoint in %s can be used: training begins anew", self.folder)
        return None

    def save(self, state: S, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Write a checkpoint: complete or absent.

        Afterwards the one before it is left, and older ones are removed, as is what was passed over.

        Raises:
            MoaError: the disk is full.
        """
        parts: dict[str, Mapping[str, Tensor]] = {name: trained(module) for name, module in self.modules.items()}
        if self.moments:
            assert optimizer is not None, "its moments are to be kept"
            state_of = optimizer.state_dict()["state"]
            parts[OPTIMIZER] = {
                f"{name}.{moment}": value
                for index, name in self._order(optimizer).items()
                for moment, value in state_of.get(index, {}).items()
            }
        self._tidy(state.step)
        with files.folder(_named(self.folder, state.step), summed=False) as temporary:
            for name, tensors in parts.items():
                save_file(
                    {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()},
                    temporary / f"{name}.safetensors",
                )
            (temporary / STATE).write_text(json.dumps(state.model_dump()), encoding="utf-8")
            hashes = {file.name: file_hash(file) for file in sorted(temporary.iterdir())}
            (temporary / HASHES).write_text(json.dumps(hashes, indent=1), encoding="utf-8")
        for _, old in _newest_first(self.folder)[KEPT:]:
            _remove(old)

    def restore(self, state: S, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Load the tensors of a checkpoint whose state `newest` returned into the modules and the optimizer."""
        path = _named(self.folder, state.step)
        for part, module in self.modules.items():
            parameters = trained(module)
            for name, tensor in load_file(path / f"{part}.safetensors").items():
                parameters[name].data.copy_(tensor)
        if self.moments:
            assert optimizer is not None, "its moments were kept"
            entries: dict[str, dict[str, Tensor]] = {}
            for key, tensor in load_file(path / f"{OPTIMIZER}.safetensors").items():
                name, _, moment = key.rpartition(".")
                entries.setdefault(name, {})[moment] = tensor
            order = self._order(optimizer).items()
            optimizer.load_state_dict(
                {**optimizer.state_dict(), "state": {index: entries[name] for index, name in order if name in entries}}
            )

    def _parameters(self) -> dict[str, nn.Parameter]:
        """Return all trained parameters under their part's name and their own."""
        return {
            f"{part}.{name}": parameter
            for part, module in self.modules.items()
            for name, parameter in trained(module).items()
        }

    def _order(self, optimizer: torch.optim.Optimizer) -> dict[int, str]:
        """Return the names of the optimizer's parameters by their numbers in its state."""
        names = {id(parameter): name for name, parameter in self._parameters().items()}
        listed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        return {index: names[id(parameter)] for index, parameter in enumerate(listed)}

    def _tidy(self, step: int) -> None:
        """Remove what is newer than `step`, which was passed over, and what a killed attempt was writing."""
        for number, path in _newest_first(self.folder):
            if number > step:
                _remove(path)
        for path in self.folder.glob(".step-*.tmp"):
            _remove(path)

    def _checked(self, number: int, path: Path) -> S:
        """Return the state of a checkpoint that fits.

        Raises:
            Unfit, OSError, ValueError, SafetensorError: it does not, and why.
        """
        parts = [*self.modules, *([OPTIMIZER] if self.moments else [])]
        hashes, wanted = _hashes(path), {STATE, *(f"{part}.safetensors" for part in parts)}
        if hashes.keys() != wanted:
            raise Unfit(f"it holds {', '.join(sorted(hashes)) or 'nothing'} instead of {', '.join(sorted(wanted))}")
        for name in hashes:
            _verify(path, name, hashes)
        state = self.kind.model_validate_json((path / STATE).read_bytes())
        if not state.step == number <= self.last:
            raise Unfit(f"{STATE} says step {state.step} of {self.last}")
        for part, module in self.modules.items():
            shapes = {name: tuple(parameter.shape) for name, parameter in trained(module).items()}
            _check_tensors(path / f"{part}.safetensors", shapes)
        if self.moments:
            self._check_moments(path / f"{OPTIMIZER}.safetensors")
        return state

    def _check_moments(self, path: Path) -> None:
        """Raise where the moments are not those of parameters; one that got no gradient has none."""
        with safe_open(path, "pt") as file:
            names = {key.rpartition(".")[0] for key in file.keys()}  # noqa: SIM118, it is no dictionary
        if not names:
            raise Unfit(f"{path.name} is empty")
        shapes: dict[str, tuple[int, ...]] = {}
        for name, parameter in self._parameters().items():
            if name in names:
                shapes |= {f"{name}.{moment}": tuple(parameter.shape) for moment in MOMENTS}
                shapes[f"{name}.step"] = ()
        _check_tensors(path, shapes)


def micro_batch(folder: Path, configured: int) -> int:
    """Return how many examples at a time to begin with, before there is a model that a checkpoint could fit.

    That is what the newest attempt had left of the configured number, as far as its state can be read.
    """
    for _, path in _newest_first(folder):
        try:
            _verify(path, STATE, _hashes(path))
            return min(configured, int(json.loads((path / STATE).read_bytes())["micro"]))
        except (OSError, ValueError, KeyError):
            continue  # `Checkpoints.newest` will say so
    return configured


def _newest_first(folder: Path) -> list[tuple[int, Path]]:
    """Return all checkpoints with their numbers of steps, whatever they hold."""
    numbers = {int(match[1]) for path in folder.glob("step-*") if (match := NAME.fullmatch(path.name))}
    named = [(number, _named(folder, number)) for number in sorted(numbers, reverse=True)]
    return [(number, path) for number, path in named if path.exists()]


def _named(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _hashes(path: Path) -> dict[str, str]:
    """Return the sha256 of every other file of a checkpoint, as they were written."""
    if path.is_dir() and not (path / HASHES).exists():
        raise Unfit(f"it has no {HASHES}: an earlier version wrote it, or it is incomplete")
    return TypeAdapter(dict[str, str]).validate_json((path / HASHES).read_bytes())


def _verify(path: Path, name: str, hashes: Mapping[str, str]) -> None:
    if not (path / name).is_file():
        raise Unfit(f"{name} is missing")
    if file_hash(path / name) != hashes[name]:
        raise Unfit(f"{name} is not what was written")


def _check_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise where a file holds other tensors than these, or one that is not finite."""
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        for what, odd in (("lacks", shapes.keys() - names), ("has the unknown", names - shapes.keys())):
            if odd:
                raise Unfit(f"{path.name} {what} {min(odd)} ({len(odd)} of {len(shapes)} tensors)")
        for name in sorted(names):
            tensor = file.get_tensor(name)
            if tuple(tensor.shape) != shapes[name]:
                raise Unfit(f"{path.name}: {name} has the shape {list(tensor.shape)}, not {list(shapes[name])}")
            if not torch.isfinite(tensor).all():
                raise Unfit(f"{path.name}: {name} holds NaN or infinity")


def line(error: Exception) -> str:
    """Return an error in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{error.title}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).strip().split("\n", 1)[0]
