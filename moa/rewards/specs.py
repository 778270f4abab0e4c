"""Declared rewards: everything that decides a score stands in the spec, nothing is inferred from a name.

Each kind's scorer is `moa/rewards/<kind>.py`. Scores are float32, unrounded, higher is better.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """A section of the config: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Vader(Strict):
    """VADER's compound sentiment of the response (Hutto and Gilbert 2014), in [-1, 1]."""

    kind: Literal["vader"]


class Length(Strict):
    """PAMA's length reward: clip(length / unit_length, low, high) (arXiv 2508.07768, section 6)."""

    kind: Literal["length"]
    unit: Literal["characters", "tokens"] = "characters"
    divisor: float = Field(140.0, gt=0)
    low: float = 70 / 140
    high: float = 210 / 140


class Conciseness(Strict):
    """1 for responses up to `full` units long, falling linearly to 0 at `zero` units; 0 for a blank response."""

    kind: Literal["conciseness"]
    unit: Literal["characters", "tokens"] = "characters"
    full: float = Field(20.0, ge=0)
    zero: float = Field(200.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> "Conciseness":
        if self.zero <= self.full:
            raise ValueError(f"zero ({self.zero:g}) must be above full ({self.full:g})")
        return self


class Readability(Strict):
    """Grade-level ease, mapped to [0, 1]: 1 at grade `easy` or below, 0 at grade `hard` or above."""

    kind: Literal["readability"]
    formula: Literal["ari", "coleman_liau"] = "ari"
    easy: float = 0.0
    hard: float = 14.0


class Classifier(Strict):
    """A Hugging Face sequence classifier with its own tokenizer.

    `template` builds the first text and `pair` the optional second one from {prompt} and {response}.
    """

    kind: Literal["classifier"]
    source: str
    revision: str | None = None
    template: str = "{response}"
    pair: str | None = None
    logit: int = Field(0, ge=0)
    minus_logit: int | None = Field(None, ge=0)
    sign: Literal[1, -1] = 1
    max_length: int = Field(512, ge=4)
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_size: int = Field(32, ge=1)


class Labelled(Strict):
    """Labelled rows to train a reward on: `positive` is the value(s) of `label` that count as 1; or a numeric `target`."""

    source: str
    revision: str | None = None
    subset: str | None = None
    split: str = "train"
    text: str = "text"
    prompt: str | None = None
    label: str | None = None
    positive: list[int | str] = [1]
    target: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    rows: int | None = Field(None, ge=10)

    @model_validator(mode="after")
    def _one_supervision(self) -> "Labelled":
        given = [self.label is not None, self.target is not None, self.chosen is not None or self.rejected is not None]
        if sum(given) != 1:
            raise ValueError("give exactly one of: label; target; chosen with rejected")
        if (self.chosen is None) != (self.rejected is None):
            raise ValueError("chosen and rejected go together")
        return self


class Linear(Strict):
    """A linear model over hashed word and character n-grams, trained here (logistic, ridge, or Bradley-Terry on pairs).

    The score is the logit (or the regression value). Stored as safetensors.
    """

    kind: Literal["linear"]
    data: Labelled
    template: str = "{response}"
    features: int = Field(2**18, ge=2**8)
    regularisation: float = Field(1.0, gt=0)
    heldout: float = Field(0.1, gt=0, lt=1)


class Transformer(Strict):
    """A transformer reward trained here: TRL's RewardTrainer on preference pairs, from `model` (hub id or local folder)."""

    kind: Literal["transformer"]
    data: Labelled
    source: str
    revision: str | None = None
    template: str = "{prompt}{response}"
    max_length: int = Field(512, ge=4)
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_size: int = Field(16, ge=1)
    epochs: float = Field(1.0, gt=0)
    learning_rate: float = Field(1e-4, gt=0)
    heldout: float = Field(0.1, gt=0, lt=1)


class Python(Strict):
    """The user's own reward: `function(prompts: list[str], responses: list[str]) -> list[float]`, named package.module:function."""

    kind: Literal["python"]
    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    low: float | None = None
    high: float | None = None


Reward = Annotated[
    Vader | Length | Conciseness | Readability | Classifier | Linear | Transformer | Python,
    Field(discriminator="kind"),
]
TRAINED = ("linear", "transformer")
