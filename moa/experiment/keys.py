"""The keys of an experiment file, section by section. Defaults carry their source; config.yaml explains every key."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from moa.experiment.preferences import RIC13, Preference, check, lattice
from moa.experiment.rewards import Strict

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class Run(Strict):
    """What to run: rows of `methods`, and seeds."""

    methods: list[Name] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)

    @field_validator("methods", "seeds")
    @classmethod
    def _once(cls, value: list[Any]) -> list[Any]:
        twice = next((item for item in value if value.count(item) > 1), None)
        if twice is not None:
            raise ValueError(f"'{twice}' is listed twice")
        return value


# keys of `data` that mean something for a dataset only
DATASET = (
    *("revision", "subset", "split", "evaluation_split", "text", "prompt", "response", "responses"),
    *("prompt_end", "opening_words", "sentences", "text_characters", "prompt_characters"),
)


class Responses(Strict):
    """Prompts with responses from another source than the prompts of `data`: texts for fine-tuning."""

    source: str
    revision: str | None = None
    subset: str | None = None
    split: str = "train"
    prompt: str
    response: str


class Data(Strict):
    """Where prompts and texts come from (docs/data.md).

    `source`: 'embedded' (the generated review corpus), a hub id, or a local file or folder (Parquet, JSONL, CSV).
    Either `prompt` names a column of prompts, or prompts are openings of the `text` column: `opening_words` words, or
    everything up to and including the last `prompt_end`. Texts for fine-tuning are prompt and `response` column, or
    prompts and responses of another source, or the `text` column itself, cut to so many `sentences`.
    """

    source: str
    revision: str | None = None
    subset: str | None = None
    split: str = "train"
    evaluation_split: str | None = None
    text: str | None = None
    prompt: str | None = None
    response: str | None = None
    responses: Responses | None = None
    prompt_end: str | None = Field(None, min_length=1)
    opening_words: tuple[int, int] = (2, 5)
    sentences: int | None = Field(None, ge=1)
    text_characters: tuple[int, int] = (1, 100_000)
    prompt_characters: tuple[int, int] = (1, 100_000)
    texts: int = Field(20_000, ge=8)
    heldout_texts: int = Field(400, ge=4)
    train_prompts: int = Field(4_000, ge=4)
    evaluation_prompts: int = Field(100, ge=2)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _columns(self) -> "Data":
        if self.source == "embedded":
            given = [n for n in DATASET if getattr(self, n) != Data.model_fields[n].get_default()]
            if given:
                raise ValueError(
                    f"the embedded corpus does not use {', '.join(given)}; leave it out, or name another source"
                )
        elif (self.text is None) == (self.prompt is None):
            raise ValueError("name one column: `text` (prompts are openings of it) or `prompt`")
        elif self.prompt is not None and (self.response is None) == (self.responses is None):
            raise ValueError(
                "`prompt` needs texts to fine-tune on: name the `response` column, or another source in `responses:`,"
                " not both"
            )
        if self.text is not None and (self.response is not None or self.responses is not None):
            raise ValueError(
                "`response` and `responses` go with `prompt`; a `text` is split into prompt and response here"
            )
        if self.prompt_end is not None and self.text is None:
            raise ValueError("`prompt_end` goes with `text`; a `prompt` column is taken as it is")
        if self.evaluation_split == self.split:
            raise ValueError(
                f"evaluation_split and split are both '{self.split}'; leave evaluation_split out to have evaluation"
                " prompts drawn from split"
            )
        if self.opening_words[0] < 1 or self.opening_words[1] < self.opening_words[0]:
            raise ValueError("opening_words: [least, most] with 1 <= least <= most")
        return self


class Scratch(Strict):
    """A Llama-architecture LM and a byte-pair tokenizer, both trained from nothing on the texts."""

    vocabulary: int = Field(1024, ge=64)
    hidden: int = Field(128, ge=8)
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    feed_forward: int = Field(384, ge=8)
    context: int = Field(256, ge=16)


class Sft(Strict):
    """Supervised fine-tuning by TRL's SFTTrainer."""

    epochs: float = Field(1.0, gt=0)
    steps: int | None = Field(None, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1.4e-4, gt=0)  # Rewards-in-Context's SFT (docs/papers.md 3.3)
    warmup: float = Field(0.03, ge=0, lt=1)
    max_length: int = Field(256, ge=8)
    completion_only: bool = True
    lora: bool = False
    seed: int = 0


