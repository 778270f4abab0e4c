"""GRPO by TRL's GRPOTrainer on the loop's task.

The same prompts, preferences, sampling, rewards and number of responses.

TRL does the sampling, the group baseline, the loss and the optimiser. What it is kept from: a second BOS token, prompts
whose positions count their padding, text that is decoded otherwise than the loop's, files and reports of its own. Its
own checkpoints hold pickled random states; here every step is seeded, as in the shared loop, and the loop's checkpoints
serve.
"""

import logging
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from moa.errors import Diverged
from moa.experiment.keys import Ppo
from moa.job.process import Stopwatch, peak_memory
from moa.lm import checkpoint
from moa.lm.conditioning import token_rows
from moa.lm.generation import Decoding, decode
from moa.lm.models import broken_parameter, positions
from moa.lm.training import Continued
from moa.methods.grpo import Method
from moa.rl.experience import Actor
from moa.rl.loop import AdaptiveKl, CurveRow, Task, batch_preferences, prompt_indices

log = logging.getLogger("moa")
Row = tuple[str, str, float]  # quantity, objective, value
Report = Callable[
    [int, dict[tuple[str, str], float]], None
]  # a finished step's number, its values by (quantity, objective)
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
        self.method, self.task, self.tokenizer = method, task, actor.tokenizer
        self.rows: list[Row] = []
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
        end = self.tokenizer.eos_token_id
        texts = decode([[token for token in row if token != end] for row in completion_ids], self.tokenizer)
        raw = torch.from_numpy(self.task.score(plain, texts)).to(self.task.scale.low.device)
        scores, preferences = self.task.scale.apply(raw), raw.new_tensor(preference)
        combined = self.method.scalarise(scores.quantile, preferences)
        if not torch.isfinite(combined).all():  # TRL would take NaN for a missing reward
            raise diverged(self.step, "a reward", self.method)
        finished = [float(end in row) for row in completion_ids]
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
    """Makes the curve, adapts the KL's weight as the shared loop does, reports and keeps steps, and stops a diverged run."""

    def __init__(
        self, rewards: Rewards, ppo: Ppo, micro: int, report: Report, checkpoints: Path, watch: Stopwatch
    ) -> None:
        self.rewards, self.ppo, self.micro, self.report = rewards, ppo, micro, report
        self.checkpoints, self.watch = checkpoints, watch
        self.updates = updates(rewards.method, ppo)
        self.trainer: Trainer | None = None
        self.kl = (
            AdaptiveKl(ppo.kl.coefficient, ppo.kl.target, ppo.kl.horizon)
            if rewards.method.settings.beta is None
            else None
        )
        self.curve: list[CurveRow] = []
        self.seen: list[dict[str, float]] = []
        self.began, self.cpu = time.perf_counter(), time.process_time()

    def restore(self, state: dict[str, Any], trainer: Trainer) -> None:
        """Go on from a checkpoint's state."""
        self.curve = [(int(s), str(q), str(o), float(v)) for s, q, o, v in state["curve"]]
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
        step = (self.trainer.updated + state.global_step - 1) // self.updates
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs[name]):
                raise diverged(step, f"the {name}", self.rewards.method)
        if (broken := broken_parameter(self.trainer.model)) is not None:
            raise diverged(step, f"parameter {broken} after the update", self.rewards.method)
        self.seen.append(logs)
        if len(self.seen) == self.updates:
            self._close(step, self.trainer)

    def _close(self, step: int, trainer: Trainer) -> None:
        now, cpu = time.perf_counter(), time.process_time()
        rows = [*self.rewards.rows, ("kl_coefficient", "all", trainer.beta)]
        rows += [(quantity, "all", self.seen[0][name]) for name, quantity in FIRST.items() if name in self.seen[0]]
        rows += [(quantity, "all", sum(s[name] for s in self.seen) / len(self.seen)) for name, quantity in MEAN.items()]
        seconds = now - self.began
        rows += [("micro_batch", "all", float(self.micro)), ("seconds", "all", seconds)]
        rows += [("tokens_per_second", "all", self.rewards.newest / seconds), ("memory", "all", peak_memory()[0])]
        self.curve += [(step, *row) for row in rows]
        if self.kl is not None and "kl" in self.seen[0]:
            self.kl.update(self.seen[0]["kl"], self.ppo.batch_size)
            trainer.beta = self.kl.coefficient
        self.watch.seconds += seconds
        self.watch.cpu_seconds += cpu - self.cpu
        self.seen, self.began, self.cpu = [], now, cpu
        if (step + 1) % self.ppo.checkpoint_every == 0 and step + 1 < self.ppo.steps:
            kept = {
                "curve": self.curve,
                "tokens": self.rewards.tokens,
                "beta": trainer.beta,
                "micro": self.micro,
                "watch": self.watch.state(),
            }
            checkpoint.save(self.checkpoints, step + 1, trainer.model, None, trainer.optimizer, kept)
        self.report(step, {(quantity, objective): value for quantity, objective, value in rows})


