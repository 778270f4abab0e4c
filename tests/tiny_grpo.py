"""Tiny runs of GRPO and GDPO through TRL, for tests."""

from pathlib import Path

import torch

from moa.job.command import Steps
from moa.job.process import Job, Stopwatch
from moa.methods import catalogue
from moa.rl.loop import CurveRow, Loop
from moa.trainers import trl_grpo
from moa.trainers.grpo_run import GrpoRun
from tests.tiny_policy import loop

NAMES = ["a", "b"]


def make(kind: str, group_size: int):  # type: ignore[no-untyped-def]
    return catalogue.load("row", {"kind": kind, "group_size": group_size}, NAMES)


def tiny(kind: str, folder: Path, **changes: object) -> Loop:
    """Policy, task and settings of a few fast steps in groups of 4."""
    settings = {"kind": kind, "group_size": 4}
    return loop(kind, folder, settings=settings, **{"steps": 3, **changes})  # type: ignore[arg-type]


def of(run: Loop, micro: int = 3, checkpointing: bool = False, watch: Stopwatch | None = None) -> GrpoRun:
    """The same policy and task as TRL's trainer is told of them."""
    job = Job(run.checkpoints, watch or Stopwatch())
    actor, method, task = run.actor, run.method, run.task
    return GrpoRun(actor, method, run.ppo, task, run.seed, micro, checkpointing, job)  # type: ignore[arg-type]


def train(
    run: Loop, micro: int = 3, checkpointing: bool = False, watch: Stopwatch | None = None
) -> tuple[list[CurveRow], int]:
    return trl_grpo.train(of(run, micro, checkpointing, watch), Steps("", run.ppo.steps))


def adapter(run: Loop) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.actor.model.parameters() if p.requires_grad])
