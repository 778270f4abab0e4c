"""TRL's GRPOTrainer on the loop's task: the same prompts, preferences, sampling, rewards and number of responses.

TRL does the sampling, the group baseline, the loss and the optimiser. What it is kept from: a second BOS token, prompts
whose positions count their padding, text that is decoded otherwise than the loop's, files and reports of its own. Its
own checkpoints hold pickled random states; here every step is seeded, as in the shared loop, and the loop's checkpoints
serve.
"""

import logging
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOTrainer

from moa.job.command import Steps
from moa.job.process import peak_memory
from moa.lm import checkpoint
from moa.lm.conditioning import encode, token_rows
from moa.lm.generation import decode
from moa.lm.models import broken_parameter, positions, train_in_float32
from moa.lm.training import Continued
from moa.method import Logged
from moa.methods.grpo import Method
from moa.rl.actor import Actor
from moa.rl.experience import Task, diverged, scored
from moa.rl.loop import AdaptiveKl, CurveRow
from moa.trainers.grpo_run import GrpoRun, arguments, data

log = logging.getLogger("moa")
# TRL's names of what the curve holds. KL and entropy are those of a step's first mini-batch: later ones have moved.
FIRST = {"kl": "kl", "entropy": "entropy"}
MEAN = {"clip_ratio/region_mean": "clip_fraction", "grad_norm": "grad_norm"}


