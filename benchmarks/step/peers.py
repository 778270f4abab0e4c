"""(b) TRL's GRPOTrainer, and (c) the plain loop that a script has; both sample with transformers' generate."""

import logging
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.step.world import END, Phases, World, clock
from moa.lm.conditioning import encode
from moa.lm.models import device, forward, without_dropout
from moa.rl.losses import Tokens, logprobs_and_entropy, policy_loss, reference_loss


class Forced(LogitsProcessor):
    """Ends every response at its length, and no sooner."""

    def __init__(self, lengths: Sequence[int], prompt: int) -> None:
        self.last, self.prompt = torch.tensor(lengths, device=device()) - 1, prompt

    def __call__(self, input_ids: Tensor, logits: Tensor) -> Tensor:
        """Leave the end token alone, or take it out."""
        step = input_ids.shape[1] - self.prompt
        now = (self.last == step)[:, None]
        end = torch.zeros_like(logits, dtype=torch.bool)
        end[:, END] = True
        return torch.where(now == end, logits, torch.finfo(logits.dtype).min)


class Trl:
    """GRPOTrainer with as many optimiser steps per batch of responses as the loop has mini-batches."""

    def __init__(self, world: World) -> None:
        self.world, self.phases = world, Phases()
        logging.getLogger("accelerate").setLevel(logging.ERROR)
        policy = world.policy()
        inner = policy.get_base_model()
        generate = inner.generate

        def forced(*args: Any, **kwargs: Any) -> Any:
            ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            return generate(
                *args, **kwargs, logits_processor=LogitsProcessorList([Forced(world.lengths, ids.shape[1])])
            )

        inner.generate = self.phases.around("rollout", forced)
        batch = len(world.texts)
        arguments = GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=world.mini,
            steps_per_generation=batch // world.mini,
            num_generations=world.group,
            max_completion_length=world.limit,
            max_steps=batch // world.mini,
            beta=0.04,
            learning_rate=1e-5,
            gradient_checkpointing=False,
            bf16=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            log_level="error",
            shuffle_dataset=False,
        )
        self.trainer = GRPOTrainer(
            policy,
            reward_funcs=self._scored(),
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": world.prompts}),
            processing_class=world.tokenizer(),
            callbacks=[Watch(self.phases)],
        )
        self.trainer.remove_callback(PrinterCallback)
        trainer = self.trainer
        scored = trainer._generate_and_score_completions
        trainer._generate_and_score_completions = self.phases.around("reading", scored)

    def _scored(self) -> Any:
        scored = self.world.score()

        def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
            return scored(prompts, completions).sum(1).tolist()

        timed = self.phases.around("scoring", reward)
        timed.__name__ = "reward"  # TRL names its column so
        return timed

    def step(self) -> None:
        """Do one batch of responses with its updates."""
        self.trainer.train()


class Watch(TrainerCallback):
    """Counts what is left of a training, without its preparations, as the update."""

    def __init__(self, phases: Phases) -> None:
        self.phases = phases

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.began, self.before = clock(), self._others()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stop it."""
        spent = self.phases.spent.setdefault("update", [0.0, 0.0])
        for i, (start, end, old, new) in enumerate(zip(self.began, clock(), self.before, self._others(), strict=True)):
            spent[i] += end - start - (new - old)

    def _others(self) -> list[float]:
        return [sum(part[i] for name, part in self.phases.spent.items() if name != "update") for i in range(2)]


class Plain:
    """A script's loop: the default cache, one text scored and one response read at a time."""

    def __init__(self, world: World) -> None:
        self.world, self.phases = world, Phases()
        self.policy, self.tokenizer, self.reward = world.policy(), world.tokenizer(), world.score()
        without_dropout(self.policy)
        self.parameters = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-5)
        self.rollout = self.phases.around("rollout", self._rollout)
        self.score = self.phases.around("scoring", self._score)
        self.read = self.phases.around("reading", self._read)
        self.update = self.phases.around("update", self._update)

    def step(self) -> None:
        """Do one batch of responses with its updates."""
        ids, mask = self.rollout()
        texts = self.tokenizer.batch_decode(ids[:, -self.world.limit :], skip_special_tokens=True)
        rewards = self.score(texts)
        grouped = rewards.view(-1, self.world.group)
        advantages = ((grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)).flatten()
        old, reference = self.read(ids, mask)
        self.update(ids, mask, advantages, old, reference)

    @torch.no_grad()
    def _rollout(self) -> tuple[Tensor, Tensor]:
        ids, mask = (x.to(device()) for x in encode(self.world.texts, self.tokenizer, 2048))
        settings = GenerationConfig(
            do_sample=True, top_k=0, max_new_tokens=self.world.limit, eos_token_id=END, pad_token_id=0
        )
        forced = LogitsProcessorList([Forced(self.world.lengths, ids.shape[1])])
        full = self.policy.generate(
            input_ids=ids, attention_mask=mask, generation_config=settings, logits_processor=forced
        )
        steps = torch.arange(self.world.limit, device=full.device)
        response = steps < torch.tensor(self.world.lengths, device=full.device)[:, None]
        return full, torch.cat([mask, response.long()], 1)

    def _score(self, texts: list[str]) -> Tensor:
        return torch.tensor([float(self.reward([""], [text]).sum()) for text in texts])

    def _logprobs(self, ids: Tensor, mask: Tensor) -> Tensor:
        return logprobs_and_entropy(
            forward(self.policy, ids, mask, self.world.limit)[0], ids[:, -self.world.limit :], 1.0
        )[0]

    @torch.no_grad()
    def _read(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        one_by_one = list(zip(ids.split(1), mask.split(1), strict=True))
        old = torch.cat([self._logprobs(*row) for row in one_by_one])
        with self.policy.disable_adapter():
            return old, torch.cat([self._logprobs(*row) for row in one_by_one])

    def _update(self, ids: Tensor, mask: Tensor, advantages: Tensor, old: Tensor, reference: Tensor) -> None:
        for batch in torch.randperm(len(ids)).split(self.world.mini):
            self.optimizer.zero_grad(set_to_none=True)
            total = mask[batch, -self.world.limit :].sum()
            for row in batch.split(1):
                tokens = Tokens(mask[row, -self.world.limit :].float(), total)
                new = self._logprobs(ids[row], mask[row])
                advantage = advantages[row, None].to(new)
                loss, _ = policy_loss(new, old[row], advantage, tokens, 0.2)
                (loss + 0.04 * reference_loss(new, reference[row], tokens)).backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
