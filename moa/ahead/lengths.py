"""Token counts of prompts and texts against what models read, by the tokenizers of local models.

The base's: every prompt, with the longest preference text, must leave room for a response. Fine-tuning's: how many
texts are cut. A reward model's: how many prompts would be.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moa.ahead.local import collecting
from moa.errors import MoaError
from moa.experiment.keys import Sft
from moa.experiment.preferences import Preference
from moa.experiment.rewards import Classifier, Transformer
from moa.lm import conditioning
from moa.lm.inspect import Stored
from moa.plan import Plan
from moa.rewards.scoring import fill
from moa.stages.prompts import Sets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST = 2000  # prompts, and texts, that are counted


@dataclass(frozen=True)
class Counting:
    """What there is to count: the plan, its prompts and texts, and the local models by the key that names them."""

    plan: Plan
    sets: Sets
    stored: dict[str, Stored]

    @property
    def prompts(self) -> list[str]:
        """The longest prompts in characters: the longest in tokens is most likely among them."""
        return sorted([*self.sets.train, *self.sets.evaluation], key=len, reverse=True)[:MOST]


def count(counting: Counting, mistakes: list[str]) -> list[str]:
    """Return a line on every length that was counted; what does not fit is added to `mistakes`."""
    said: list[str] = []
    stored = counting.stored.get("model.source")
    if stored is not None:
        with collecting(mistakes):
            said += base(counting, stored)
    for name, spec in counting.plan.scoring(judges=True).rewards.items():
        model = counting.stored.get(f"rewards.{name}.source")
        if model is not None and isinstance(spec, Classifier | Transformer):
            with collecting(mistakes):
                said.append(reward(counting, name, spec, model))
    return said


def base(counting: Counting, stored: Stored) -> list[str]:
    """Count prompts and texts by the base's tokenizer.

    Raises:
        MoaError: the tokenizer is unfit, a prompt leaves no room for a response, or no text is short enough to learn
            from.
    """
    from moa.lm.models import load_tokenizer  # loads torch

    tokenizer = load_tokenizer(stored.folder)
    sft = counting.plan.experiment.model.sft
    said = [prompts(counting, tokenizer, stored.context)]
    return said if sft is None else [*said, texts(counting, tokenizer, sft, stored.context)]


def prompts(counting: Counting, tokenizer: "PreTrainedTokenizerBase", context: int | None) -> str:
    """Return how long the longest prompt is with the longest preference; a MoaError where it leaves no room."""
    experiment = counting.plan.experiment
    read, new = counting.prompts, experiment.generation.max_new_tokens
    widest = longest_preference(counting.plan, tokenizer)
    built = [
        conditioning.build(prompt, widest, list(experiment.objectives), experiment.conditioning, tokenizer)
        for prompt in read
    ]
    lengths = [len(row) for row in conditioning.token_rows(built, tokenizer)]
    most = max(lengths)
    whose = "with its longest preference" if widest else "as the model reads it"
    if context is not None and most + new > context:
        long = sum(length + new > context for length in lengths)
        raise MoaError(
            f"data: {long} of {len(read)} prompts are too long, first {read[lengths.index(most)][:60]!r} with"
            f" {most} tokens {whose}: with generation.max_new_tokens ({new}) that is more than the model's context of"
            f" {context}; lower data.prompt_characters or generation.max_new_tokens"
        )
    room = "" if context is None else f", of a context of {context}"
    return f"prompts: the longest has {most} tokens {whose}, and {new} new ones follow{room} ({len(read)} looked at)"


def longest_preference(plan: Plan, tokenizer: "PreTrainedTokenizerBase") -> Preference | None:
    """Return the preference whose text has the most tokens; None where no row reads any."""
    experiment = plan.experiment
    if not any(method.conditioned for method in plan.rows.values()):
        return None
    names, form = list(experiment.objectives), experiment.conditioning.format
    every = [*experiment.training_preferences(), *plan.evaluation]
    shown = [conditioning.preference_text(p, names, form) for p in every]
    lengths = [len(row) for row in conditioning.token_rows(shown, tokenizer)]
    return every[lengths.index(max(lengths))]


def texts(counting: Counting, tokenizer: "PreTrainedTokenizerBase", sft: Sft, context: int | None) -> str:
    """Return the share of texts that fine-tuning cuts; a MoaError where every prompt fills the whole length."""
    experiment, some = counting.plan.experiment, counting.sets.texts[:MOST]
    limit = sft.max_length if context is None else min(sft.max_length, context)
    built = [conditioning.build(t.prompt, None, [], experiment.conditioning, tokenizer) for t in some]
    rows = conditioning.continuation_rows(built, [t.response for t in some], tokenizer)
    if all(len(prompt) >= limit for prompt, _ in rows):
        raise MoaError(
            f"model.sft.max_length: every one of {len(some)} prompts fills the {limit} tokens that fine-tuning reads;"
            " raise it, or lower data.prompt_characters"
        )
    cut = sum(len(prompt) + len(response) + 1 > limit for prompt, response in rows)
    return (
        f"texts: {cut / len(some):.0%} are longer than the {limit} tokens that fine-tuning reads (model.sft.max_length,"
        f" {len(some)} looked at)"
    )


def reward(counting: Counting, name: str, spec: Classifier | Transformer, stored: Stored) -> str:
    """Return the share of prompts that a reward model reads cut, if a response takes all its new tokens."""
    from moa.lm.loading import tokenizer as load  # loads torch

    tokenizer = load(stored.folder, None, f"reward {name}", classifier=True)
    read, new = counting.prompts, counting.plan.experiment.generation.max_new_tokens
    templates = [spec.template, *([spec.pair] if isinstance(spec, Classifier) and spec.pair is not None else [])]
    filled = [" ".join(fill(template, prompt, "") for template in templates) for prompt in read]
    lengths = [len(ids) for ids in tokenizer(filled, verbose=False)["input_ids"]]
    if spec.max_length <= min(lengths) and not any("{prompt}" in template for template in templates):
        raise MoaError(f"rewards.{name}.max_length: the template alone fills {spec.max_length} tokens; raise it")
    over = sum(length + new > spec.max_length for length in lengths)
    return (
        f"reward {name}: {over / len(read):.0%} of prompts with {new} new tokens are longer than its max_length of"
        f" {spec.max_length} ({len(read)} looked at, the longest has {max(lengths)} tokens)"
    )
