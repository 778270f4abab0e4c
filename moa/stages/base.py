"""Stage base: the language model that policies start from, trained from scratch, fine-tuned, or taken as it is."""

import argparse
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moa.errors import MoaError
from moa.experiment.keys import Model, Sft
from moa.experiment.preferences import Preference, lattice
from moa.experiment.schema import BaseSection
from moa.job import command
from moa.job.memory import allocating, release, smaller
from moa.job.process import Job, keeping
from moa.lm import checkpoint, conditioning, models, precision, scratch, sft, warm_start
from moa.lm.adapters import PeftModel
from moa.store import files, inputs
from moa.store.provenance import file_hash
from moa.store.tables import Row

log = logging.getLogger("moa")
VOCABULARY_DIVISIONS = 20  # preferences shown to a new tokenizer


@dataclass(frozen=True)
class Lesson:
    """One text to train on; with a preference, its prompt will carry it."""

    prompt: str
    response: str
    preference: Preference | None = None


def choose(section: BaseSection, rows: Sequence[Row], scores: Path | None) -> list[Lesson]:
    """Return one epoch of texts; with a warm start, its share of them is conditioned and the others are plain."""
    warm = section.conditioning.warm_start
    plain = [Lesson(r["prompt"], r["response"]) for r in rows]
    if warm is None or section.model.sft is None:
        return plain
    if scores is None:
        raise MoaError("conditioning.warm_start needs the texts' rewards: give --scores (rule score_texts makes them)")
    seed, count = section.model.sft.seed, max(1, round(warm.share * len(rows)))
    rewards = inputs.text_rewards(scores, [r["text_id"] for r in rows], section.objectives)
    drawn = warm_start.draw(rewards, warm, count, seed)
    log.info("warm start: %d conditioned examples; first objective's weight %s", count, histogram(drawn.preferences))
    others = np.random.default_rng(seed + 1).permutation(len(rows))[: len(rows) - count]
    conditioned = [
        Lesson(plain[i].prompt, plain[i].response, tuple(p))
        for i, p in zip(drawn.texts.tolist(), drawn.preferences.tolist(), strict=True)
    ]
    return conditioned + [plain[i] for i in others.tolist()]


def histogram(preferences: warm_start.Array) -> str:
    """Return the shares of five bins of the first objective's weight, for the log."""
    counts, edges = np.histogram(preferences[:, 0], 5, (0, 1))
    return ", ".join(
        f"{low:.1f}..{low + 0.2:.1f}: {c / len(preferences):.0%}" for low, c in zip(edges, counts, strict=False)
    )


