"""GRPO's and GDPO's trainer: one policy by TRL's GRPOTrainer on the loop's task, without value heads."""

import logging

import torch

from moa.errors import MoaError
from moa.job.command import Steps
from moa.job.memory import allocating, release, smaller
from moa.job.process import Job
from moa.lm import checkpoint
from moa.methods import grpo
from moa.trainers import trl_grpo
from moa.trainers.grpo_run import GrpoRun
from moa.trainers.request import Request, Trained
from moa.trainers.setup import actor_of, task_of

log = logging.getLogger("moa")


def train(request: Request, job: Job) -> Trained:
    """Train a policy from the job's newest checkpoint, if there is one, to the end.

    After running out of memory it goes on from there with half the micro-batch and the same batch.

    Raises:
        Diverged: a number is not finite.
        MoaError: an input is unfit, or not even one response at a time fits into memory.
    """
    method, section = request.method, request.section
    assert isinstance(method, grpo.Method), "only GRPO and its kin name this trainer"
    whole = section.ppo.mini_batch_size
    micro = checkpoint.micro_batch(job.folder, whole)
    while True:
        actor = actor_of(request)
        run = GrpoRun(
            actor=actor,
            method=method,
            ppo=section.ppo,
            task=task_of(request, actor, method.settings.group_size),
            seed=request.seed,
            micro=micro,
            checkpointing=section.model.gradient_checkpointing,
            job=job,
        )
        steps = Steps(request.name, section.ppo.steps)
        try:
            with allocating():
                curve, tokens = trl_grpo.train(run, steps)
                return Trained(actor.model, None, curve, tokens)
        except torch.OutOfMemoryError:
            if micro == 1:
                raise MoaError(
                    "out of memory with one response at a time; lower ppo.batch_size, generation.max_new_tokens or"
                    " model size, or set model.quantisation: nf4"
                ) from None
        micro = smaller(micro, whole)
        log.warning("out of memory: %d responses at a time (the mini-batch stays %d)", micro, whole)
        del actor, run
        release()
