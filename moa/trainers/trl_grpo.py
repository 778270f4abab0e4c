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
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOTrainer

from moa.errors import Diverged
from moa.job.command import Steps
from moa.job.process import peak_memory
from moa.lm import checkpoint
from moa.lm.conditioning import token_rows
from moa.lm.generation import decode
from moa.lm.models import broken_parameter, positions, train_in_float32
from moa.lm.training import Continued
from moa.method import Logged
from moa.methods.grpo import Method
from moa.rl.experience import Actor, Task
from moa.rl.loop import AdaptiveKl, CurveRow, curve_of
from moa.trainers.grpo_run import GrpoRun, arguments, data

log = logging.getLogger("moa")
# TRL's names of what the curve holds. KL and entropy are those of a step's first mini-batch: later ones have moved.
FIRST = {"kl": "kl", "entropy": "entropy"}
MEAN = {"clip_ratio/region_mean": "clip_fraction", "grad_norm": "grad_norm"}


class Trainer(Continued, GRPOTrainer):
    """GRPOTrainer that reads prompts as the shared loop does.

    Attributes:
        sampled: batches of responses so far, those before the checkpoint included.
    """

    sampled = 0

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Seed what a step draws, as the shared loop does: resuming needs no random state."""
        checkpoint.seed_step(self.args.seed, self.sampled)
        self.sampled += 1
        made: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return made

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


class Rewards:
    """Scores a batch of responses: TRL's reward function.

    Attributes:
        rows: what the newest batch showed, for the curve.
        step: number of the next batch.
        tokens: sampled so far, and by the newest batch.
    """

    def __init__(self, method: Method, task: Task, actor: Actor) -> None:
        self.method, self.task, self.tokenizer, self.ends = method, task, actor.tokenizer, {*actor.ends}
        self.rows: list[Logged] = []
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
            Diverged: a reward is not finite.
        """
        texts = decode([[t for t in row if t not in self.ends] for row in completion_ids], self.tokenizer)
        raw = torch.from_numpy(self.task.score(plain, texts)).to(self.task.scale.low.device)
        scores, preferences = self.task.scale.apply(raw), raw.new_tensor(preference)
        combined = self.method.scalarise(scores.quantile, preferences)
        if not torch.isfinite(combined).all():  # TRL would take NaN for a missing reward
            raise diverged(self.step, "a reward", self.method)
        finished = [float(not self.ends.isdisjoint(row)) for row in completion_ids]
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
        self.rows.append(("finished_rate", "all", sum(finished) / len(finished)))
        return combined.tolist()


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
        self.curve: list[CurveRow] = []
        self.seen: list[dict[str, float]] = []
        self.began, self.cpu = time.perf_counter(), time.process_time()

    def restore(self, state: dict[str, Any], trainer: Trainer) -> None:
        """Go on from a checkpoint's state."""
        self.curve = curve_of(state)
        self.rewards.step, self.rewards.tokens = int(state["step"]), int(state["tokens"])
        self.watch.restore(state["watch"])
        trainer.beta = float(state["beta"])
        if self.kl is not None:
            self.kl.coefficient = trainer.beta

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
                raise diverged(step, f"the {name}", self.rewards.method)
        if (broken := broken_parameter(self.trainer.model)) is not None:
            raise diverged(step, f"parameter {broken} after the update", self.rewards.method)
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
        if self.kl is not None and "kl" in self.seen[0]:
            self.kl.update(self.seen[0]["kl"], self.run.ppo.batch_size)
            trainer.beta = self.kl.coefficient
        self.watch.seconds += seconds
        self.watch.cpu_seconds += cpu - self.cpu
        self.seen, self.began, self.cpu = [], now, cpu
        if (step + 1) % self.run.ppo.checkpoint_every == 0 and step + 1 < self.run.ppo.steps:
            kept = {
                "curve": self.curve,
                "tokens": self.rewards.tokens,
                "beta": trainer.beta,
                "micro": self.run.micro,
                "watch": self.watch.state(),
            }
            trainee = checkpoint.Trainee(trainer.model, optimizer=trainer.optimizer)
            checkpoint.save(self.run.job.folder, step + 1, trainee, kept)
        values = {(quantity, objective): value for quantity, objective, value in rows}
        self.steps.tell(step, lambda: self._describe(values))

    def _describe(self, values: dict[tuple[str, str], float]) -> str:
        """Return a step's figures in a line."""
        rewards = " ".join(f"{o} {values['reward', o]:.3f}" for o in self.run.method.objectives)
        kl = values.get(("kl", "all"), float("nan"))
        entropy, speed, memory = (values[q, "all"] for q in ("entropy", "tokens_per_second", "memory"))
        return f"{rewards}  KL {kl:.3f}  entropy {entropy:.2f}  {speed:.0f} tokens/s  {memory:.0f} MiB"


def diverged(step: int, what: str, method: Method) -> Diverged:
    """Return the error of a number that is not finite."""
    return Diverged(
        f"step {step}: {what} is NaN or infinite; training stopped. Lower methods.{method.row}.learning_rate or raise"
        f" methods.{method.row}.beta, then run again"
    )


def train(run: GrpoRun, steps: Steps) -> tuple[list[CurveRow], int]:
    """Train the actor's adapter in place, from the newest checkpoint if there is one.

    Return the curve and the number of sampled tokens; `steps` is told of every step.

    Raises:
        Diverged: a reward, the loss, the gradient or a parameter is not finite.
        torch.OutOfMemoryError: `run.micro` is too large for the GPU.
    """
    actor, first = run.actor, 0
    path = checkpoint.newest(run.job.folder)
    if path is not None:
        state = checkpoint.read_state(path)
        first, run = int(state["step"]), replace(run, micro=min(run.micro, int(state["micro"])))
    rewards = Rewards(run.method, run.task, actor)
    recorder = Recorder(rewards, run, steps)
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
        if path is not None:  # not before: TRL's reference is a copy of the adapter that it is given
            trainee = checkpoint.Trainee(actor.model, optimizer=trainer.create_optimizer())
            recorder.restore(checkpoint.restore(path, trainee), trainer)
            log.info("resumed at step %d/%d", first, run.ppo.steps)
        trainer.train()
    if "ref" in actor.model.peft_config:  # TRL's copy of the fresh adapter, its reference; it must not be saved
        actor.model.delete_adapter("ref")
    actor.model.eval()
    return recorder.curve, rewards.tokens
