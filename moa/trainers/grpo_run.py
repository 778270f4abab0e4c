"""One GRPO training as TRL is told of it: what is trained on what, its data and its configuration."""

from dataclasses import dataclass

import torch
from datasets import Dataset
from trl import GRPOConfig

from moa.experiment.keys import Ppo
from moa.job.process import Job
from moa.lm.training import quiet
from moa.methods.grpo import Method
from moa.rl.actor import Actor
from moa.rl.experience import Task
from moa.rl.loop import batch_preferences, prompt_indices


@dataclass(frozen=True)
class GrpoRun:
    """One policy's training.

    Attributes:
        actor: base with a fresh adapter; its value heads are left alone.
        ppo: the shared settings; `Method.check` has accepted them.
        task: prompts, rewards, scale and training preferences.
        seed: of the sampling.
        micro: responses per forward and backward pass, at most; divides the mini-batch.
        checkpointing: recompute activations.
        job: keeps the checkpoints; its watch counts what the steps take.
    """

    actor: Actor
    method: Method
    ppo: Ppo
    task: Task
    seed: int
    micro: int
    checkpointing: bool
    job: Job

    @property
    def updates(self) -> int:
        """Optimiser steps per batch of responses."""
        return (self.method.settings.epochs or self.ppo.epochs) * (self.ppo.batch_size // self.ppo.mini_batch_size)

    @property
    def remedy(self) -> str:
        """What to lower where training diverges, and what to raise: the keys that are in effect."""
        own, row = self.method.settings, f"methods.{self.method.row}"
        rate = "ppo.learning_rate" if own.learning_rate is None else f"{row}.learning_rate"
        return f"{rate} or raise {'ppo.kl.coefficient' if own.beta is None else f'{row}.beta'}"


def data(run: GrpoRun, first: int = 0) -> Dataset:
    """Return one row per group from step `first` on.

    A row holds the prompt as the policy reads it, the prompt as rewards see it, and the preference. Prompts come in the
    loop's order, preferences as balanced as the loop's. A step takes batch_size / group_size of them.
    """
    task, groups = run.task, run.ppo.batch_size // run.method.settings.group_size
    rows = []
    for step in range(first, run.ppo.steps):
        preferences = batch_preferences(task.training, groups, task.dirichlet, run.seed, step).tolist()
        places = prompt_indices(len(task.prompts), groups, run.seed, step)
        for index, preference in zip(places, preferences, strict=True):
            plain = task.prompts[index]
            rows.append({"prompt": task.text_of(plain, tuple(preference)), "plain": plain, "preference": preference})
    return Dataset.from_list(rows)


def arguments(run: GrpoRun, folder: str, first: int = 0) -> GRPOConfig:
    """Return TRL's configuration: the loop's batches, sampling and precision, steps from `first` on."""
    chosen, ppo, decoding, cuda = run.method.settings, run.ppo, run.actor.decoding, torch.cuda.is_available()
    return GRPOConfig(
        **quiet(folder, run.seed),
        max_steps=(ppo.steps - first) * run.updates,
        generation_batch_size=ppo.batch_size,
        num_generations=chosen.group_size,
        per_device_train_batch_size=run.micro,
        gradient_accumulation_steps=ppo.mini_batch_size // run.micro,
        num_iterations=chosen.epochs or ppo.epochs,
        shuffle_dataset=False,
        max_completion_length=decoding.max_new_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        generation_kwargs={"min_new_tokens": 1},
        beta=ppo.kl.coefficient if chosen.beta is None else chosen.beta,
        epsilon=ppo.clip,
        loss_type=chosen.loss_type,
        scale_rewards=run.method.scale_rewards,
        mask_truncated_completions=ppo.unfinished == "leave_out",
        learning_rate=chosen.learning_rate or ppo.learning_rate,
        lr_scheduler_type=ppo.schedule,  # TRL has the same words for it
        max_grad_norm=ppo.max_grad_norm,
        activation_checkpointing=run.checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        bf16=False,  # the weights are in the configured precision already, the adapter in float32
        dataloader_pin_memory=cuda,
    )