class Trainer(Continued, GRPOTrainer):
    """GRPOTrainer that reads prompts as the shared loop does.

    Attributes:
        sampled: batches of responses so far, those before the checkpoint included.
        remedy: what to lower where training diverges.
    """

    sampled, remedy = 0, ""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Seed what a step draws, as the shared loop does: resuming needs no random state."""
        checkpoint.seed_step(self.args.seed, self.sampled)
        self.sampled += 1
        made: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return made

    def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
        """Sample; NaN or infinite logits are divergence, where torch.multinomial would end in a trace."""
        with self.answering(self.sampled - 1, "the policy's next-token distribution"):
            return super()._generate_single_turn(*arguments, **options)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Put one BOS in front where the tokenizer wants one; a chat template's text may hold it already."""
        return token_rows(prompts, self.processing_class), None, {}

    def _get_per_token_logps_and_entropies(
        self, model: nn.Module, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Count positions from the first real token, as sampling did.

        TRL would count the padding, which GPT-2 notices.
        """

        def placed(**inputs: Any) -> Any:
            return model(position_ids=positions(inputs["attention_mask"]), **inputs)

        return super()._get_per_token_logps_and_entropies(placed, *args, **options)

    @contextmanager
    def answering(self, step: int, what: str) -> Iterator[None]:
        """Let the model run in the block.

        Raises:
            Diverged: one of its logits is NaN or infinite.
        """

        def look(module: nn.Module, read: Any, logits: Tensor) -> None:
            if not torch.isfinite(logits).all():
                raise diverged(what, step, self.remedy)

        hook = self.model.get_output_embeddings().register_forward_hook(look)
        try:
            yield
        finally:
            hook.remove()


class Rewards:
    """Scores a batch of responses: TRL's reward function.

    Attributes:
        penalty: what a response that the limit of new tokens cut loses of every reward.
        rows: what the newest batch showed, for the curve.
        finished: share of the newest batch that was not cut.
        step: number of the next batch.
        tokens: sampled so far, and by the newest batch.
    """

    def __init__(self, method: Method, task: Task, actor: Actor, penalty: float = 0.0) -> None:
        self.method, self.task, self.tokenizer, self.ends = method, task, actor.tokenizer, {*actor.ends}
        self.penalty = penalty
        self.rows: list[Logged] = []
        self.finished = 1.0
        self.step = self.tokens = self.newest = 0

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[list[int]],
        plain: Sequence[str],
        preference: Sequence[list[float]],
        **_: Any,
    ) -> list[float]:
        """Return B scalar rewards of the tokens sampled; TRL's own text `completions` may lack a first space.

        Raises:
            Diverged: a reward is not finite, or too large to compute with.
        """
        texts = decode([[t for t in row if t not in self.ends] for row in completion_ids], self.tokenizer)
        scores = scored(self.task, self.method.objectives, plain, texts, f"step {self.step}")
        raw = scores.raw
        finished = raw.new_tensor([[float(not self.ends.isdisjoint(row))] for row in completion_ids])
        preferences = raw.new_tensor(preference)
        combined = self.method.scalarise(scores.quantile - self.penalty * (1 - finished), preferences)
        self.finished = float(finished.mean())
        self.newest = sum(map(len, completion_ids))
        self.tokens += self.newest
        self.step += 1
        self.rows = []
        for k, name in enumerate(self.method.objectives):
            self.rows.append(("reward", name, float(raw[:, k].mean())))
            self.rows.append(("normalised_reward", name, float(scores.quantile[:, k].mean())))
            self.rows.append(("weight", name, float(preferences[:, k].mean())))
        self.rows.append(("control_error", "all", float(self.method.control_error(scores, preferences))))
        self.rows.append(("response_tokens", "all", self.newest / len(texts)))
        self.rows.append(("finished_rate", "all", self.finished))
        return combined.tolist()


class State(checkpoint.State):
    """What a checkpoint says beside its tensors."""

    curve: list[CurveRow]
    tokens: int = Field(ge=0)
    beta: float = Field(ge=0, allow_inf_nan=False)
    micro: int = Field(ge=1)


class Recorder(TrainerCallback):
    """Makes the curve, adapts the KL's weight as the shared loop does, and stops a diverged run.

    Every step is told; checkpoints are kept.
    """

    def __init__(self, rewards: Rewards, run: GrpoRun, steps: Steps) -> None:
        self.rewards, self.run, self.steps = rewards, run, steps
        self.watch = run.job.watch
        self.trainer: Trainer | None = None
        kl = run.ppo.kl
        self.kl = AdaptiveKl(kl.coefficient, kl.target, kl.horizon) if run.method.settings.beta is None else None
        self.kept = checkpoint.Checkpoints(run.job.folder, State, {"adapter": run.actor.model}, last=run.ppo.steps - 1)
        self.curve: list[CurveRow] = []
        self.seen: list[dict[str, float]] = []
        self.began, self.cpu = time.perf_counter(), time.process_time()

    def restore(self, state: State, trainer: Trainer) -> None:
        """Go on from a checkpoint's state and tensors."""
        self.kept.restore(state, trainer.create_optimizer())
        self.curve = state.curve
        self.rewards.step, self.rewards.tokens = state.step, state.tokens
        self.watch.restore(state.watch.model_dump())
        trainer.beta = state.beta
        if self.kl is not None:
            self.kl.coefficient = trainer.beta
        log.info("resumed at step %d/%d", state.step, self.run.ppo.steps)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.began, self.cpu = time.perf_counter(), time.process_time()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs is None or "loss" not in logs:  # the summary at the end
            return
        assert self.trainer is not None, "the recorder knows its trainer before training starts"
        step = (self.trainer.updated + state.global_step - 1) // self.run.updates
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs[name]):
                raise diverged(f"the {name}", step, self.run.remedy)
        if (broken := broken_parameter(self.trainer.model)) is not None:
            raise diverged(f"parameter {broken} after the update", step, self.run.remedy)
        self.seen.append(logs)
        if len(self.seen) == self.run.updates:
            self._close(step, self.trainer)

    def _close(self, step: int, trainer: Trainer) -> None:
        now, cpu = time.perf_counter(), time.process_time()
        rows = [*self.rewards.rows, ("kl_coefficient", "all", trainer.beta)]
        rows += [(quantity, "all", self.seen[0][name]) for name, quantity in FIRST.items() if name in self.seen[0]]
        rows += [(quantity, "all", sum(s[name] for s in self.seen) / len(self.seen)) for name, quantity in MEAN.items()]
        seconds = now - self.began
        rows += [("micro_batch", "all", float(self.run.micro)), ("seconds", "all", seconds)]
        rows += [("tokens_per_second", "all", self.rewards.newest / seconds), ("memory", "all", peak_memory()[0])]
        self.curve += [(step, *row) for row in rows]
        nothing = self.run.ppo.unfinished == "leave_out" and not self.rewards.finished  # its KL of 0 is of no token
        if self.kl is not None and "kl" in self.seen[0] and not nothing:
            self.kl.update(self.seen[0]["kl"], self.run.ppo.batch_size)
            trainer.beta = self.kl.coefficient
        self.watch.seconds += seconds
        self.watch.cpu_seconds += cpu - self.cpu
        self.seen, self.began, self.cpu = [], now, cpu
        if (step + 1) % self.run.ppo.checkpoint_every == 0 and step + 1 < self.run.ppo.steps:
            state = State(
                step=step + 1,
                watch=checkpoint.Spent(**self.watch.state()),
                curve=self.curve,
                tokens=self.rewards.tokens,
                beta=trainer.beta,
                micro=self.run.micro,
            )
            self.kept.save(state, trainer.optimizer)
        values = {(quantity, objective): value for quantity, objective, value in rows}
        self.steps.tell(step, lambda: self._describe(values))

    def _describe(self, values: dict[tuple[str, str], float]) -> str:
        """Return a step's figures in a line."""
        rewards = " ".join(f"{o} {values['reward', o]:.3f}" for o in self.run.method.objectives)
        kl = values.get(("kl", "all"), float("nan"))
        entropy, speed, memory = (values[q, "all"] for q in ("entropy", "tokens_per_second", "memory"))
        cut = 100 * (1 - self.rewards.finished)
        return f"{rewards}  KL {kl:.3f}  entropy {entropy:.2f}  {cut:.0f} % cut  {speed:.0f} tokens/s  {memory:.0f} MiB"


