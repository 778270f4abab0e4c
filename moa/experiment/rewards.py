"""Declared rewards: everything that decides a score stands in the spec, nothing is inferred from a name.

Each kind's scorer is `moa/rewards/<kind>.py`. Scores are float32, unrounded, higher is better.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """A section of the config: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def _holds_response(*templates: str | None) -> None:
    """Raise where no template holds {response}: every response would get the same score."""
    if not any("{response}" in template for template in templates if template is not None):
        raise ValueError(
            f"a template must hold {{response}}, got {' and '.join(repr(t) for t in templates if t is not None)}"
        )


class Vader(Strict):
    """VADER's compound sentiment of the response (Hutto and Gilbert 2014), in [-1, 1]."""

    kind: Literal["vader"]


class Length(Strict):
    """PAMA's length reward: clip(length / divisor, low, high) (arXiv 2508.07768, section 6).

    Units: moa/rewards/length.py.
    """

    kind: Literal["length"]
    unit: Literal["characters", "tokens"] = "characters"
    divisor: float = Field(140.0, gt=0)
    low: float = 70 / 140
    high: float = 210 / 140

    @model_validator(mode="after")
    def _ordered(self) -> "Length":
        if self.high <= self.low:
            raise ValueError(f"high ({self.high:g}) must be above low ({self.low:g})")
        return self


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

    @model_validator(mode="after")
    def _ordered(self) -> "Readability":
        if self.hard <= self.easy:
            raise ValueError(f"hard ({self.hard:g}) must be above easy ({self.easy:g})")
        return self


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

    @model_validator(mode="after")
    def _template(self) -> "Classifier":
        _holds_response(self.template, self.pair)
        return self


class Labelled(Strict):
    """Rows to train a reward on: `positive` is the value(s) of `label` that count as 1; or a numeric `target`.

    Or preference pairs.

    `text`, or `chosen` and `rejected`, take the place of {response} in the reward's template, `prompt` that of
    {prompt}; without a `prompt` column {prompt} is empty, as for pairs of whole dialogues.
    """

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

    @model_validator(mode="after")
    def _template(self) -> "Linear":
        _holds_response(self.template)
        return self


class Transformer(Strict):
    """A transformer reward trained here.

    TRL's RewardTrainer on preference pairs, from `source` (hub id or local folder).
    """

    kind: Literal["transformer"]
    data: Labelled
    source: str
    revision: str | None = None
    template: str = "{prompt}{response}"
    max_length: int = Field(512, ge=4)
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_size: int = Field(16, ge=1)
    epochs: float = Field(1.0, gt=0)
    learning_rate: float = Field(1e-4, gt=0)  # TRL's default for RewardTrainer
    heldout: float = Field(0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _pairs(self) -> "Transformer":
        _holds_response(self.template)
        if self.data.chosen is None:
            raise ValueError(
                "kind transformer trains on preference pairs: give data.chosen and data.rejected, or use kind linear"
            )
        return self


class Python(Strict):
    """The user's own reward: `function(prompts: list[str], responses.

    List[str]) -> list[float]`, named package.module:function.
    """

    kind: Literal["python"]
    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "Python":
        if self.low is not None and self.high is not None and self.high <= self.low:
            raise ValueError(f"high ({self.high:g}) must be above low ({self.low:g})")
        return self


Reward = Annotated[
    Vader | Length | Conciseness | Readability | Classifier | Linear | Transformer | Python,
    Field(discriminator="kind"),
]
TRAINED = ("linear", "transformer")
