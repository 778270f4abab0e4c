"""Rewards-in-Context's trainer: offline on the texts, then online on the policy's own responses."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from moa.errors import MoaError
from moa.experiment.keys import Sft
from moa.experiment.schema import TrainSection
from moa.job import command
from moa.job.memory import allocating, release, smaller
from moa.job.process import Job, peak_memory
from moa.lm import answering, checkpoint, conditioning, sft
from moa.lm.adapters import get_peft_model_state_dict, set_peft_model_state_dict
from moa.lm.targets import Targets
from moa.methods import ric
from moa.rl.actor import Actor
from moa.rl.experience import Task, scored
from moa.rl.loop import CurveRow, prompt_indices
from moa.store import inputs
from moa.store.provenance import text_hash
from moa.trainers.request import Request, Trained
from moa.trainers.setup import actor_of, task_of

log = logging.getLogger("moa")


@dataclass(frozen=True)
class Examples:
    """Prompts with responses, whether these ended, and their rewards (n, K) as z-scores."""

    prompts: list[str]
    responses: list[str]
    ended: list[bool]
    rewards: ric.Array

    def take(self, rows: Sequence[int]) -> "Examples":
        return Examples(
            [self.prompts[i] for i in rows],
            [self.responses[i] for i in rows],
            [self.ended[i] for i in rows],
            self.rewards[list(rows)],
        )

    def __add__(self, other: "Examples") -> "Examples":
        rewards = np.concatenate([self.rewards, other.rewards])
        return Examples(
            self.prompts + other.prompts, self.responses + other.responses, self.ended + other.ended, rewards
        )


@dataclass(frozen=True)
class Round:
    """What a round asks: prompts, the preferences (n, K) behind their targets, and the texts that the policy reads."""

    prompts: list[str]
    preferences: torch.Tensor
    texts: list[str]


class State(checkpoint.State):
    """What a checkpoint says beside its tensors; its steps are finished parts."""

    curve: list[CurveRow]
    tokens: int = Field(ge=0)


@dataclass
class Ric:
    """One policy's training.

    Attributes:
        curve: rows so far; a step is a batch of `ppo.batch_size` generated responses, as in the shared loop.
        tokens: read in fine-tuning and generated so far.
        finished: parts (offline, then rounds) that are done.
    """

    section: TrainSection
    method: ric.Method
    actor: Actor
    task: Task
    texts: Examples
    targets: Targets
    seed: int
    job: Job
    curve: list[CurveRow] = field(default_factory=list)
    tokens: int = 0
    finished: int = 0

    def __post_init__(self) -> None:
        ppo, settings = self.section.ppo, self.method.settings
        self.sft = self.section.model.sft or Sft()
        self.steps = max(1, round(settings.epochs * len(self.texts.prompts) / self.sft.batch_size))
        self.batches = ppo.steps // settings.rounds if settings.rounds else 0  # of a round
        self.kept = checkpoint.Checkpoints(
            self.job.folder, State, {"adapter": self.actor.model}, last=settings.rounds, moments=False
        )
        # All prompts at once, so that one that does not fit is refused before training, not in its middle.
        self.rounds = [self._ask(number) for number in range(settings.rounds)]
        for asked in self.rounds:
            conditioning.encode(
                asked.texts, self.actor.tokenizer, self.actor.context - self.actor.decoding.max_new_tokens
            )

    def run(self) -> None:
        """Train to the end, from the last finished part if there is one."""
        self._resume()
        parts = 1 + self.method.settings.rounds
        for part in range(self.finished, parts):
            if part == 0:
                loss = self._fit(self.texts, self.steps, 1.0, part)
                self.curve.append((0, "offline_loss", "all", loss))
            else:
                self._round(part)
            self.finished = part + 1
            if self.finished < parts:
                spent = checkpoint.Spent(**self.job.watch.state())
                self.kept.save(State(step=self.finished, watch=spent, curve=self.curve, tokens=self.tokens))

    def _resume(self) -> None:
        state = self.kept.newest()
        if state is None:
            return
        self.kept.restore(state)
        self.curve, self.tokens, self.finished = state.curve, state.tokens, state.step
        self.job.watch.restore(state.watch.model_dump())
        log.info("resumed after part %d of %d", self.finished, 1 + self.method.settings.rounds)

    def _ask(self, number: int) -> Round:
        """Draw a round's prompts, and preferences uniformly from the simplex."""
        count = self.batches * self.section.ppo.batch_size
        prompts = [self.task.prompts[i] for i in prompt_indices(len(self.task.prompts), count, self.seed, number)]
        rng = np.random.default_rng(int(text_hash("ric", str(self.seed), str(number)), 16))
        drawn = rng.dirichlet(np.ones(len(self.method.objectives)), count)
        shown = [self.targets.text(tuple(w), self.method.objectives) for w in drawn.tolist()]
        texts = [
            conditioning.place(p, s, self.section.conditioning, self.actor.tokenizer)
            for p, s in zip(prompts, shown, strict=True)
        ]
        return Round(prompts, torch.tensor(drawn, dtype=torch.float32), texts)

    def _round(self, part: int) -> None:
        """Generate with random targets, keep the better responses, train on them and on some of the texts."""
        began, settings = time.perf_counter(), self.method.settings
        with self.job.watch.running():
            found = self._generate(part)
        better = ric.kept(found.rewards, settings.quantile)
        count = min(round(settings.originals * len(found.prompts)), len(self.texts.prompts))
        rng = np.random.default_rng(int(text_hash("ric originals", str(self.seed), str(part)), 16))
        originals = self.texts.take(rng.permutation(len(self.texts.prompts))[:count].tolist())
        loss = self._fit(
            found.take(np.flatnonzero(better).tolist()) + originals,
            max(1, round(settings.round_steps * self.steps)),
            settings.round_rate,
            part,
        )
        last = part * self.batches - 1
        quantities = {
            "online_loss": loss,
            "kept_share": float(better.mean()),
            "seconds": time.perf_counter() - began,
            "memory": peak_memory()[0],
        }
        self.curve += [(last, quantity, "all", value) for quantity, value in quantities.items()]

    def _generate(self, part: int) -> Examples:
        """Answer a round's questions with the current policy, score the answers, and log them."""
        actor, asked, names = self.actor, self.rounds[part - 1], self.method.objectives
        actor.model.config.use_cache = True  # fine-tuning switched it off
        prompting = answering.Prompting(names, self.section.conditioning, conditioned=True)
        answerer = answering.Answerer(actor.model, actor.tokenizer, actor.context, "policy", [], prompting)
        clock = command.Progress(f"{self.method.row} round {part}: generate", len(asked.texts))
        sampling = answering.Sampling(actor.decoding, self.section.ppo.batch_size, f"ric {self.seed} {part}")
        found = answering.respond(answerer, asked.texts, sampling, clock.add)
        scores = scored(self.task, names, asked.prompts, [r.text for r in found], f"round {part}")
        raw = scores.raw.cpu().numpy()
        self.tokens += sum(r.tokens + r.finished for r in found)
        self._log(part, asked, found, torch.from_numpy(raw))
        return Examples(
            asked.prompts, [r.text for r in found], [r.finished for r in found], ric.zscores(raw, self.targets)
        )

    def _log(self, part: int, asked: Round, found: Sequence[answering.Response], raw: torch.Tensor) -> None:
        """Add a round's responses to the curve, batch by batch."""
        size = self.section.ppo.batch_size
        for batch in range(self.batches):
            rows = slice(batch * size, (batch + 1) * size)
            scores = self.task.scale.apply(raw[rows].to(self.task.scale.low.device))
            lengths = [r.tokens + r.finished for r in found[rows]]
            names = self.method.objectives
            shown = [("reward", o, v) for o, v in zip(names, scores.raw.mean(0).tolist(), strict=True)]
            shown += [("normalised_reward", o, v) for o, v in zip(names, scores.quantile.mean(0).tolist(), strict=True)]
            error = self.method.control_error(scores, asked.preferences[rows].to(scores.raw.device))
            shown += [
                ("control_error", "all", float(error)),
                ("response_tokens", "all", sum(lengths) / size),
                ("finished_rate", "all", sum(r.finished for r in found[rows]) / size),
            ]
            self.curve += [((part - 1) * self.batches + batch, *row) for row in shown]

    def _fit(self, examples: Examples, steps: int, rate: float, part: int) -> float:
        """Train the adapter on examples whose prompts show their rewards; return the loss at the end."""
        settings, actor = self.method.settings, self.actor
        shown = [self.targets.rewards_text(r, self.method.objectives) for r in examples.rewards.tolist()]
        prompts = [
            conditioning.place(p, s, self.section.conditioning, actor.tokenizer)
            for p, s in zip(examples.prompts, shown, strict=True)
        ]
        texts = list(map(sft.Text, prompts, examples.responses, examples.ended))
        limit = min(self.sft.max_length, actor.context)
        made = sft.make_examples(texts, actor.tokenizer, limit, completion_only=True)
        full = settings.learning_rate or self.sft.learning_rate
        # No new adapter: it is there already.
        chosen = {"steps": steps, "learning_rate": rate * full, "lora": False, "seed": self.seed + part}
        log.info("%s part %d: %d examples, %d steps", self.method.row, part, len(made), steps)
        trained = self._fitting(made, self.sft.model_copy(update=chosen), self.job.part(f"part-{part}"))
        self.tokens += trained.tokens
        return trained.loss

    def _fitting(self, made: Sequence[sft.Example], spec: Sft, job: Job) -> sft.Trained:
        """Fine-tune from the adapter as it is; where memory runs out, try again with fewer examples at a time.

        A new attempt begins from the same adapter, or from a checkpoint.
        """
        actor, micro = self.actor, checkpoint.micro_batch(job.folder, sft.micro_batch(spec.batch_size))
        before = {name: tensor.detach().clone() for name, tensor in get_peft_model_state_dict(actor.model).items()}
        while True:
            try:
                with allocating():
                    own = self.method.settings.learning_rate is not None
                    key = f"methods.{self.method.row}.learning_rate" if own else "model.sft.learning_rate"
                    tuning = sft.Tuning(self.section.model, spec, micro, key)
                    return sft.fine_tune(actor.model, actor.tokenizer, made, tuning, job)
            except torch.OutOfMemoryError:
                if micro == 1:
                    raise MoaError(
                        "out of memory with one example at a time; lower model.sft.max_length, or set"
                        " model.quantisation: nf4"
                    ) from None
            micro = smaller(micro, spec.batch_size)
            log.warning("out of memory: again with %d examples at a time (the batch stays %d)", micro, spec.batch_size)
            actor.model.zero_grad(set_to_none=True)
            release()
            set_peft_model_state_dict(actor.model, before)


