"""Token counts of prompts and texts against what models read, by the tokenizers of local models.

The base's: every prompt, with the longest preference text, must leave room for a response. Fine-tuning's: how many
texts are cut. A reward model's: how many texts and prompts are.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moa.ahead.local import collecting
from moa.errors import MoaError
from moa.experiment.keys import Sft
from moa.experiment.preferences import Preference
from moa.experiment.rewards import Classifier, Transformer
from moa.lm import conditioning
from moa.lm.inspect import UNBOUNDED, Stored
from moa.plan import Plan
from moa.rewards.scoring import check_cut, fill
from moa.stages.prompts import Sets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST = 2000  # prompts, and texts, that are counted
MOST_READ = 500  # texts that a reward model's tokenizer reads one by one


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
    context = stored.context or UNBOUNDED
    said = [prompts(counting, tokenizer, context)]
    return said if sft is None else [*said, texts(counting, tokenizer, sft, context)]


def prompts(counting: Counting, tokenizer: "PreTrainedTokenizerBase", context: int) -> str:
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
    if most + new > context:
        long = sum(length + new > context for length in lengths)
        raise MoaError(
            f"data: {long} of {len(read)} prompts are too long, first {read[lengths.index(most)][:60]!r} with"
            f" {most} tokens {whose}: with generation.max_new_tokens ({new}) that is more than the model's context of"
            f" {context}; lower data.prompt_characters or generation.max_new_tokens"
        )
    return (
        f"prompts: the longest has {most} tokens {whose}, and {new} new ones follow, of a context of {context}"
        f" ({len(read)} looked at)"
    )


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


def texts(counting: Counting, tokenizer: "PreTrainedTokenizerBase", sft: Sft, context: int) -> str:
    """Return the share of texts that fine-tuning cuts; a MoaError where every prompt fills the whole length."""
    experiment, some = counting.plan.experiment, counting.sets.texts[:MOST]
    limit = min(sft.max_length, context)
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
    """Return how many texts a reward model reads cut, and the share of prompts that a response would shorten.

    Raises:
        MoaError: the tokenizer is unfit, the template leaves no room for a response, or texts that the run scores are
            cut so often that its job would refuse.
    """
    from moa.lm import loading  # loads torch
    from moa.rewards.reading import check_covers, encode

    origin = loading.Origin(stored.folder, None, f"rewards.{name}.source: cannot be read", f"rewards.{name}.source")
    tokenizer = loading.tokenizer(origin, classifier=isinstance(spec, Classifier))
    check_covers(name, tokenizer, stored.vocabulary)
    pair = spec.pair if isinstance(spec, Classifier) else None
    keys = {"template": spec.template, "pair": pair, "max_length": spec.max_length}
    reads = Classifier(kind="classifier", source=spec.source, **keys)
    some, new = counting.sets.texts[:MOST_READ], counting.plan.experiment.generation.max_new_tokens
    found = encode(name, tokenizer, reads, [t.prompt for t in some], [t.response for t in some])
    if scores_texts(counting.plan, name):
        check_cut(name, found.truncated)
    read = counting.prompts
    filled = [" ".join(fill(t, prompt, "") for t in (spec.template, pair) if t is not None) for prompt in read]
    over = sum(len(ids) + new > spec.max_length for ids in tokenizer(filled, verbose=False)["input_ids"])
    return (
        f"reward {name} reads {spec.max_length} tokens: of {len(some)} texts {found.shortened} lose the beginning of"
        f" their prompt and {found.truncated.sum()} that of their response; {over / len(read):.0%} of {len(read)}"
        f" prompts would, before {new} new tokens"
    )


def scores_texts(plan: Plan, name: str) -> bool:
    """Return whether the run scores its texts with a reward: for the warm start, or for a trainer that reads them."""
    warm = plan.experiment.conditioning.warm_start is not None and plan.experiment.model.sft is not None
    reads = warm or any(method.reads_texts for method in plan.rows.values())
    return reads and name in plan.scoring(judges=False).rewards
