"""The loop: prompts and preferences in, one trained policy and its curve out. Written once for all online methods."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from moa.errors import MoaError
from moa.experiment.keys import Ppo
from moa.experiment.preferences import Preference
from moa.job.memory import allocating
from moa.job.process import Stopwatch, peak_memory
from moa.lm import checkpoint
from moa.method import Method
from moa.rl.actor import Actor
from moa.rl.experience import Asked, Collector, Experience, Task, finite, summary
from moa.rl.reading import read
from moa.rl.update import Updater
from moa.store.provenance import text_hash

log = logging.getLogger("moa")
CurveRow = tuple[int, str, str, float]  # step, quantity, objective, value


class State(checkpoint.State):
    """What a checkpoint of the loop says beside its tensors, in the loop's own words."""

    curve: list[CurveRow]
    tokens: int = Field(ge=0)
    kl_coefficient: float = Field(ge=0, allow_inf_nan=False)
    micro: int = Field(ge=1)
    rollout_rows: int = Field(ge=1)
    method: dict[str, list[float]]


@dataclass
class AdaptiveKl:
    """Adaptive KL coefficient (Ziegler et al. 2019, section 2.2), on nats per token."""

    coefficient: float
    target: float
    horizon: float

    def update(self, kl: float, samples: int) -> None:
        """Move the coefficient towards the target; an error beyond 20 % counts as 20 %."""
        error = min(0.2, max(-0.2, kl / self.target - 1))
        self.coefficient *= 1 + error * samples / self.horizon


def prompt_indices(count: int, batch: int, seed: int, step: int) -> list[int]:
    """Return which prompts step `step` uses: a fresh permutation per pass, the same for every method."""
    positions = [divmod(position, count) for position in range(step * batch, (step + 1) * batch)]  # (pass, place in it)
    orders = {}
    for number in {number for number, _ in positions}:
        generator = torch.Generator().manual_seed(int(text_hash("pass", str(seed), str(number)), 16) % 2**63)
        orders[number] = torch.randperm(count, generator=generator).tolist()
    return [orders[number][place] for number, place in positions]


