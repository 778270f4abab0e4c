"""What fine-tuning and reward training share: a Trainer that reports, stops when it diverges, and can go on.

The Trainer is that of transformers or TRL, whose own checkpoints hold pickled states. Here every step is seeded, the
data come in a fixed order, and the project's checkpoints keep what is trained, the optimiser and the losses.
"""

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from moa.errors import Diverged
from moa.job.process import Job
from moa.lm import checkpoint
from moa.lm.models import broken_parameter

log = logging.getLogger("moa")
CHECKPOINT_SECONDS = 60.0
REPORTS = 20  # lines of progress


def quiet(folder: str, seed: int) -> dict[str, Any]:
    """Return the arguments that every Trainer is given: nothing kept but in `folder`, nothing reported elsewhere.

    Callbacks are told of every step, and of a loss as it is: TRL's log would show the mean of the finite ones.
    """
    return {
        "output_dir": folder,
        "seed": seed,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
    }


class Continued(Trainer):
    """A Trainer that can begin in the middle: its rate is planned over the whole training.

    Attributes:
        updated: optimiser steps before the checkpoint that it began from.
    """

    updated = 0

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Plan the rate over the whole training, finished steps included, and set it to where it stood."""
        scheduler = super().create_scheduler(self.updated + num_training_steps, optimizer)
        assert isinstance(scheduler, LambdaLR), "constant and linear schedules are"
        scheduler.last_epoch = self.updated
        rates = [
            base * factor(self.updated) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        scheduler._last_lr = list(rates)
        for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        return scheduler


class State(checkpoint.State):
    """What a checkpoint says beside its tensors: examples at a time, and the loss of every finished step."""

    micro: int = Field(ge=1)
    losses: list[float]


@dataclass(frozen=True)
class Plan:
    """What a training is.

    Attributes:
        name: in the log.
        remedy: key of the learning rate, for messages.
        seed: of what its steps draw.
        micro: examples at a time, at most.
        steps: optimiser steps in all.
    """

    name: str
    remedy: str
    seed: int
    micro: int
    steps: int


class Course(TrainerCallback):
    """One training from its newest checkpoint, if there is one, to its end.

    Attributes:
        finished: steps of the checkpoint that it goes on from; the Trainer is given the data after them.
        micro: examples at a time, at most what the checkpoint's attempt had left of them.
        losses: of every finished step.
    """

    def __init__(self, plan: Plan, job: Job, model: torch.nn.Module) -> None:
        """Look for the newest checkpoint that fits the model, whose parameters to train are known by now."""
        self.plan, self.job = plan, job
        self.kept = checkpoint.Checkpoints(job.folder, State, {"weights": model}, last=plan.steps - 1)
        self.state = self.kept.newest()
        self.finished = self.state.step if self.state else 0
        self.micro = min(plan.micro, self.state.micro) if self.state else plan.micro
        self.losses = list(self.state.losses) if self.state else []
        if self.state:
            job.watch.restore(self.state.watch.model_dump())
        self.began = self.saved = time.perf_counter()
        self.cpu = time.process_time()

    def run(self, trainer: Continued) -> None:
        """Train the trainer's model in place.

        Raises:
            Diverged: loss, gradient norm or a parameter is not finite.
            torch.OutOfMemoryError: `micro` is too large for the GPU.
        """
        trainer.remove_callback(PrinterCallback)  # prints every step
        trainer.add_callback(self)
        trainer.updated = self.finished
        if self.state:
            self.kept.restore(self.state, trainer.create_optimizer())
            log.info("%s: resumed at step %d", self.plan.name, self.finished)
        self.began = self.saved = time.perf_counter()
        self.cpu = time.process_time()
        trainer.train()
        self._look(trainer)
        self._count()

    def _look(self, trainer: Continued) -> None:
        """Raise where the finished model's loss is not finite: no later step would notice."""
        with torch.no_grad():
            batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
            loss = trainer.compute_loss(trainer.model, batch)
        if not torch.isfinite(loss):
            raise self._diverged("the finished model's loss", self.plan.steps, trainer.args)

    def _count(self) -> None:
        """Add the time since the last count to the job's."""
        now, cpu = time.perf_counter(), time.process_time()
        self.job.watch.seconds += now - self.saved
        self.job.watch.cpu_seconds += cpu - self.cpu
        self.saved, self.cpu = now, cpu

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        **_: Any,
    ) -> None:
        """Keep the steps before, now and then, and seed what this one draws."""
        step = self.finished + state.global_step
        if state.global_step and time.perf_counter() - self.saved >= CHECKPOINT_SECONDS:
            self._count()
            spent = checkpoint.Spent(**self.job.watch.state())
            self.kept.save(State(step=step, watch=spent, micro=self.micro, losses=self.losses), optimizer)
        checkpoint.seed_step(self.plan.seed, step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Receive what the Trainer logs after every step, and look at its parameters before anything is kept."""
        if logs is None or "loss" not in logs:  # the summary at the end
            return
        step, total = self.finished + state.global_step, self.finished + state.max_steps
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise self._diverged(f"the {name}", step, args)
        if (broken := broken_parameter(model)) is not None:
            raise self._diverged(f"parameter {broken} after the update", step, args)
        self.losses.append(logs["loss"])
        every = max(1, total // REPORTS)
        if step % every == 0 or step == total:
            left = (time.perf_counter() - self.began) / state.global_step * (total - step)
            recent = self.losses[-every:]
            log.info(
                "%s step %d/%d  loss %.3f  ETA %d:%02d",
                self.plan.name,
                step,
                total,
                sum(recent) / len(recent),
                left // 60,
                left % 60,
            )

    def _diverged(self, what: str, step: int, args: TrainingArguments) -> Diverged:
        return Diverged(
            f"{self.plan.name} step {step}: {what} is NaN or infinite; lower {self.plan.remedy} (now"
            f" {args.learning_rate:g})"
        )

    def loss(self) -> float:
        """Return the mean loss of the last twentieth of the steps."""
        tail = self.losses[-max(1, len(self.losses) // 20) :]
        return sum(tail) / len(tail)
