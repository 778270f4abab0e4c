"""How a row of the benchmark answers a preference: which adapters are on, and what the prompt shows.

- policy: one policy; a conditioned one reads the preference in its prompt; without an adapter it is the base itself.
- nearest: the policy whose training weights are nearest to the preference.
- soup: the exact average of the policies' products, W + sum_k p_k s_k B_k A_k (Rewarded Soups).
- mixture: the normalised product of the policies' next-token distributions, prod_k pi_k^p_k (MOD).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moa.errors import MoaError, NotFinite
from moa.experiment.keys import Conditioning, Model
from moa.experiment.preferences import Preference
from moa.job.memory import allocating
from moa.lm import conditioning, models
from moa.lm.adapters import PeftModel
from moa.lm.cards import Card, check_base, nearest, read_card
from moa.lm.generation import Decoding, Rollout, Sampler
from moa.lm.merged import Merged, mergeable
from moa.lm.mixture import Mixture
from moa.lm.reader import PolicyReader, Reader

log = logging.getLogger("moa")
Way = Literal["policy", "nearest", "soup", "mixture"]
SOUP = "soup"  # the adapter that holds a soup


@dataclass(frozen=True)
class Response:
    """One response; `tokens` leaves out the end token, `finished` says whether there was one."""

    text: str
    tokens: int
    finished: bool


@dataclass(frozen=True)
class Base:
    """The language model under a row's policies.

    Attributes:
        source: folder or hub id.
        model: how it is loaded.
        revision: commit of a hub id.
        name: its own, where there is no policy.
    """

    source: str | Path
    model: Model
    revision: str | None = None
    name: str = "reference"


@dataclass(frozen=True)
class Prompting:
    """How a prompt becomes the text that a policy reads; only a conditioned one reads the preference."""

    objectives: list[str]
    conditioning: Conditioning
    conditioned: bool = False

    def text(self, prompt: str, preference: Preference | None, tokenizer: PreTrainedTokenizerBase) -> str:
        shown = preference if self.conditioned else None
        return conditioning.build(prompt, shown, self.objectives, self.conditioning, tokenizer)


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn: what each draws depends on `seed` and its place among the questions alone."""

    decoding: Decoding
    batch_size: int
    seed: str


@dataclass
class Answerer:
    """A row's policies on one base, ready for any preference.

    Attributes:
        name: the base's own, where there is no policy.
        source: its folders, for messages.
        mixed: what a mixture mixes, adapter -> weight; empty for the other ways.
        batch: the fewest responses at a time that `respond` had to go down to; None before its first call.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    context: int
    way: Way
    cards: list[Card]
    prompting: Prompting
    name: str = "reference"
    source: str = "the model"
    mixed: dict[str, float] = field(default_factory=dict)
    batch: int | None = None

    def switch(self, preference: Preference | None) -> str:
        """Turn on what answers this preference; return its name for the table."""
        if not isinstance(self.model, PeftModel):
            return self.name
        if self.way == "policy":  # the only adapter, which is on
            return self.cards[0].name
        if self.way == "soup":
            return self._mix(_given(preference, "a soup"))
        if self.way == "mixture":
            self.mixed = self._parts(_given(preference, "a mixture"))
            return self._names(self.mixed)
        chosen = nearest(_given(preference, "the nearest policy"), self.cards)
        self.model.set_adapter(adapter(chosen))
        return self.cards[chosen].name

    def draw(self, texts: Sequence[str], decoding: Decoding, keys: Sequence[str]) -> Rollout:
        """Sample one response per built prompt from what `switch` turned on; `keys` as `Sampler.draw` has them."""
        try:
            return Sampler(self.tokenizer, decoding, self.context).draw(self._reader(), texts, keys)
        except NotFinite as error:
            raise NotFinite(f"{self.source}: {error}") from error

    def _reader(self) -> Reader:
        if self.mixed:
            assert isinstance(self.model, PeftModel), "a mixture has adapters"
            return Mixture(self.model, self.mixed)
        return PolicyReader(self.model if self._merged is None else self._merged.refresh())

    @cached_property
    def _merged(self) -> Merged | None:
        return Merged(self.model) if isinstance(self.model, PeftModel) and mergeable(self.model) else None

    def _parts(self, preference: Preference) -> dict[str, float]:
        """Return the adapters that have a share, and their shares."""
        return {adapter(i): w for i, w in enumerate(self.shares(preference)) if w > 0}

    def _names(self, parts: Mapping[str, float]) -> str:
        return " + ".join(f"{w:.4g} {self.cards[int(a.removeprefix('policy'))].name}" for a, w in parts.items())

    def _mix(self, preference: Preference) -> str:
        """Replace the soup by that of another preference."""
        assert isinstance(self.model, PeftModel), "a soup has adapters"
        parts = self._parts(preference)
        if SOUP in self.model.peft_config:
            self.model.set_adapter(adapter(0))
            self.model.delete_adapter(SOUP)
        self.model.add_weighted_adapter(list(parts), list(parts.values()), SOUP, combination_type="cat")
        for name, parameter in self.model.named_parameters():
            # On a bfloat16 base PEFT rounds the soup; its ingredients are float32.
            if SOUP in name:
                parameter.data = parameter.data.float()
        self.model.set_adapter(SOUP)
        return self._names(parts)

    def shares(self, preference: Preference) -> list[float]:
        """Return each policy's share of a soup or a mixture: the weight of the objective that it was trained on."""
        by_corner = {card.weights: i for i, card in enumerate(self.cards)}
        found = [0.0] * len(self.cards)
        for k, weight in enumerate(preference):
            corner = tuple(float(i == k) for i in range(len(preference)))
            if corner not in by_corner:
                missing = self.prompting.objectives[k]
                raise MoaError(
                    f"{self.way}: no policy was trained on objective '{missing}' alone; give one per objective"
                )
            found[by_corner[corner]] = weight
        return found

    def texts(self, prompts: Sequence[str], preference: Preference | None) -> list[str]:
        """Return the prompts as the policy reads them."""
        targets = self.cards[0].targets if self.cards else None
        asked = self.prompting
        if targets is not None and preference is not None and asked.conditioned:
            shown = targets.text(preference, asked.objectives)
            return [conditioning.place(p, shown, asked.conditioning, self.tokenizer) for p in prompts]
        return [asked.text(p, preference, self.tokenizer) for p in prompts]


