"""The update: epochs of clipped PPO over mini-batches, with gradient accumulation when memory is short."""

import logging
from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from moa.errors import MoaError
from moa.experiment.keys import Ppo
from moa.job.memory import allocating, release
from moa.lm.models import broken_parameter, recomputing
from moa.lm.packing import log_probabilities
from moa.method import Method
from moa.rl.actor import Actor
from moa.rl.experience import RATE, VALUE_RATE, Experience, diverged, finite
from moa.rl.losses import (
    Tokens,
    approximate_kl,
    entropies,
    policy_loss,
    reference_loss,
    value_loss,
)

log = logging.getLogger("moa")


@dataclass
class Updater:
    """Applies PPO updates; remembers the micro-batch that fits into memory.

    Attributes:
        micro: rows per forward and backward pass; halved when memory runs out, the mini-batch stays as configured.
    """

    actor: Actor
    method: Method
    ppo: Ppo
    optimizer: torch.optim.Optimizer
    micro: int = field(init=False)
    seen: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.micro = self.ppo.mini_batch_size
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    def run(self, experience: Experience, step: int, kl_coefficient: float) -> list[tuple[str, str, float]]:
        """Run the epochs; return (quantity, objective, value) means for the curve."""
        self.seen.clear()
        n, size = len(experience.preferences), self.ppo.mini_batch_size
        for epoch in range(self.ppo.epochs):
            order = _by_groups(n, self.ppo.group_size)
            with recomputing(self.actor.model):
                for start in range(0, n, size):
                    moved = self._fitting(experience, order[start : start + size], step, kl_coefficient)
            self.seen["epochs"] = [epoch + 1.0]
            if self.ppo.early_stop is not None and moved > self.ppo.early_stop:
                break
        rows = []
        for name, values in self.seen.items():
            quantity, _, index = name.partition(":")
            rows.append((quantity, self.method.streams[int(index)] if index else "all", sum(values) / len(values)))
        return [*rows, ("micro_batch", "all", float(self.micro))]

    def _fitting(self, experience: Experience, rows: Tensor, step: int, kl_coefficient: float) -> float:
        """Do one optimiser step, halving the micro-batch until it fits; return how far the policy moved."""
        while True:
            try:
                with allocating():
                    return self._mini_batch(experience, rows, step, kl_coefficient)
            except torch.OutOfMemoryError as error:
                if self.micro == 1:
                    raise MoaError(
                        "out of memory with a micro-batch of one response; lower generation.max_new_tokens or model"
                        " size, or set model.quantisation: nf4"
                    ) from error
            # Outside the handler the exception no longer holds the tensors of the failed pass.
            self.halve()
            log.warning("out of memory: micro-batch halved to %d, mini-batch stays %d", self.micro, len(rows))

    def halve(self) -> None:
        """Halve the micro-batch and give back what a failed pass left in memory."""
        self.micro = max(1, self.micro // 2)
        self.optimizer.zero_grad(set_to_none=True)
        release()

    def _mini_batch(self, experience: Experience, rows: Tensor, step: int, kl_coefficient: float) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        total = experience.loss_mask[rows].sum()
        if not total:  # all of them are left out: nothing to learn, and Adam's momentum alone must not move the policy
            return 0.0
        moved, logged = 0.0, defaultdict[str, float](float)
        for part in rows.split(self.micro):
            loss, shown = self._losses(experience, part, total, kl_coefficient)
            finite(loss, "the loss", step).backward()
            share = len(part) / len(rows)
            moved += share * shown.pop("moved")
            for name, value in shown.items():
                logged[name] += value
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.ppo.max_grad_norm)
        finite(norm, "the gradient", step)
        self.optimizer.step()
        for module, remedy in ((self.actor.model, RATE), (self.actor.heads, VALUE_RATE)):
            if (broken := broken_parameter(module)) is not None:
                raise diverged(f"parameter {broken} after the update", step, remedy)
        for name, value in {**logged, "grad_norm": float(norm), "policy_moved": moved}.items():
            self.seen[name].append(value)
        return moved

    def _losses(
        self, experience: Experience, rows: Tensor, total: Tensor, kl_coefficient: float
    ) -> tuple[Tensor, dict[str, float]]:
        actor, ppo = self.actor, self.ppo
        rollout, mask = experience.rollout, experience.rollout.response_mask[rows]
        packed = actor.pack(rollout, rows)
        logits, hidden = actor.read(packed)
        logprobs = log_probabilities(logits, packed, actor.decoding.temperature)
        old, tokens = experience.seen.logprobs[rows], Tokens(experience.loss_mask[rows], total)
        advantages = experience.combination.advantages[rows]
        surrogate, clipped = policy_loss(logprobs, old, advantages, tokens, ppo.clip)
        shown = {
            "policy_loss": float(surrogate.detach()),
            "clip_fraction": float(clipped.detach()),
            "moved": float(approximate_kl(logprobs.detach(), old, mask)),
        }
        loss = surrogate
        if ppo.advantages == "gae":
            per_head = value_loss(
                actor.heads(packed.of(hidden)),
                experience.seen.values[:, rows],
                experience.returns[:, rows],
                tokens,
                ppo.value_clip,
            )
            loss = loss + ppo.value_coefficient * per_head.mean()
            shown |= {f"value_loss:{k}": float(v) for k, v in enumerate(per_head.detach())}
        if ppo.kl.place == "separate":
            loss = loss + kl_coefficient * reference_loss(logprobs, experience.seen.reference_logprobs[rows], tokens)
        if ppo.entropy_coefficient:
            entropy = packed.of(entropies(logits, actor.decoding.temperature))
            loss = loss - ppo.entropy_coefficient * (entropy * tokens.mask).sum() / total
        return loss, shown


def _by_groups(count: int, size: int) -> Tensor:
    """Return the order (count,) of an epoch's responses: groups in random order, each whole, so prompts are shared."""
    groups = torch.randperm(count // size)
    return (groups[:, None] * size + torch.arange(size)).flatten()
