"""A transformer reward trained here with TRL's RewardTrainer (Bradley-Terry loss) on preference pairs.

The trained model is a sequence classifier with one logit, scored by the code of moa/rewards/classifier.py. Differences
from TRL's own preparation of texts:
1. Training and scoring share one tokenization, so that the model is asked what it was taught; TRL would append an end
   token in training only.
2. A text of more than max_length tokens loses its beginning, as in scoring; TRL would leave the pair out.
"""

import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import RewardConfig, RewardTrainer

from moa.errors import MoaError
from moa.experiment.rewards import Classifier, Transformer
from moa.job.memory import allocating, release, smaller
from moa.job.process import Job
from moa.lm.precision import number_format
from moa.lm.training import Continued, Course, Plan, quiet
from moa.rewards import card, classifier, scoring
from moa.rewards.labelled import Example, examples
from moa.rewards.reading import encode

log = logging.getLogger("moa")
SEED = 0


class Tuner(Continued, RewardTrainer):
    """TRL's RewardTrainer, which can begin in the middle."""


def train(name: str, spec: Transformer, folder: Path, job: Job) -> scoring.Trained:
    """Train on the pairs and write model, tokenizer and reward.json with the held-out accuracy into `folder`."""
    number_format(spec.dtype, f"rewards.{name}.dtype")
    training, heldout = examples(name, spec.data, spec.template, spec.heldout)
    tokenizer, model = _fresh(name, spec)
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise MoaError(
            f"reward {name}: the tokenizer of {spec.source} has neither a pad nor an end token, so that batches cannot"
            " be padded; set pad_token in tokenizer_config.json"
        )
    read, prompts = _classifier(spec, folder), [e.prompt for e in training]
    columns = {
        "chosen_ids": _ids(name, tokenizer, read, prompts, [e.text for e in training]),
        "rejected_ids": _ids(name, tokenizer, read, prompts, [e.rejected for e in training]),
    }
    pairs, micro = Dataset.from_dict(columns).select(_order(len(training), spec.epochs)), spec.batch_size
    kept = Training(name, spec, pairs, job)
    while (fitting := _fit(kept, model, tokenizer, micro)) is None:
        if micro == 1:
            raise MoaError(f"reward {name}: out of memory with a single pair; give a smaller max_length or model")
        micro = smaller(micro, spec.batch_size)
        log.warning(
            "reward %s: out of memory, starting again, or from a checkpoint, with %d pairs at a time (the batch"
            " stays %d)",
            name,
            micro,
            spec.batch_size,
        )
        del model  # before there is another
        release()
        tokenizer, model = _fresh(name, spec)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tokens = round(spec.epochs * sum(len(ids) for column in columns.values() for ids in column))
    trained = scoring.Trained(_heldout(name, read, heldout), len(training), tokens, fitting)
    card.write(folder, name, spec, trained, "torch", "transformers", "trl")
    return trained


def _fresh(name: str, spec: Transformer) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Return tokenizer and untrained reward model."""
    set_seed(SEED)  # of the new head's weights
    tokenizer, model = classifier.pretrained(
        name, spec.source, spec.revision, new_head=True, num_labels=1, dtype=torch.float32
    )
    classifier.check_length(name, spec.max_length, tokenizer, model)
    return tokenizer, model


def _order(pairs: int, epochs: float) -> list[int]:
    """Return which pair comes when: a random order for every pass."""
    generator = torch.Generator().manual_seed(SEED)
    passes = [torch.randperm(pairs, generator=generator) for _ in range(math.ceil(epochs))]
    order: list[int] = torch.cat(passes)[: max(1, round(epochs * pairs))].tolist()
    return order


@dataclass(frozen=True)
class Training:
    """What stays the same however many pairs fit into memory: the reward, its pairs in order, where to keep steps."""

    name: str
    spec: Transformer
    pairs: Dataset
    job: Job


def _fit(training: Training, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, micro: int) -> int | None:
    """Train the model from the newest checkpoint if there is one, and return the pairs per pass, at most `micro`.

    The result is None where memory did not suffice; the model is spoilt then.
    """
    name, spec, pairs = training.name, training.spec, training.pairs
    steps = -(-len(pairs) // spec.batch_size)
    course = Course(Plan(f"reward {name}", f"rewards.{name}.learning_rate", SEED, micro, steps), training.job, model)
    left = pairs.select(range(course.finished * spec.batch_size, len(pairs)))
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Tuner(
            model=model, args=_settings(spec, scratch, course.micro), train_dataset=left, processing_class=tokenizer
        )
        try:
            with allocating():
                course.run(trainer)
        except torch.OutOfMemoryError:
            return None
    return course.micro


def _ids(
    name: str, tokenizer: PreTrainedTokenizerBase, spec: Classifier, prompts: list[str], texts: list[str]
) -> list[list[int]]:
    rows, shortened, truncated = encode(name, tokenizer, spec, prompts, texts)
    scoring.check_cut(name, truncated)
    if shortened or truncated.any():
        log.warning(
            "reward %s: of %d training texts %d prompts and %d responses were cut from the left to max_length %d",
            name,
            len(texts),
            shortened,
            truncated.sum(),
            spec.max_length,
        )
    return [row["input_ids"] for row in rows]


def _settings(spec: Transformer, scratch: str, micro: int) -> RewardConfig:
    cuda = torch.cuda.is_available()
    return RewardConfig(
        **quiet(scratch, SEED),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=spec.batch_size // micro,
        num_train_epochs=1,  # the pairs come as often as they are read
        train_sampling_strategy="sequential",
        learning_rate=spec.learning_rate,
        max_length=None,  # cut already
        bf16=spec.dtype == "bfloat16",
        fp16=spec.dtype == "float16",
        activation_checkpointing=cuda,  # a GPU's memory is scarce; a CPU's is not
    )


def _heldout(name: str, spec: Classifier, heldout: list[Example]) -> dict[str, float]:
    scorer = classifier.load(name, spec, [], None)
    prompts = [e.prompt for e in heldout]
    chosen = scoring.score(name, scorer, prompts, [e.text for e in heldout], floor=0.0).values
    rejected = scoring.score(name, scorer, prompts, [e.rejected for e in heldout], floor=0.0).values
    return {"n": float(len(heldout)), "accuracy": float(np.mean(chosen > rejected))}


def _classifier(spec: Transformer, folder: Path) -> Classifier:
    return Classifier(
        kind="classifier",
        source=str(folder),
        template=spec.template,
        max_length=spec.max_length,
        dtype=spec.dtype,
        batch_size=spec.batch_size,
    )


def load(name: str, spec: Transformer, models: Sequence[Path], device: str | None) -> classifier.ClassifierScorer:
    """Load the trained reward `name` from the folder of `models` with that name."""
    folder = scoring.trained_folder(name, models)
    card.check(folder, name, spec)
    return classifier.load(name, _classifier(spec, folder), models, device)
