"""Declared rewards: everything that decides a score stands in the spec, nothing is inferred from a name.

Each kind's scorer is `moa/rewards/<kind>.py`. Scores are float32, unrounded, higher is better. The text under a key is
its meaning in docs/experiment.md.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from moa.experiment.endpoint import Endpoint as Endpoint
from moa.experiment.names import Source
from moa.experiment.strict import Limit as Limit
from moa.experiment.strict import Seed as Seed
from moa.experiment.strict import Strict as Strict
from moa.experiment.strict import holds_response


class Vader(Strict):
    """VADER's compound sentiment of the response (Hutto and Gilbert 2014), in [-1, 1]."""

    kind: Literal["vader"]


class Length(Strict):
    """PAMA's length reward: clip(length / divisor, low, high) (arXiv 2508.07768, section 6)."""

    kind: Literal["length"]
    unit: Literal["characters", "tokens"] = "characters"
    """What is counted: characters, or words and punctuation marks (`tokens`)."""
    divisor: float = Field(140.0, ge=1e-6, le=1e30)
    """Length that scores 1. Source: PAMA, 2.6."""
    low: Limit = 70 / 140
    """Least score. Source: PAMA, 2.6."""
    high: Limit = 210 / 140
    """Largest score. Source: PAMA, 2.6."""

    @model_validator(mode="after")
    def _ordered(self) -> "Length":
        if self.high <= self.low:
            raise ValueError(f"high ({self.high:g}) must be above low ({self.low:g})")
        return self


class Conciseness(Strict):
    """1 for responses up to `full` units long, falling linearly to 0 at `zero` units; 0 for a blank response."""

    kind: Literal["conciseness"]
    unit: Literal["characters", "tokens"] = "characters"
    """What is counted: characters, or words and punctuation marks (`tokens`)."""
    full: float = Field(20.0, ge=0, le=1e30)
    """Greatest length that still scores 1."""
    zero: float = Field(200.0, gt=0, le=1e30)
    """Least length that scores 0."""

    @model_validator(mode="after")
    def _ordered(self) -> "Conciseness":
        if self.zero <= self.full:
            raise ValueError(f"zero ({self.zero:g}) must be above full ({self.full:g})")
        return self


class Readability(Strict):
    """Grade-level ease, mapped to [0, 1]: 1 at grade `easy` or below, 0 at grade `hard` or above."""

    kind: Literal["readability"]
    formula: Literal["ari", "coleman_liau"] = "ari"
    """Formula of the school grade: automated readability index, or Coleman and Liau's."""
    easy: Limit = 0.0
    """Grade that scores 1."""
    hard: Limit = 14.0
    """Grade that scores 0."""

    @model_validator(mode="after")
    def _ordered(self) -> "Readability":
        if self.hard <= self.easy:
            raise ValueError(f"hard ({self.hard:g}) must be above easy ({self.easy:g})")
        return self


class Classifier(Strict):
    """A Hugging Face sequence classifier with its own tokenizer, taken as it is; the score is a raw logit."""

    kind: Literal["classifier"]
    source: Source
    """Hub id or local folder of the model."""
    revision: str | None = None
    """Commit, branch or tag of a hub model; null is main. models.lock.yaml keeps the commit that it was."""
    template: str = "{response}"
    """Text that the classifier reads, made of {prompt} and {response}."""
    pair: str | None = None
    """Second text of the pair, for classifiers that read two; made of {prompt} and {response}."""
    logit: int = Field(0, ge=0, le=1_000_000)
    """Number of the logit that is the score, counted from 0."""
    minus_logit: int | None = Field(None, ge=0, le=1_000_000)
    """Number of a logit that is subtracted, for classifiers with one per class."""
    sign: Literal[1, -1] = 1
    """-1 where less of it is better."""
    max_length: int = Field(512, ge=4, le=1_000_000)
    """Most tokens that the classifier reads; a longer text loses its prompt's beginning, then its response's, which is
    flagged in the scores."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights; `float16` needs a GPU."""
    batch_size: int = Field(32, ge=1, le=100_000)
    """Texts per forward pass; halved where memory runs out."""

    @model_validator(mode="after")
    def _template(self) -> "Classifier":
        holds_response(self.template, self.pair)
        return self


