"""Supervised fine-tuning by TRL's SFTTrainer: tokenized examples in, a trained model out.

Padding is half the cost of short texts (and packing keeps examples apart cheaply with FlashAttention only). So every
batch is sorted by length and cut into micro-batches of similar length. Batches themselves are random: the loss is a
mean over a batch's tokens, so batches of similar length would give the tokens of short texts, and their end tokens,
several times the weight of others, and the model would learn to end too early.
"""

import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from moa.errors import MoaError
from moa.experiment.keys import Model, Sft
from moa.job.process import Job
from moa.lm.adapters import PeftModel, put
from moa.lm.conditioning import continuation_rows, continuing
from moa.lm.models import lora_config, train_in_float32
from moa.lm.training import Continued, Course, Plan, quiet

log = logging.getLogger("moa")
IGNORED = -100  # label that the loss skips
MICRO_BATCHES = 4  # parts of a batch, each of similar length, where the batch size allows


@dataclass(frozen=True)
class Text:
    """A prompt as the model reads it, a response to it, and whether that ended or was cut."""

    prompt: str
    response: str
    ended: bool = True


@dataclass(frozen=True)
class Example:
    """Token ids, and the labels that the loss reads (-100 where it does not)."""

    ids: list[int]
    labels: list[int]


def make_examples(
    texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, max_length: int, completion_only: bool
) -> list[Example]:
    """Return prompt + response + end token as examples; the loss reads the completion only, or the prompt as well.

    An example whose prompt fills `max_length` is left out, and counted. A response that does not fit is cut, and then
    has no end token: it did not end there.

    Raises:
        MoaError: nothing is left.
    """
    end = tokenizer.eos_token_id
    made, cut = [], 0
    prompts = [t.prompt for t in texts]
    rows = continuation_rows(prompts, continuing(prompts, [t.response for t in texts]), tokenizer)
    for text, (prompt, response) in zip(texts, rows, strict=True):
        ids = [*prompt, *response, *([end] if text.ended else [])]
        if len(prompt) >= max_length or not response:
            continue
        cut += len(ids) > max_length
        ids = ids[:max_length]
        made.append(Example(ids, [IGNORED] * len(prompt) + ids[len(prompt) :] if completion_only else ids))
    if not made:
        raise MoaError(
            f"texts: none of {len(texts)} has a response and a prompt under {max_length} tokens; raise"
            " model.sft.max_length, or check the data's columns"
        )
    if len(made) < len(texts) or cut:
        log.info(
            "texts: %d of %d left out (no response, or the prompt fills %d tokens), %d cut",
            len(texts) - len(made),
            len(texts),
            max_length,
            cut,
        )
    return made


def random_batches(lengths: Sequence[int], batch: int, total: int, seed: int) -> list[int]:
    """Return `total` indices, pass after pass over all examples in random order, each run of `batch` sorted by length.

    The batch with the longest example comes first, so that memory that does not suffice shows at once.
    """
    generator = torch.Generator().manual_seed(seed)
    passes = [torch.randperm(len(lengths), generator=generator) for _ in range(math.ceil(total / len(lengths)))]
    order = torch.cat(passes)[:total].tolist()
    batches = [sorted(order[i : i + batch], key=lambda i: lengths[i], reverse=True) for i in range(0, total, batch)]
    longest = max(range(total // batch), key=lambda i: lengths[batches[i][0]], default=0)  # a short batch stays last
    batches[0], batches[longest] = batches[longest], batches[0]
    return [i for b in batches for i in b]


def micro_batch(batch: int) -> int:
    """Return the size of the first micro-batches to try.

    It is a quarter of the batch, or the whole where that cannot be cut so.
    """
    return batch // MICRO_BATCHES if batch % MICRO_BATCHES == 0 and batch >= 4 * MICRO_BATCHES else batch


@dataclass(frozen=True)
class Trained:
    """What fine-tuning made and cost; `micro_batch_size` is what fitted into memory."""

    model: PreTrainedModel | PeftModel
    steps: int
    tokens: int
    loss: float
    micro_batch_size: int


@dataclass(frozen=True)
class Tuning:
    """How to fine-tune.

    Attributes:
        model: section `model`.
        sft: its settings; the seed draws the batches.
        micro: examples at a time, at most.
        key: of the learning rate, for messages.
    """

    model: Model
    sft: Sft
    micro: int
    key: str = "model.sft.learning_rate"


class Tuner(Continued, SFTTrainer):
    """TRL's SFTTrainer, which can begin in the middle."""


def fine_tune(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    tuning: Tuning,
    job: Job,
) -> Trained:
    """Fine-tune all weights, a new LoRA where `sft.lora` says so, or the adapter that the model has.

    Goes on from the job's newest checkpoint if there is one.

    Args:
        model: as it was before the job began.
        tokenizer: its own.
        examples: in any order.
        tuning: how.
        job: keeps the checkpoints.

    Raises:
        Diverged: loss or gradient is not finite.
        torch.OutOfMemoryError: `tuning.micro` is too large for the GPU.
    """
    spec, sft = tuning.model, tuning.sft
    total = sft.steps * sft.batch_size if sft.steps else max(1, round(sft.epochs * len(examples)))
    rows = [examples[i] for i in random_batches([len(e.ids) for e in examples], sft.batch_size, total, sft.seed)]
    if sft.lora:  # here, not in the Trainer: a checkpoint is judged by the parameters that are to be trained
        torch.manual_seed(sft.seed)
        model = put(model, lora_config(spec.lora))
    plan = Plan("SFT", tuning.key, sft.seed, tuning.micro, steps=-(-total // sft.batch_size))
    course = Course(plan, job, model)
    left = rows[course.finished * sft.batch_size :]
    data = Dataset.from_dict({"input_ids": [e.ids for e in left], "labels": [e.labels for e in left]})
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Tuner(
            model,
            args=settings(scratch, spec, sft, course.micro),
            train_dataset=data,
            processing_class=tokenizer,
        )
        train_in_float32(trainer.model)
        course.run(trainer)
    # Without the mixed-precision wrapper, or an adapter that is trained in stages would collect one per stage.
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    return Trained(model.eval(), len(course.losses), sum(len(e.ids) for e in rows), course.loss(), course.micro)


def settings(folder: str, spec: Model, sft: Sft, micro: int) -> SFTConfig:
    """Return TRL's configuration: one pass over the examples in their order."""
    cuda = torch.cuda.is_available()
    return SFTConfig(
        **quiet(folder, sft.seed),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=sft.batch_size // micro,
        num_train_epochs=1,
        learning_rate=sft.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=sft.warmup,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="sequential",
        activation_checkpointing=spec.gradient_checkpointing,
        bf16=cuda and spec.dtype == "bfloat16",
        fp16=cuda and spec.dtype == "float16",
        dataloader_pin_memory=cuda,
    )
