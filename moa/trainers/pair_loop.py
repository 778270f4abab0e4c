"""MODPO's loop: preference pairs in, one trained policy and its curve out.

Notation: B responses of at most T tokens after prompts of at most P; K objectives.
"""

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from moa.errors import Diverged, MoaError
from moa.experiment.keys import Ppo
from moa.job.memory import allocating, release
from moa.job.process import Stopwatch, peak_memory
from moa.lm import checkpoint
from moa.lm.models import broken_parameter, forward, recomputing
from moa.rl.experience import Actor
from moa.rl.loop import CurveRow, curve_of
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
        """Write the samples, and what drawing them took, whole or not at all."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in vars(self).items()}
        files.atomically(path, lambda temporary: save_file(tensors, temporary, {"watch": json.dumps(watch.state())}))

    @staticmethod
    def load(path: Path, watch: Stopwatch) -> "Samples | None":
        """Return an earlier attempt's samples, or None.

        `watch` goes on from what they took. A damaged file is named in the log.
        """
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                names = file.keys()
                found = Samples(**{name: file.get_tensor(name) for name in names})
                watch.restore(json.loads(file.metadata()["watch"]))
        except SafetensorError as error:
            log.warning("samples %s cannot be read (%s): drawing them again", path, error)
            return None
        return found


def trimmed(ids: Tensor, mask: Tensor, response: int) -> tuple[Tensor, Tensor, int]:
    """Cut columns that are padding in every row, (b, P + T) with T = `response`; return ids, mask and the new T."""
    real = mask.any(0).nonzero()[:, 0]
    first, last = int(real[0]), int(real[-1]) + 1
    width = ids.shape[1] - response
    return ids[:, min(first, width) : last], mask[:, min(first, width) : last], last - width


@dataclass
class PairLoop:
    """One policy's training on pairs; iterate `run` to the end.

    Attributes:
        rate: learning rate.
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
    row: str
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
            self.curve += [(step, name, "all", sum(values) / len(values)) for name, values in seen.items()]
            elapsed = time.perf_counter() - began
            self.curve += [
                (step, "seconds", "all", elapsed),
                (step, "memory", "all", peak_memory()[0]),
                (step, "micro_batch", "all", 2.0 * self.micro),
            ]
            if (step + 1) % self.ppo.checkpoint_every == 0 and step + 1 < self.steps:
                state = {"curve": self.curve, "watch": self.watch.state(), "micro": self.micro}
                checkpoint.save(self.checkpoints, step + 1, self._trainee(), state)
            yield step

    def _trainee(self) -> checkpoint.Trainee:
        return checkpoint.Trainee(self.actor.model, optimizer=self.optimizer)

    def _resume(self) -> None:
        path = checkpoint.newest(self.checkpoints)
        if path is None:
            return
        state = checkpoint.restore(path, self._trainee())
        self.curve = curve_of(state)
        self.micro, self.resumed = state["micro"], int(state["step"])
        self.watch.restore(state["watch"])
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
        return Diverged(
            f"step {step}: {name} is NaN or infinite; the last good checkpoint is kept. Lower"
            f" methods.{self.row}.learning_rate (now {self.rate:g})"
        )

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