class Labelled(Strict):
    """Rows to train a reward on, with one kind of supervision: a label, a number, or pairs of responses.

    `text`, or `chosen` and `rejected`, take the place of {response} in the reward's template, `prompt` that of
    {prompt}.
    """

    source: Source
    """Hub id, or local file or folder (Parquet, JSON lines, CSV)."""
    revision: str | None = None
    """Commit, branch or tag of a hub data set; null is main. models.lock.yaml keeps the commit that it was."""
    subset: str | None = None
    """Configuration of a hub data set, or sub-folder of a local folder."""
    split: str = "train"
    """Split to train on."""
    text: str = "text"
    """Column of the texts that a label or a number belongs to; not read for pairs."""
    prompt: str | None = None
    """Column of the prompts; without it {prompt} is empty, as for pairs of whole dialogues."""
    label: str | None = None
    """Column of labels: a logistic regression."""
    positive: list[int | str] = [1]
    """Values of `label` that count as 1."""
    target: str | None = None
    """Column of numbers: a regression."""
    chosen: str | None = None
    """Column of the preferred responses: a Bradley-Terry model."""
    rejected: str | None = None
    """Column of the other responses."""
    rows: int | None = Field(None, ge=10, le=100_000_000)
    """Rows to use, drawn at random; null takes all."""
    part: tuple[float, float] = (0.0, 1.0)
    """Part of the prompts to use, by the hash of each: [0, 0.5] and [0.5, 1] are two halves in every file, so that a
    reward and its judge share no prompt."""

    @model_validator(mode="after")
    def _part(self) -> "Labelled":
        if not 0 <= self.part[0] < self.part[1] <= 1:
            raise ValueError(f"part must be two numbers that rise within 0 and 1, got {list(self.part)}")
        return self

    @model_validator(mode="after")
    def _one_supervision(self) -> "Labelled":
        given = [self.label is not None, self.target is not None, self.chosen is not None or self.rejected is not None]
        if sum(given) != 1:
            raise ValueError("give exactly one of: label; target; chosen with rejected")
        if (self.chosen is None) != (self.rejected is None):
            raise ValueError("chosen and rejected go together")
        return self


class Linear(Strict):
    """A linear model over hashed word and character n-grams, trained here; the score is its logit or its value."""

    kind: Literal["linear"]
    data: Labelled
    """What it is trained on."""
    template: str = "{response}"
    """Text that the model reads, made of {prompt} and {response}."""
    features: int = Field(2**18, ge=2**8, le=2**26)
    """Number of hash buckets."""
    regularisation: float = Field(1.0, ge=1e-9, le=1e9)
    """Strength of the L2 penalty."""
    heldout: float = Field(0.1, gt=0, lt=1)
    """Share of the prompts whose rows measure the model and train nothing."""

    @model_validator(mode="after")
    def _template(self) -> "Linear":
        holds_response(self.template)
        return self


class Transformer(Strict):
    """A transformer trained here: on pairs by TRL's RewardTrainer; on labels by cross-entropy; on numbers by squares.

    The score is the logit, or the number in standard deviations of the training rows.
    """

    kind: Literal["transformer"]
    data: Labelled
    """What it is trained on."""
    source: Source
    """Hub id or local folder of the model that training starts from."""
    revision: str | None = None
    """Commit, branch or tag of a hub model; null is main. models.lock.yaml keeps the commit that it was."""
    template: str = "{prompt}{response}"
    """Text that the model reads, made of {prompt} and {response}."""
    max_length: int = Field(512, ge=4, le=1_000_000)
    """Most tokens that the model reads; a longer text loses its prompt's beginning, then its response's, in training
    and in scoring."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights; `float16` needs a GPU."""
    batch_size: int = Field(16, ge=1, le=100_000)
    """Rows or pairs per optimiser step, and texts per forward pass."""
    epochs: float = Field(1.0, gt=0, le=10_000)
    """Passes over the rows."""
    learning_rate: float = Field(1e-4, gt=0, le=100)
    """Learning rate. Source: TRL's RewardTrainer."""
    heldout: float = Field(0.1, gt=0, lt=1)
    """Share of the prompts whose rows measure the model and train nothing."""

    @model_validator(mode="after")
    def _template(self) -> "Transformer":
        holds_response(self.template)
        return self


class Python(Strict):
    """The user's own function: `function(prompts: list[str], responses: list[str]) -> list[float]`."""

    kind: Literal["python"]
    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """Where it is: package.module:function."""
    low: float | None = Field(None, ge=-1e30, le=1e30)
    """Least score that the function can give; null: unknown, and the reference policy's scores give the scale."""
    high: float | None = Field(None, ge=-1e30, le=1e30)
    """Largest score that the function can give; null as for `low`."""

    @model_validator(mode="after")
    def _ordered(self) -> "Python":
        if self.low is not None and self.high is not None and self.high <= self.low:
            raise ValueError(f"high ({self.high:g}) must be above low ({self.low:g})")
        return self


Reward = Annotated[
    Vader | Length | Conciseness | Readability | Classifier | Linear | Transformer | Python | Endpoint,
    Field(discriminator="kind"),
]
TRAINED = ("linear", "transformer")