def read_examples(paths: Sequence[Path], objectives: Sequence[str]) -> Examples:
    """Return the train texts with their raw rewards, from tables TEXTS and TEXT_SCORES."""
    if len(paths) != 2:
        raise MoaError(
            f"--texts: {len(paths)} files given; give texts.parquet and text_scores.parquet (rule score_texts makes"
            " them)"
        )
    rows = inputs.texts(paths[0])
    rewards = inputs.text_rewards(paths[1], [r["text_id"] for r in rows], objectives)
    return Examples([r["prompt"] for r in rows], [r["response"] for r in rows], [True] * len(rows), rewards)


def train(request: Request, job: Job) -> Trained:
    """Train a policy from the job's last finished part, if there is one, to the end.

    Raises:
        Diverged: a number is not finite.
        MoaError: an input is unfit, or not even one example at a time fits into memory.
    """
    method = request.method
    assert isinstance(method, ric.Method), "only Rewards-in-Context names this trainer"
    texts = read_examples(request.texts, method.objectives)
    targets = method.targets(texts.rewards, request.seed)
    actor = actor_of(request)
    task = task_of(request, actor)
    standardised = replace(texts, rewards=ric.zscores(texts.rewards, targets))
    run = Ric(request.section, method, actor, task, standardised, targets, request.seed, job)
    run.run()
    return Trained(actor.model, None, run.curve, run.tokens, {"targets": targets.model_dump()})