def batch_preferences(
    training: Sequence[Preference], batch: int, dirichlet: float | None, seed: int, step: int
) -> Tensor:
    """Return (B, K): every training preference equally often, in random order; or Dirichlet samples."""
    generator = torch.Generator().manual_seed(int(text_hash("preferences", str(seed), str(step)), 16) % 2**63)
    if dirichlet is not None:
        state = torch.get_rng_state()
        torch.manual_seed(generator.initial_seed())
        drawn = torch.distributions.Dirichlet(torch.full((len(training[0]),), dirichlet)).sample((batch,))
        torch.set_rng_state(state)
        return drawn
    rows = torch.tensor(training, dtype=torch.float32)
    repeats = torch.arange(-(-batch // len(rows)) * len(rows)) % len(rows)
    # Which preferences get the odd place changes from step to step; where not all have one, the next step goes on with
    # those that had none.
    repeats = (repeats[:batch] + step * (batch if batch < len(rows) else 1)) % len(rows)
    return rows[repeats[torch.randperm(batch, generator=generator)]]


@dataclass
class Loop:
    """One policy's training; iterate `run` to the end.

    Attributes:
        curve: rows (step, quantity, objective, value) so far.
        watch: what was spent so far, earlier attempts included.
        tokens: generated so far.
    """

    actor: Actor
    method: Method
    ppo: Ppo
    task: Task
    seed: int
    checkpoints: Path
    curve: list[CurveRow] = field(default_factory=list)
    watch: Stopwatch = field(default_factory=Stopwatch)
    tokens: int = 0
    resumed: int = 0

    def __post_init__(self) -> None:
        trained = [p for p in self.actor.model.parameters() if p.requires_grad]
        value_rate = self.ppo.value_learning_rate or self.ppo.learning_rate
        groups = [
            {"params": trained, "lr": self.ppo.learning_rate},
            {"params": list(self.actor.heads.parameters()), "lr": value_rate},
        ]
        self.optimizer = torch.optim.Adam(groups)
        self.rates = [self.ppo.learning_rate, value_rate]
        self.collector = Collector(self.actor, self.method, self.ppo, self.task)
        self.updater = Updater(self.actor, self.method, self.ppo, self.optimizer)
        self.kl = AdaptiveKl(self.ppo.kl.coefficient, self.ppo.kl.target, self.ppo.kl.horizon)
        self.rollout_rows = self.ppo.batch_size
        modules = {"adapter": self.actor.model, "value_heads": self.actor.heads}
        # The last step's result is delivered, not kept.
        self.kept = checkpoint.Checkpoints(self.checkpoints, State, modules, last=self.ppo.steps - 1)

    def run(self) -> Iterator[int]:
        """Train to the end, from the newest checkpoint if there is one; yield the number of each finished step."""
        start = self._resume()
        for step in range(start, self.ppo.steps):
            with self.watch.running():
                self._step(step)
            if (step + 1) % self.ppo.checkpoint_every == 0 and step + 1 < self.ppo.steps:
                self.kept.save(self._state(step + 1), self.optimizer)
            yield step

    def _resume(self) -> int:
        state = self.kept.newest()
        if state is None:
            return 0
        self.kept.restore(state, self.optimizer)
        self.curve, self.tokens, self.kl.coefficient = state.curve, state.tokens, state.kl_coefficient
        self.watch.restore(state.watch.model_dump())
        self.updater.micro, self.rollout_rows = state.micro, state.rollout_rows
        self.method.restore(state.method)
        self.resumed = state.step
        log.info("resumed at step %d/%d", self.resumed, self.ppo.steps)
        return self.resumed

    def _state(self, step: int) -> State:
        return State(
            step=step,
            watch=checkpoint.Spent(**self.watch.state()),
            curve=self.curve,
            tokens=self.tokens,
            kl_coefficient=self.kl.coefficient,
            micro=self.updater.micro,
            rollout_rows=self.rollout_rows,
            method=self.method.state(),
        )

    def _step(self, step: int) -> None:
        began = time.perf_counter()
        task, batch, size = self.task, self.ppo.batch_size, self.ppo.group_size
        prompts = [
            task.prompts[i]
            for i in prompt_indices(len(task.prompts), batch // size, self.seed, step)
            for _ in range(size)
        ]
        preferences = batch_preferences(
            task.training, batch // size, task.dirichlet, self.seed, step
        ).repeat_interleave(size, 0)
        texts = [
            task.text_of(p, tuple(w.tolist()) if self.method.conditioned else None)
            for p, w in zip(prompts, preferences, strict=True)
        ]
        where = next(self.actor.model.parameters()).device
        experience = self._collect(Asked(self.seed, step, prompts, texts, preferences.to(where)))
        rows = summary(experience, self.method, self.method.streams)
        rows += [("kl_coefficient", "all", self.kl.coefficient), ("rollout_rows", "all", float(self.rollout_rows))]
        self._set_rates(step)
        rows += self.updater.run(experience, step, self.kl.coefficient)
        if step + 1 == self.ppo.steps:  # no later rollout would notice a policy that can no longer answer
            last = read(self.actor, experience.rollout, torch.arange(self.updater.micro), False).logprobs
            finite(last * experience.rollout.response_mask[: len(last)], "the finished policy's log-probability", step)
        self.kl.update(next(v for q, _, v in rows if q == "kl"), batch)
        new = int(experience.rollout.response_mask.sum())
        self.tokens += new
        elapsed = time.perf_counter() - began
        rows += [
            ("seconds", "all", elapsed),
            ("tokens_per_second", "all", new / elapsed),
            ("memory", "all", peak_memory()[0]),
        ]
        self.curve += [(step, *row) for row in rows]

    def _set_rates(self, step: int) -> None:
        """Set the learning rates of a step; they depend on its number alone, so a resumed run has the same."""
        left = 1 - step / self.ppo.steps if self.ppo.schedule == "linear" else 1.0
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * left

    def _collect(self, asked: Asked) -> Experience:
        """Collect the step's experience, with fewer rows at a time until memory suffices; the batch stays whole."""
        before = self.method.state()
        while True:
            checkpoint.seed_step(self.seed, asked.step)
            try:
                with allocating():
                    return self.collector.collect(asked, self.kl.coefficient, self.updater.micro, self.rollout_rows)
            except torch.OutOfMemoryError as error:
                if self.rollout_rows == 1 and self.updater.micro == 1:
                    raise MoaError(
                        "out of memory with one response at a time; lower generation.max_new_tokens or the model's"
                        " size, or set model.quantisation: nf4"
                    ) from error
            self.rollout_rows = max(1, self.rollout_rows // 2)
            self.updater.halve()
            self.method.restore(before)  # what it took in of the failed batch is drawn anew
            log.warning(
                "out of memory: sampling %d and reading %d responses at a time, the batch stays %d",
                self.rollout_rows,
                self.updater.micro,
                len(asked.texts),
            )

    def value(self, quantity: str, objective: str = "all") -> float:
        """Return the newest value of a quantity on the curve."""
        return next(v for _, q, o, v in reversed(self.curve) if q == quantity and o == objective)