def train(run: GrpoRun, steps: Steps) -> tuple[list[CurveRow], int]:
    """Train the actor's adapter in place, from the newest checkpoint if there is one.

    Return the curve and the number of sampled tokens; `steps` is told of every step.

    Raises:
        Diverged: a reward, the loss, the gradient or a parameter is not finite.
        torch.OutOfMemoryError: `run.micro` is too large for the GPU.
    """
    actor, rewards = run.actor, Rewards(run.method, run.task, run.actor, run.ppo.unfinished_penalty)
    recorder = Recorder(rewards, run, steps)
    state = recorder.kept.newest()
    first = 0 if state is None else state.step
    if state is not None:
        run = recorder.run = replace(run, micro=min(run.micro, state.micro))
    actor.model.generation_config.eos_token_id = actor.ends  # where TRL looks for them
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            actor.model,
            reward_funcs=rewards,
            args=arguments(run, folder, first),
            train_dataset=data(run, first),
            processing_class=actor.tokenizer,
            callbacks=[recorder],
        )
        train_in_float32(actor.model)
        trainer.remove_callback(PrinterCallback)
        recorder.trainer, trainer.sampled, trainer.updated = trainer, first, first * run.updates
        trainer.remedy = run.remedy
        if state is not None:  # not before: TRL's reference is a copy of the adapter that it is given
            recorder.restore(state, trainer)
        trainer.train()
        # No later rollout would notice a policy that can no longer answer.
        with trainer.answering(run.ppo.steps - 1, "the finished policy's next-token distribution"), torch.no_grad():
            texts = data(run, run.ppo.steps - 1)["prompt"][: run.micro]
            ids, mask = (x.to(actor.model.device) for x in encode(texts, actor.tokenizer, actor.context))
            actor.model(input_ids=ids, attention_mask=mask, position_ids=positions(mask))
    if "ref" in actor.model.peft_config:  # TRL's copy of the fresh adapter, its reference; it must not be saved
        actor.model.delete_adapter("ref")
    actor.model.eval()
    return recorder.curve, rewards.tokens
