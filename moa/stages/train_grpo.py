"""Stage train_grpo: one policy by TRL's GRPOTrainer, resumable.

Writes adapter, card and curve, as stage train does, without value heads.
"""

import argparse
import gc
import logging
import time

import torch

from moa.errors import MoaError
from moa.experiment.preferences import Preference
from moa.experiment.schema import TrainSection
from moa.job import command
from moa.job.memory import allocating
from moa.job.process import Job
from moa.lm import checkpoint
from moa.methods.grpo import Method
from moa.rl.experience import Actor
from moa.rl.loop import CurveRow
from moa.stages.train import checkpoints, make_actor, make_task, parser, read_request, write_curve, write_policy
from moa.trainers import trl_grpo

log = logging.getLogger("moa")


class Reporter:
    """Logs a line of progress every few seconds and at the end."""

    def __init__(self, name: str, steps: int, objectives: list[str]) -> None:
        self.name, self.steps, self.objectives = name, steps, objectives
        self.began = self.last = time.perf_counter()
        self.done = 0  # since it began; a resumed run has more behind it

    def __call__(self, step: int, values: dict[tuple[str, str], float]) -> None:
        now = time.perf_counter()
        self.done += 1
        if now - self.last < command.REPORT_SECONDS and step + 1 < self.steps:
            return
        self.last = now
        rewards = " ".join(f"{o} {values['reward', o]:.3f}" for o in self.objectives)
        left = (now - self.began) / self.done * (self.steps - step - 1)
        log.info(
            "%s step %d/%d  %s  KL %.3f  entropy %.2f  %.0f tokens/s  %.0f MiB  ETA %d:%02d",
            self.name, step + 1, self.steps, rewards, values.get(("kl", "all"), float("nan")), values["entropy", "all"],
            values["tokens_per_second", "all"], values["memory", "all"], left // 60, left % 60,
        )  # fmt: skip


def train(
    section: TrainSection, method: Method, args: argparse.Namespace, weights: Preference | None, job: Job
) -> tuple[Actor, list[CurveRow], int]:
    """Train a policy; after running out of memory, go on from the newest checkpoint with half the micro-batch and the same batch."""
    micro = checkpoint.micro_batch(job.folder, section.ppo.mini_batch_size)
    while True:
        actor = make_actor(section, args.base, method, args.seed)
        task = make_task(section, method, actor, args, weights)
        report = Reporter(f"{args.row}/{args.policy} s{args.seed}", section.ppo.steps, method.objectives)
        try:
            with allocating():
                curve, tokens = trl_grpo.train(
                    actor,
                    method,
                    section.ppo,
                    task,
                    args.seed,
                    micro,
                    section.model.gradient_checkpointing,
                    report,
                    job.folder,
                    job.watch,
                )
                return actor, curve, tokens
        except torch.OutOfMemoryError:
            if micro == 1:
                raise MoaError(
                    "out of memory with one response at a time; lower ppo.batch_size, generation.max_new_tokens or"
                    " model size, or set model.quantisation: nf4"
                ) from None
            micro = max(m for m in range(1, micro // 2 + 1) if section.ppo.mini_batch_size % m == 0)
            log.warning(
                "out of memory: %d responses at a time (the mini-batch stays %d)", micro, section.ppo.mini_batch_size
            )
        del actor, task
        gc.collect()
        torch.cuda.empty_cache()


def main(args: argparse.Namespace) -> None:
    section, method, weights = read_request(args)
    assert isinstance(method, Method), "only GRPO and its kin name this stage"
    cost = command.Cost(section.task, "train", method=args.row, seed=args.seed, job=args.policy)
    with checkpoints(args) as job:
        actor, curve, cost.tokens = train(section, method, args, weights, job)
        write_policy(section, args, method, actor.model, weights, None, {})
        write_curve(section, args, curve)
        cost.models = 1
        cost.resume(job.watch)
        cost.write(args.costs)


if __name__ == "__main__":
    command.run(main, parser(__doc__))