class Lora(Strict):
    """Low-rank adapter. Defaults: rank 64, alpha 128, dropout 0.05 (PAMA, RiC; docs/papers.md 2.6, 3.3)."""

    rank: int = Field(64, ge=1)
    alpha: int = Field(128, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: list[str] | Literal["all-linear"] = "all-linear"


class Model(Strict):
    """The base language model. `source`: 'scratch', a hub id, or a local folder. `sft: null` takes it as it is."""

    source: str
    revision: str | None = None
    scratch: Scratch | None = None
    sft: Sft | None = None
    lora: Lora = Lora()
    quantisation: Literal["none", "nf4", "int8"] = "none"
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _scratch(self) -> "Model":
        if (self.source == "scratch") != (self.scratch is not None):
            raise ValueError("`source: scratch` and a `scratch:` section go together")
        if self.source == "scratch" and self.sft is None:
            raise ValueError("a model from scratch needs an `sft:` section")
        return self


class WarmStart(Strict):
    """Conditional warm start.

    This share of the SFT texts carries a preference that their own rewards imply (moa/lm/warm_start.py).
    """

    share: float = Field(0.5, gt=0, lt=1)
    labels: Literal["implied", "best"] = "implied"
    keep: float = Field(0.5, gt=0, le=1)
    sharpness: float = Field(1.0, gt=0)  # of 'implied'


class Conditioning(Strict):
    """How prompt and preference become the text that the policy reads.

    `template` has {prompt} and, for conditioned methods, {preference}; plain methods use `plain`. With `chat: true` the
    tokenizer's chat template is applied and `role` says who states the preference.
    """

    template: str = "{preference} {prompt}"
    plain: str = "{prompt}"
    format: Literal["digits", "words", "levels", "bars", "tags"] = "digits"
    chat: bool = False
    role: Literal["system", "user"] = "user"
    warm_start: WarmStart | None = None

    @model_validator(mode="after")
    def _fields(self) -> "Conditioning":
        for name, text, needed in (
            ("template", self.template, ("{preference}", "{prompt}")),
            ("plain", self.plain, ("{prompt}",)),
        ):
            for part in needed:
                if text.count(part) != 1:
                    raise ValueError(f"{name} must hold {part} exactly once, got {text!r}")
        return self


class Objective(Strict):
    """One objective: its reward, and an independent judge that only evaluation uses."""

    reward: Name
    judge: Name | None = None


class Grid(Strict):
    """Preferences: a simplex lattice with `divisions` steps per edge, the preset 'ric13', or explicit points."""

    divisions: int | None = Field(None, ge=1)
    preset: Literal["ric13"] | None = None
    points: list[list[float]] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one(self) -> "Grid":
        if sum(v is not None for v in (self.divisions, self.preset, self.points)) != 1:
            raise ValueError("give exactly one of: divisions, preset, points")
        return self

    def preferences(self, objectives: int, where: str) -> list[Preference]:
        """Return the preferences for K = `objectives`; `where` names the key in error messages."""
        if self.divisions is not None:
            return lattice(objectives, self.divisions)
        points = self.points if self.points is not None else [list(p) for p in RIC13]
        return [check(p, objectives, f"{where}[{i}]") for i, p in enumerate(points)]


class Preferences(Strict):
    """Preferences of training (conditioned methods) and of evaluation (all methods)."""

    training: Grid = Grid(divisions=4)
    dirichlet: float | None = Field(None, gt=0)  # sample training preferences from Dirichlet(this) instead
    evaluation: Grid = Grid(divisions=4)


class Generation(Strict):
    """Decoding, the same for every method. Defaults: RiC's PPO rollouts (docs/papers.md 3.3).

    Evaluation adds top_p 0.9.
    """

    max_new_tokens: int = Field(48, ge=1)
    temperature: float = Field(0.7, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    evaluation_temperature: float = Field(0.7, gt=0)
    evaluation_top_p: float = Field(0.9, gt=0, le=1)
    samples: int = Field(1, ge=1)
    batch_size: int = Field(256, ge=1)


class Kl(Strict):
    """KL to the reference policy with an adaptive coefficient (Ziegler et al. 2019), per token.

    `place`: 'separate' (a loss term after the combination of advantages) or 'heads' (in the reward of every value head,
        a control stream's too).
    """

    place: Literal["separate", "heads"] = "separate"
    coefficient: float = Field(0.2, ge=0)  # init KL 0.2 (PAMA, RiC)
    target: float = Field(0.1, gt=0)  # nats per token; the papers' 3 nats per sequence over about 30 tokens
    horizon: float = Field(10_000.0, gt=0)  # samples (RiC)


Whiten = Literal["combined", "batch"]


class Ppo(Strict):
    """The shared PPO loop. Sources.

    TRL 0.8 defaults as RiC uses them (docs/papers.md 3.3), unless a comment in config.yaml says measured.
    """

    steps: int = Field(100, ge=1)
    batch_size: int = Field(64, ge=2)
    mini_batch_size: int = Field(64, ge=1)
    advantages: Literal["gae", "group"] = "gae"
    group_size: int = Field(1, ge=1)  # responses to each prompt with its preference
    epochs: int = Field(4, ge=1)
    learning_rate: float = Field(1e-5, gt=0)
    value_learning_rate: float | None = Field(None, gt=0)
    schedule: Literal["constant", "linear"] = "constant"  # linear: both rates fall to 0 at the last step
    gamma: float = Field(1.0, gt=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)
    clip: float = Field(0.2, gt=0)
    value_clip: float = Field(0.2, gt=0)
    value_coefficient: float = Field(0.1, ge=0)
    entropy_coefficient: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(0.5, gt=0)
    early_stop: float | None = Field(
        1.5, gt=0
    )  # mean squared log-ratio / 2, of an epoch's last mini-batch, that ends the epochs
    whiten: Whiten = "combined"
    kl: Kl = Kl()
    checkpoint_every: int = Field(20, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> "Ppo":
        if self.batch_size % self.mini_batch_size:
            raise ValueError(f"mini_batch_size ({self.mini_batch_size}) must divide batch_size ({self.batch_size})")
        if self.batch_size % self.group_size:
            raise ValueError(f"group_size ({self.group_size}) must divide batch_size ({self.batch_size})")
        if self.kl.horizon <= 0.2 * self.batch_size:
            raise ValueError(
                f"kl.horizon ({self.kl.horizon:g}) must be above a fifth of batch_size ({self.batch_size}), or one step"
                " could make the coefficient negative"
            )
        if self.advantages == "group" and self.group_size < 2:
            raise ValueError(
                "advantages: group compares responses to one prompt with each other; set group_size to at least 2,"
                f" e.g. 4 (it is {self.group_size})"
            )
        return self


class Evaluation(Strict):
    """Metrics. `reference_point` overrides the default, raw scale, per objective (docs/papers.md 4)."""

    bootstrap: int = Field(1000, ge=10)
    reference_responses: int = Field(1000, ge=20)
    reference_point: dict[str, float] | None = None