def _given(preference: Preference | None, what: str) -> Preference:
    if preference is None:
        raise MoaError(f"{what} needs a preference; give one weight per objective")
    return preference


def adapter(index: int) -> str:
    """Return the name under which PEFT knows a policy (its own names allow no dot, ours have some)."""
    return f"policy{index}"


def load(base: Base, folders: Sequence[Path], way: Way, prompting: Prompting) -> Answerer:
    """Load the base once with every policy's adapter on it, none merged.

    Raises:
        MoaError: base or adapter cannot be loaded, or do not belong together.
    """
    cards = [read_card(f) for f in folders]
    check_base(Path(base.source), folders, cards)
    tokenizer = models.load_tokenizer(base.source, base.revision)
    loaded: PreTrainedModel | PeftModel = models.load_base(base.source, base.model, revision=base.revision)
    context = models.context_length(loaded)
    if folders:
        rows = len(loaded.get_input_embeddings().weight)
        loaded = models.load_adapters(loaded, {adapter(i): f for i, f in enumerate(folders)})
        tokenizer = models.own_tokenizer(loaded, folders[0], rows) or tokenizer
    where = ", ".join(str(f) for f in folders) or str(base.source)
    return Answerer(loaded, tokenizer, context, way, cards, prompting, base.name, where)


def respond(
    answerer: Answerer, texts: Sequence[str], sampling: Sampling, progress: Callable[[int], None] | None = None
) -> list[Response]:
    """Answer built prompts in their order; `switch` first.

    Prompts of similar length share a batch. Out of memory, the batch is halved, and the answerer remembers it.
    `progress` hears of newly answered prompts, of each once.

    Raises:
        MoaError: not even one response at a time fits into memory.
    """
    told, batch = 0, sampling.batch_size

    def tell(done: int) -> None:
        """Pass on what is more than any attempt had answered before: one that runs out of memory starts again."""
        nonlocal told
        if progress is not None and done > told:
            progress(done - told)
        told = max(told, done)

    while True:
        try:
            with allocating():
                found = _respond(answerer, texts, replace(sampling, batch_size=batch), tell)
            answerer.batch = min(batch, answerer.batch or batch)
            return found
        except torch.OutOfMemoryError:
            if batch == 1:
                raise MoaError(
                    "generation: one response at a time does not fit into the GPU's memory; lower"
                    " generation.max_new_tokens, or set model.quantisation: nf4"
                ) from None
            batch //= 2
            log.warning("out of memory: %d responses at a time", batch)
        torch.cuda.empty_cache()


def _respond(
    answerer: Answerer, texts: Sequence[str], sampling: Sampling, tell: Callable[[int], None]
) -> list[Response]:
    """Answer once; `tell` hears after every batch how many are done."""
    lengths = [len(row) for row in conditioning.token_rows(texts, answerer.tokenizer)]
    order = sorted(range(len(texts)), key=lambda i: (lengths[i], texts[i]))  # equal prompts are read once
    found: dict[int, Response] = {}
    for start in range(0, len(order), sampling.batch_size):
        rows = order[start : start + sampling.batch_size]
        rollout = answerer.draw([texts[i] for i in rows], sampling.decoding, [f"{sampling.seed} {i}" for i in rows])
        lengths_drawn = (rollout.response_mask.sum(1).long() - rollout.finished.long()).tolist()
        for i, text, tokens, finished in zip(
            rows, rollout.texts, lengths_drawn, rollout.finished.tolist(), strict=True
        ):
            found[i] = Response(text, tokens, finished)
        tell(len(found))
    return [found[i] for i in range(len(texts))]