def prompts_of(lessons: Sequence[Lesson], section: BaseSection, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [
        conditioning.build(t.prompt, t.preference, section.objectives, section.conditioning, tokenizer) for t in lessons
    ]


def vocabulary_texts(lessons: Sequence[Lesson], section: BaseSection) -> list[str]:
    """Return what a new tokenizer should learn to read: the texts, and how preferences are written."""
    points = lattice(len(section.objectives), VOCABULARY_DIVISIONS)
    conditioned = []
    # One in ten texts carries a preference, so that the objectives' names become tokens, warm start or not.
    for i, text in enumerate(lessons[::10]):
        shown = conditioning.preference_text(points[i % len(points)], section.objectives, section.conditioning.format)
        conditioned.append(
            section.conditioning.template.replace("{preference}", shown).replace("{prompt}", text.prompt)
        )
    return [section.conditioning.plain.replace("{prompt}", t.prompt) + t.response for t in lessons] + conditioned


def start(
    section: BaseSection, lessons: Sequence[Lesson], spec: Sft
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return model and tokenizer to train.

    They are new ones, or those of `model.source` in the precision that training needs.
    """
    model = section.model
    if model.scratch is not None:
        made = scratch.train_tokenizer(vocabulary_texts(lessons, section), model.scratch)
        return scratch.new_model(model.scratch, made, spec.seed).to(models.device()), made
    tokenizer = models.load_tokenizer(model.source, model.revision)
    # bfloat16 weights would lose small updates; an adapter's own weights are float32 anyway.
    precise = model if spec.lora else model.model_copy(update={"dtype": "float32"})
    return models.load_base(model.source, precise, revision=model.revision, quantise=spec.lora), tokenizer


def train(
    section: BaseSection, lessons: Sequence[Lesson], spec: Sft, job: Job
) -> tuple[sft.Trained, PreTrainedTokenizerBase]:
    """Fine-tune; where memory runs out, try again with smaller micro-batches and the same batch.

    A new attempt starts again, or from a checkpoint.
    """
    micro = checkpoint.micro_batch(job.folder, sft.micro_batch(spec.batch_size))
    while True:
        model, tokenizer = start(section, lessons, spec)
        limit = min(spec.max_length, models.context_length(model))
        texts = list(map(sft.Text, prompts_of(lessons, section, tokenizer), [t.response for t in lessons]))
        examples = sft.make_examples(texts, tokenizer, limit, spec.completion_only)
        try:
            with allocating():
                return sft.fine_tune(model, tokenizer, examples, sft.Tuning(section.model, spec, micro), job), tokenizer
        except torch.OutOfMemoryError:
            if micro == 1:
                raise MoaError(
                    "model.sft: one example at a time does not fit into the GPU's memory; lower model.sft.max_length,"
                    " set lora: true or quantisation: nf4"
                ) from None
            micro = smaller(micro, spec.batch_size)
            log.warning(
                "out of memory: starting again with %d examples at a time (the batch stays %d)", micro, spec.batch_size
            )
        del model
        release()


def merged(section: BaseSection, model: PeftModel) -> PreTrainedModel:
    """Return the base in its own precision with the adapter's product added.

    A quantised base is loaded anew for that.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_embedding_layers=False)
        fresh = models.load_base(section.model.source, section.model, revision=section.model.revision, quantise=False)
        return models.load_adapters(fresh, {"default": Path(folder)}).merge_and_unload(safe_merge=True)


def take(model: Model, folder: Path) -> None:
    """Write the model as it is, and its tokenizer, into an existing folder."""
    stored = models.load_base(model.source, model, revision=model.revision, quantise=False, stored_dtype=True)
    stored.save_pretrained(folder, save_original_format=model.quantisation == "none")  # quantised has none
    models.load_tokenizer(model.source, model.revision).save_pretrained(folder)
    log.info("model.sft is null: %s is taken as it is", model.source)


def make(section: BaseSection, lessons: Sequence[Lesson], spec: Sft, folder: Path, job: Job) -> sft.Trained:
    """Fine-tune, and write model, tokenizer and sft.json into an existing folder."""
    model = section.model
    trained, tokenizer = train(section, lessons, spec, job)
    done = (
        merged(section, trained.model)
        if isinstance(trained.model, PeftModel)
        else trained.model.to(precision.number_format(model.dtype, "model.dtype"))
    )
    done.config.use_cache = True  # training switched it off
    done.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = {
        "texts": len(lessons),
        "conditioned": sum(t.preference is not None for t in lessons),
        "steps": trained.steps,
        "tokens": trained.tokens,
        "loss": trained.loss,
        "micro_batch_size": trained.micro_batch_size,
    }
    (folder / "sft.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return trained


def main(args: argparse.Namespace) -> None:
    """Make the base and write table COSTS."""
    section = BaseSection.model_validate_json(args.section)
    precision.number_format(section.model.dtype, "model.dtype")  # before a training whose result could not be used
    cost = command.Cost(section.task, "base")
    read = [file_hash(path) for path in (args.texts, args.scores) if path]
    with keeping(args.checkpoints, "base", args.section, args.depends, *read) as job:
        with files.folder(args.model) as folder:
            spec = section.model.sft
            if spec is None:
                take(section.model, folder)
            else:
                lessons = choose(section, inputs.texts(args.texts), args.scores)
                cost.tokens, cost.models = make(section, lessons, spec, folder, job).tokens, 1
                cost.resume(job.watch)
        cost.write(args.costs)


if __name__ == "__main__":
    command.run(main, command.parser(__doc__, "texts", "scores?", "checkpoints", "model", "costs", depends=str))
