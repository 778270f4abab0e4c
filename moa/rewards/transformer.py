"""A transformer reward trained here, on pairs, labels or numbers.

Pairs: TRL's RewardTrainer (Bradley-Terry loss). Labels: cross-entropy of the logistic function of the logit. Numbers:
squared distance of the logit to the number, in standard deviations from the mean of the training rows.

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
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, set_seed
from trl import RewardConfig, RewardTrainer

from moa.errors import MoaError
from moa.experiment.rewards import Classifier, Transformer
from moa.job.memory import allocating, release, smaller
from moa.job.process import Job
from moa.lm.precision import number_format
from moa.lm.training import Continued, Course, Plan, quiet
from moa.rewards import card, classifier, scoring
from moa.rewards.heldout import metrics
from moa.rewards.labelled import Example, examples
from moa.rewards.reading import encode

log = logging.getLogger("moa")
SEED = 0


class Tuner(Continued, RewardTrainer):
    """TRL's RewardTrainer, which can begin in the middle."""


class Fitter(Continued, Trainer):
    """Fits one logit to the values of rows, read as they will be scored."""

    labels: bool  # the values are 0 and 1

    def compute_loss(
        self, model: PreTrainedModel, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Tensor:
        """Return the mean loss of a batch that `padded` made."""
        tokens = {key: value for key, value in inputs.items() if key not in ("values", "pad")}
        logits = classifier.forward(model, tokens, inputs["pad"])[:, 0]
        loss = functional.binary_cross_entropy_with_logits if self.labels else functional.mse_loss
        return loss(logits.float(), inputs["values"])


def train(name: str, spec: Transformer, folder: Path, job: Job) -> scoring.Trained:
    """Train on the rows and write model, tokenizer and reward.json with the held-out metrics into `folder`."""
    number_format(spec.dtype, f"rewards.{name}.dtype")
    training, heldout = examples(name, spec.data, spec.template, spec.heldout)
    tokenizer, model = _fresh(name, spec)
    if spec.data.chosen is not None and tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise MoaError(
            f"reward {name}: the tokenizer of {spec.source} has neither a pad nor an end token, so that batches cannot"
            " be padded; set pad_token in tokenizer_config.json"
        )
    columns = _columns(name, spec, tokenizer, training)
    tokens = round(spec.epochs * sum(len(ids) for key, rows in columns.items() if key != "value" for ids in rows))
    rows, micro = Dataset.from_dict(columns).select(_order(len(training), spec.epochs)), spec.batch_size
    kept = Training(name, spec, rows, job)
    while (fitting := _fit(kept, model, tokenizer, micro)) is None:
        what = "pair" if spec.data.chosen is not None else "row"
        if micro == 1:
            raise MoaError(f"reward {name}: out of memory with a single {what}; give a smaller max_length or model")
        micro = smaller(micro, spec.batch_size)
        log.warning(
            "reward %s: out of memory, starting again, or from a checkpoint, with %d %ss at a time (the batch"
            " stays %d)",
            name,
            micro,
            what,
            spec.batch_size,
        )
        del model  # before there is another
        release()
        tokenizer, model = _fresh(name, spec)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    trained = scoring.Trained(_heldout(name, spec, folder, heldout), len(training), tokens, fitting)
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


def _columns(
    name: str, spec: Transformer, tokenizer: PreTrainedTokenizerBase, training: list[Example]
) -> dict[str, list[Any]]:
    """Return what is trained on: tokens of the pairs, or tokens and the value that their logit is fitted to."""
    read, prompts = _classifier(spec, Path(spec.source)), [e.prompt for e in training]
    ids = _ids(name, tokenizer, read, prompts, [e.text for e in training])
    if spec.data.chosen is not None:
        return {
            "chosen_ids": ids,
            "rejected_ids": _ids(name, tokenizer, read, prompts, [e.rejected for e in training]),
        }
    values = np.array([e.value for e in training])
    if spec.data.target is not None:
        values = (values - values.mean()) / values.std()
    return {"input_ids": ids, "value": values.tolist()}


def _order(rows: int, epochs: float) -> list[int]:
    """Return which row comes when: a random order for every pass."""
    generator = torch.Generator().manual_seed(SEED)
    passes = [torch.randperm(rows, generator=generator) for _ in range(math.ceil(epochs))]
    order: list[int] = torch.cat(passes)[: max(1, round(epochs * rows))].tolist()
    return order


@dataclass(frozen=True)
class Training:
    """What stays the same however many rows fit into memory: the reward, its rows in order, where to keep steps."""

    name: str
    spec: Transformer
    rows: Dataset
    job: Job


def _fit(training: Training, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, micro: int) -> int | None:
    """Train the model from the newest checkpoint if there is one, and return the rows per pass, at most `micro`.

    The result is None where memory did not suffice; the model is spoilt then.
    """
    name, spec, rows = training.name, training.spec, training.rows
    steps = -(-len(rows) // spec.batch_size)
    course = Course(Plan(f"reward {name}", f"rewards.{name}.learning_rate", SEED, micro, steps), training.job, model)
    left = rows.select(range(course.finished * spec.batch_size, len(rows)))
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _trainer(spec, model, tokenizer, left, _settings(spec, scratch, course.micro))
        try:
            with allocating():
                course.run(trainer)
        except torch.OutOfMemoryError:
            return None
    return course.micro


def _trainer(
    spec: Transformer,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    settings: RewardConfig,
) -> Continued:
    if spec.data.chosen is not None:
        return Tuner(model=model, args=settings, train_dataset=rows, processing_class=tokenizer)
    own = model.config.get_text_config().pad_token_id
    trainer = Fitter(model=model, args=settings, train_dataset=rows, data_collator=lambda some: padded(some, own))
    trainer.labels = spec.data.label is not None
    return trainer


def padded(rows: list[dict[str, Any]], own: int | None) -> dict[str, Any]:
    """Return a batch of rows with `values` (B,) float32 and the id that pads it: the model's own, or one unused."""
    texts = [{"input_ids": row["input_ids"]} for row in rows]
    pad = classifier.unused(texts) if own is None else own
    batch: dict[str, Any] = classifier.collate(texts, pad, torch.device("cpu"))
    return {**batch, "values": torch.tensor([row["value"] for row in rows], dtype=torch.float32), "pad": pad}


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
        num_train_epochs=1,  # the rows come as often as they are read
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        learning_rate=spec.learning_rate,
        max_length=None,  # cut already
        bf16=spec.dtype == "bfloat16",
        fp16=spec.dtype == "float16",
        activation_checkpointing=cuda,  # a GPU's memory is scarce; a CPU's is not
    )


def _heldout(name: str, spec: Transformer, folder: Path, heldout: list[Example]) -> dict[str, float]:
    scorer = classifier.load(name, _classifier(spec, folder), [], None)
    return metrics(lambda p, texts: scoring.score(name, scorer, p, texts, floor=0.0).values, heldout, spec.data)


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
