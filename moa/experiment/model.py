"""Keys of `model` and `conditioning`: the base, its fine-tuning, and how it reads prompt and preference.

The string under a key is its meaning in docs/experiment.md, and after "Source:" where its default comes from.
"""

from typing import Literal

from pydantic import Field, JsonValue, model_validator

from moa.experiment.names import Source
from moa.experiment.rewards import Seed, Strict


class Scratch(Strict):
    """A Llama-architecture model and a byte-pair tokenizer, both trained from nothing on the texts."""

    vocabulary: int = Field(1024, ge=64, le=1_000_000)
    """Tokens of the tokenizer."""
    hidden: int = Field(128, ge=8, le=16_384)
    """Width of the hidden states."""
    layers: int = Field(4, ge=1, le=256)
    """Transformer layers."""
    heads: int = Field(4, ge=1, le=1_024)
    """Attention heads per layer; must divide `hidden`."""
    feed_forward: int = Field(384, ge=8, le=131_072)
    """Width of the feed-forward layers."""
    context: int = Field(256, ge=16, le=1_000_000)
    """Most tokens of prompt and response together."""

    @model_validator(mode="after")
    def _shape(self) -> "Scratch":
        if self.hidden % (2 * self.heads):
            raise ValueError(
                f"hidden ({self.hidden}) must be a multiple of 2 * heads ({2 * self.heads}): a head's width is even"
            )
        return self


class Sft(Strict):
    """Supervised fine-tuning on the texts, by TRL's SFTTrainer."""

    epochs: float = Field(1.0, gt=0, le=10_000)
    """Passes over the texts; not read where `steps` is given."""
    steps: int | None = Field(None, ge=1, le=100_000_000)
    """Optimiser steps, in place of `epochs`."""
    batch_size: int = Field(64, ge=1, le=1_000_000)
    """Texts per optimiser step."""
    learning_rate: float = Field(1.4e-4, gt=0, le=100)
    """Learning rate, which falls to 0. Source: Rewards-in-Context, 3.3."""
    warmup: float = Field(0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    max_length: int = Field(256, ge=8, le=1_000_000)
    """Tokens at which a text is cut; a cut text does not teach to end."""
    completion_only: bool = True
    """Whether the loss is of responses alone; false learns prompts too, as a model from scratch must.
    Source: Rewards-in-Context, 3.3."""
    lora: bool = False
    """Whether an adapter (`model.lora`) is trained and merged, in place of all weights."""
    seed: Seed = 0
    """Order of the texts, and first weights of a model from scratch."""


class Lora(Strict):
    """The low-rank adapter that every policy trains."""

    rank: int = Field(64, ge=1, le=16_384)
    """Rank. Source: PAMA, 2.6."""
    alpha: int = Field(128, ge=1, le=1_000_000)
    """Scale: the product is multiplied by alpha / rank. Source: PAMA, 2.6."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """Dropout in fine-tuning with `sft.lora`; a policy that dropped out would differ from the one that sampled.
    Source: PAMA, 2.6."""
    targets: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get an adapter."""


class Model(Strict):
    """The base language model, which is the reference policy."""

    source: Source
    """`scratch`, a hub id, or a local folder."""
    revision: str | None = None
    """Commit, branch or tag of a hub model; null is main. models.lock.yaml keeps the commit that it was."""
    scratch: Scratch | None = None
    """The model to train from nothing; goes with `source: scratch`."""
    sft: Sft | None = None
    """Fine-tuning of the base; null takes the model as it is."""
    lora: Lora = Lora()
    """The adapter of the policies."""
    quantisation: Literal["none", "nf4", "int8"] = "none"
    """Bits of the base's weights; `nf4` and `int8` save memory; on a CPU they cost time."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the base; `float16` needs a GPU."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass: less memory, more time."""

    @model_validator(mode="after")
    def _scratch(self) -> "Model":
        if (self.source == "scratch") != (self.scratch is not None):
            raise ValueError("`source: scratch` and a `scratch:` section go together")
        if self.source == "scratch" and self.sft is None:
            raise ValueError("a model from scratch needs an `sft:` section")
        return self


class WarmStart(Strict):
    """Conditional warm start: some texts' prompts carry the preference that the texts' own rewards imply."""

    share: float = Field(0.5, gt=0, lt=1)
    """Share of the fine-tuning examples that carry a preference."""
    keep: float = Field(0.5, gt=0, le=1)
    """Share of the texts that may: those with the largest utility under their own preference."""
    sharpness: float = Field(1.0, gt=0)
    """Power of the rewards' quantiles; above 1 it spreads the preferences towards the corners."""


class Conditioning(Strict):
    """How prompt and preference become the text that the policy reads."""

    template: str = "{preference} {prompt}"
    """Text of conditioned methods; {preference} and {prompt} stand in it once each."""
    plain: str = "{prompt}"
    """Text of methods without a preference in the prompt."""
    format: Literal["digits", "bars", "tags"] = "digits"
    """How weights are told: `digits` 'a 0.75 b 0.25', `bars` a mark per tenth, which small models read best, or `tags`
    '<a=75> <b=25>'."""
    chat: bool = False
    """Whether the tokenizer's chat template is applied."""
    chat_template_kwargs: dict[str, JsonValue] = {}
    """Switches of the chat template, as `{enable_thinking: false}`; one that asks for the date gets 26 July 2024."""
    role: Literal["system", "user"] = "user"
    """Who states the preference in a chat; `system` needs no template."""
    warm_start: WarmStart | None = None
    """Warm start of the base; null fine-tunes on plain prompts alone, and leaves reading preferences to training."""

    @model_validator(mode="after")
    def _fields(self) -> "Conditioning":
        for name, text, needed in (
            ("template", self.template, ("{preference}", "{prompt}")),
            ("plain", self.plain, ("{prompt}",)),
        ):
            for part in needed:
                if text.count(part) != 1:
                    raise ValueError(f"{name} must hold {part} exactly once, got {text!r}")
        if self.chat_template_kwargs and not self.chat:
            raise ValueError("chat_template_kwargs go with chat: true")
        for name in ("messages", "tools", "documents", "add_generation_prompt", "strftime_now"):
            if name in self.chat_template_kwargs:
                raise ValueError(f"chat_template_kwargs: '{name}' is not to be set; it comes from moa")
        return self
