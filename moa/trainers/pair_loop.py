"""MODPO's loop: preference pairs in, one trained policy and its curve out.

Notation: B responses of at most T tokens after prompts of at most P; K objectives.
"""

import hashlib
import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from moa.errors import Diverged, MoaError
from moa.experiment.keys import Ppo
from moa.job.memory import allocating, release
from moa.job.process import Stopwatch, peak_memory
from moa.lm import checkpoint
from moa.lm.models import broken_parameter, forward, recomputing
from moa.rl.actor import Actor
from moa.rl.experience import diverged
from moa.rl.loop import CurveRow
from moa.rl.losses import estimated_kl, forbid_empty, logprobs_and_entropy
from moa.store import files
from moa.store.provenance import text_hash
from moa.trainers.pairs import Pairs, modpo_loss

log = logging.getLogger("moa")
SHORTER = "lower generation.max_new_tokens (of a data set's own pairs: text_characters), or set model.quantisation: nf4"


@dataclass(frozen=True)
class Samples:
    """Responses to compare, with what the reference policy and the rewards say of them; in main memory.

    Attributes:
        ids: (B, P + T) tokens; prompt left-padded, response right-padded.
        mask: (B, P + T), 1 on real tokens.
        response_mask: (B, T) float32.
        reference: (B, T) log-probabilities under the reference policy.
        raw: (B, K) rewards in their own units.
        quantile: (B, K) rewards on the normalised scale.
        finished: (B,) float32, 1 where the response ended.
    """

    ids: Tensor
    mask: Tensor
    response_mask: Tensor
    reference: Tensor
    raw: Tensor
    quantile: Tensor
    finished: Tensor

    def save(self, path: Path, watch: Stopwatch) -> None:
        """Write the samples, what drawing them took, and the hash of both, whole or not at all."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in vars(self).items()}
        spent = json.dumps(watch.state())
        facts = {"watch": spent, "hash": _digest(tensors, spent)}
        files.atomically(path, lambda temporary: save_file(tensors, temporary, facts))

    @staticmethod
    def load(path: Path, watch: Stopwatch) -> "Samples | None":
        """Return an earlier attempt's samples, or None.

        `watch` goes on from what they took. Damaged ones are named in the log, with the reason.
        """
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
                facts = file.metadata() or {}
            if facts.get("hash") != _digest(tensors, facts.get("watch", "")):
                raise ValueError("they are not what was written, or an earlier version wrote them")
            found, spent = Samples(**tensors), checkpoint.Spent.model_validate_json(facts["watch"])
        except (OSError, SafetensorError, ValueError, TypeError) as error:
            log.warning("samples %s cannot be used (%s): drawing them again", path, checkpoint.line(error))
            return None
        watch.restore(spent.model_dump())
        return found


def _digest(tensors: Mapping[str, Tensor], spent: str) -> str:
    """Return the sha256 of tensors, with their names, types and shapes, and of what drawing them took."""
    made = hashlib.sha256(spent.encode())
    for name, tensor in sorted(tensors.items()):
        made.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        made.update(tensor.numpy().tobytes())
    return made.hexdigest()


def trimmed(ids: Tensor, mask: Tensor, response: int) -> tuple[Tensor, Tensor, int]:
    """Cut columns that are padding in every row, (b, P + T) with T = `response`; return ids, mask and the new T."""
    real = mask.any(0).nonzero()[:, 0]
    first, last = int(real[0]), int(real[-1]) + 1
    width = ids.shape[1] - response
    return ids[:, min(first, width) : last], mask[:, min(first, width) : last], last - width


class State(checkpoint.State):
    """What a checkpoint says beside its tensors."""

    curve: list[CurveRow]
    micro: int = Field(ge=1)


@dataclass
class PairLoop:
    """One policy's training on pairs; iterate `run` to the end.

    Attributes:
        rate: learning rate.
        rate_key: where it is set, for messages.
        curve: rows (step, quantity, objective, value) so far; a step is a share of 1 / `steps` of the optimiser steps.
        watch: what was spent so far, earlier attempts and the drawing of samples included.
        micro: pairs per forward and backward pass; halved when memory runs out.
    """

    actor: Actor
    ppo: Ppo
    samples: Samples
    pairs: Pairs
    beta: float
    epochs: int
    rate: float
    rate_key: str
    seed: int
    checkpoints: Path
    curve: list[CurveRow] = field(default_factory=list)
    watch: Stopwatch = field(default_factory=Stopwatch)
    resumed: int = 0

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.actor.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.rate)
        # as many responses as the shared loop's mini-batch
        self.batch = self.micro = max(1, self.ppo.mini_batch_size // 2)
        self.updates = self.epochs * -(-len(self.pairs.rows) // self.batch)
        self.steps = min(self.ppo.steps, self.updates)
        modules = {"adapter": self.actor.model}
        self.kept = checkpoint.Checkpoints(self.checkpoints, State, modules, last=self.steps - 1)

    def run(self) -> Iterator[int]:
        """Train to the end, from the newest checkpoint if there is one; yield the number of each finished step."""
        self._resume()
        for step in range(self.resumed, self.steps):
            began = time.perf_counter()
            seen: dict[str, list[float]] = defaultdict(list)
            with self.watch.running():
                self._set_rate(step)
                for update in range(step * self.updates // self.steps, (step + 1) * self.updates // self.steps):
                    for name, value in self._fitting(self._rows(update), step).items():
                        seen[name].append(value)
            if step + 1 == self.steps:  # no later update would notice a policy that can no longer answer
                with torch.no_grad():
                    self._finite(self._loss(torch.arange(1))[0], "the finished policy's loss", step)
            self.curve += [(step, name, "all", sum(values) / len(values)) for name, values in seen.items()]
            elapsed = time.perf_counter() - began
            self.curve += [
                (step, "seconds", "all", elapsed),
                (step, "memory", "all", peak_memory()[0]),
                (step, "micro_batch", "all", 2.0 * self.micro),
            ]
            if (step + 1) % self.ppo.checkpoint_every == 0 and step + 1 < self.steps:
                spent = checkpoint.Spent(**self.watch.state())
                state = State(step=step + 1, watch=spent, curve=self.curve, micro=self.micro)
                self.kept.save(state, self.optimizer)
            yield step

    def _resume(self) -> None:
        state = self.kept.newest()
        if state is None:
            return
        self.kept.restore(state, self.optimizer)
        self.curve, self.micro, self.resumed = state.curve, state.micro, state.step
        self.watch.restore(state.watch.model_dump())
        log.info("resumed at step %d/%d", self.resumed, self.steps)

    def _set_rate(self, step: int) -> None:
        """Set the step's learning rate, as the shared loop does: constant, or falling linearly to 0 over the steps."""
        left = 1 - step / self.steps if self.ppo.schedule == "linear" else 1.0
        self.optimizer.param_groups[0]["lr"] = left * self.rate

    def _rows(self, update: int) -> Tensor:
        """Return the pairs of an optimiser step; the order of an epoch depends on (seed, epoch) alone."""
        per_epoch = self.updates // self.epochs
        generator = torch.Generator().manual_seed(
            int(text_hash("pairs", str(self.seed), str(update // per_epoch)), 16) % 2**63
        )
        order = torch.randperm(len(self.pairs.rows), generator=generator)
        start = update % per_epoch * self.batch
        return order[start : start + self.batch]

    def _fitting(self, chosen: Tensor, step: int) -> dict[str, float]:
        """Do one optimiser step, halving the micro-batch until it fits."""
        while True:
            try:
                with allocating(), recomputing(self.actor.model):
                    return self._update(chosen, step)
            except torch.OutOfMemoryError as error:
                if self.micro == 1:
                    raise MoaError(f"out of memory with one pair at a time; {SHORTER}") from error
            # Outside the handler the exception no longer holds the tensors of the failed pass.
            self.micro //= 2
            release()
            log.warning("out of memory: %d pairs at a time, the batch stays %d", self.micro, self.batch)

    def _update(self, chosen: Tensor, step: int) -> dict[str, float]:
        self.optimizer.zero_grad(set_to_none=True)
        seen: dict[str, float] = defaultdict(float)
        for part in chosen.split(self.micro):
            share = len(part) / len(chosen)
            loss, shown = self._loss(part)
            self._finite(loss, "the loss", step)
            (share * loss).backward()
            for name, value in shown.items():
                seen[name] += share * value
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.ppo.max_grad_norm)
        self._finite(norm, "the gradient", step)
        self.optimizer.step()
        if (broken := broken_parameter(self.actor.model)) is not None:
            raise self._diverged(f"parameter {broken} after the update", step)
        return {**seen, "grad_norm": float(norm)}

    def _finite(self, value: Tensor, name: str, step: int) -> None:
        if not torch.isfinite(value):
            raise self._diverged(name, step)

    def _diverged(self, name: str, step: int) -> Diverged:
        return diverged(name, step, f"{self.rate_key} (now {self.rate:g})")

    def _loss(self, part: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return the mean loss of some pairs, and what is logged beside it."""
        samples, pairs = self.samples, self.pairs
        rows = pairs.rows[part].T.reshape(-1)  # all i, then all j
        ids, mask, t = trimmed(samples.ids[rows], samples.mask[rows], samples.response_mask.shape[1])
        where = self.parameters[0].device
        ids, mask, live, reference = (
            part.to(where) for part in (ids, mask, samples.response_mask[rows, :t], samples.reference[rows, :t])
        )
        logits, _ = forward(self.actor.model, ids, mask, t)
        logprobs, _ = logprobs_and_entropy(
            forbid_empty(logits, self.actor.ends), ids[:, -t:], self.actor.decoding.temperature
        )
        first, second = ((logprobs - reference) * live).sum(1).chunk(2)
        gap = first - second
        losses = modpo_loss(gap, pairs.others[part].to(where), pairs.chosen[part].to(where), pairs.weight, self.beta)
        agrees = (1 + (gap.detach() * pairs.better[part].to(where)).sign()) / 2  # a tie counts half
        shown = {
            "pair_loss": float(losses.detach().mean()),
            "pair_accuracy": float(agrees.mean()),
            "forward_kl": float(estimated_kl(reference, logprobs.detach(), live)),
        }
        return losses.mean(), shown