def diverged(step: int, what: str, method: Method) -> Diverged:
    """Return the error of a number that is not finite."""
    return Diverged(
        f"step {step}: {what} is NaN or infinite; training stopped. Lower methods.{method.row}.learning_rate or raise"
        f" methods.{method.row}.beta, then run again"
    )


def data(task: Task, ppo: Ppo, group_size: int, seed: int, first: int = 0) -> Dataset:
    """Return one row per group from step `first` on.

    The prompt as the policy reads it, the prompt as rewards see it, the preference.

    Prompts come in the loop's order, preferences as balanced as the loop's; a step takes batch_size / group_size of
    them.
    """
    groups = ppo.batch_size // group_size
    rows = []
    for step in range(first, ppo.steps):
        preferences = batch_preferences(task.training, groups, task.dirichlet, seed, step).tolist()
        for index, preference in zip(prompt_indices(len(task.prompts), groups, seed, step), preferences, strict=True):
            plain = task.prompts[index]
            rows.append({"prompt": task.text_of(plain, tuple(preference)), "plain": plain, "preference": preference})
    return Dataset.from_list(rows)


def arguments(
    method: Method,
    ppo: Ppo,
    decoding: Decoding,
    seed: int,
    folder: str,
    micro: int,
    checkpointing: bool,
    first: int = 0,
) -> GRPOConfig:
    """Return TRL's configuration: the loop's batches, sampling and precision, steps from `first` on.

    Nothing kept on disk, nothing reported elsewhere.
    """
    chosen, cuda = method.settings, torch.cuda.is_available()
    return GRPOConfig(
        output_dir=folder,
        max_steps=(ppo.steps - first) * updates(method, ppo),
        generation_batch_size=ppo.batch_size,
        num_generations=chosen.group_size,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=ppo.mini_batch_size // micro,
        num_iterations=chosen.epochs or ppo.epochs,
        shuffle_dataset=False,
        max_completion_length=decoding.max_new_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        generation_kwargs={"min_new_tokens": 1},
        beta=ppo.kl.coefficient if chosen.beta is None else chosen.beta,
        epsilon=ppo.clip,
        loss_type=chosen.loss_type,
        scale_rewards=method.scale_rewards,
        learning_rate=chosen.learning_rate or ppo.learning_rate,
        lr_scheduler_type=ppo.schedule,  # TRL has the same words for it
        max_grad_norm=ppo.max_grad_norm,
        activation_checkpointing=checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        bf16=False,  # the weights are in the configured precision already, the adapter in float32
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        seed=seed,
    )


def updates(method: Method, ppo: Ppo) -> int:
    """Return the optimiser steps per batch of responses."""
    return (method.settings.epochs or ppo.epochs) * (ppo.batch_size // ppo.mini_batch_size)


def train(
    actor: Actor,
    method: Method,
    ppo: Ppo,
    task: Task,
    seed: int,
    micro: int,
    checkpointing: bool,
    report: Report,
    checkpoints: Path,
    watch: Stopwatch,
) -> tuple[list[CurveRow], int]:
    """Train the actor's adapter in place, from the newest checkpoint if there is one.

    Return the curve and the number of sampled tokens.

    Args:
        actor: base with a fresh adapter; its value heads are left alone.
        method: GRPO or GDPO.
        ppo: the shared settings; `Method.check` has accepted them.
        task: prompts, rewards, scale and training preferences.
        seed: of the sampling.
        micro: responses per forward and backward pass, at most; divides the mini-batch.
        checkpointing: recompute activations.
        report: called after every step.
        checkpoints: folder of the job's checkpoints.
        watch: counts what the steps take.

    Raises:
        Diverged: a reward, the loss, the gradient or a parameter is not finite.
        torch.OutOfMemoryError: `micro` is too large for the GPU.
    """
    path = checkpoint.newest(checkpoints)
    first = 0
    if path is not None:
        state = checkpoint.read_state(path)
        first, micro = int(state["step"]), min(micro, int(state["micro"]))
    rewards = Rewards(method, task, actor)
    recorder = Recorder(rewards, ppo, micro, report, checkpoints, watch)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            actor.model,
            reward_funcs=rewards,
            args=arguments(method, ppo, actor.decoding, seed, folder, micro, checkpointing, first),
            train_dataset=data(task, ppo, method.settings.group_size, seed, first),
            processing_class=actor.tokenizer,
            callbacks=[recorder],
        )
        for parameter in actor.model.parameters():
            # TRL keeps the adapter of a quantised base in bfloat16, where small updates are lost.
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        trainer.remove_callback(PrinterCallback)
        recorder.trainer, trainer.sampled, trainer.updated = trainer, first, first * updates(method, ppo)
        if path is not None:  # not before: TRL's reference is a copy of the adapter that it is given
            recorder.restore(checkpoint.restore(path, actor.model, None, trainer.create_optimizer()), trainer)
            log.info("resumed at step %d/%d", first, ppo.steps)
        trainer.train()
    if "ref" in actor.model.peft_config:  # TRL's copy of the fresh adapter, its reference; it must not be saved
        actor.model.delete_adapter("ref")
    actor.model.eval()
    return recorder.curve, rewards.tokens
