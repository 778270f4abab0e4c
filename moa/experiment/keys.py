"""The keys of an experiment file: what to run, data, objectives, preferences and evaluation stand here.

`model` and `conditioning` are in model.py, `generation` and `ppo` in training.py, rewards in rewards.py; this module
has all names. The string under a key is its meaning in docs/experiment.md, and after "Source:" where its default comes
from; without that the default is ours.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from moa.experiment.model import Conditioning, Lora, Model, Scratch, Sft, WarmStart
from moa.experiment.names import Name, Source
from moa.experiment.preferences import MOST, RIC13, Preference, check, label, lattice, refuse_twice
from moa.experiment.rewards import Limit, Seed, Strict
from moa.experiment.training import Generation, Kl, Ppo, Whiten

__all__ = ["Conditioning", "Data", "Evaluation", "Generation", "Grid", "Kl", "Lora", "Model", "Name", "Objective"]
__all__ += ["Ppo", "Preferences", "Responses", "Run", "Scratch", "Sft", "WarmStart", "Whiten"]

Characters = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


class Run(Strict):
    """What to run."""

    methods: list[Name] = Field(min_length=1, max_length=200)
    """Rows of the benchmark, in the report's order: names of methods, or keys of `methods` with a `kind`."""
    seeds: list[Seed] = Field(min_length=1, max_length=1000)
    """Seeds; every row is trained and evaluated once for each."""

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
    *("prompt_start", "prompt_end", "opening_words", "sentences", "text_characters", "prompt_characters"),
)


class Responses(Strict):
    """Texts for fine-tuning from another source than the prompts of `data`."""

    source: Source
    """Hub id, or local file or folder (Parquet, JSON lines, CSV)."""
    revision: str | None = None
    """Commit, branch or tag of a hub data set; null is main. models.lock.yaml keeps the commit that it was."""
    subset: str | None = None
    """Configuration of a hub data set, or sub-folder of a local folder."""
    split: str = "train"
    """Split to read."""
    prompt: str
    """Column of the prompts."""
    response: str
    """Column of the responses."""


class Data(Strict):
    """Where prompts and texts come from (data.md).

    Prompts are openings of a `text` column or stand in a `prompt` column. Texts for fine-tuning are the `text` column,
    or `prompt` and `response`, or those of `responses`. The embedded corpus reads `seed` and the four numbers alone.
    """

    source: Source
    """`embedded` (a generated review corpus), a hub id, or a local file or folder (Parquet, JSON lines, CSV)."""
    revision: str | None = None
    """Commit, branch or tag of a hub data set; null is main. models.lock.yaml keeps the commit that it was."""
    subset: str | None = None
    """Configuration of a hub data set, or sub-folder of a local folder."""
    split: str = "train"
    """Split that texts and training prompts come from."""
    evaluation_split: str | None = None
    """Split that evaluation prompts come from; null draws them from `split`."""
    text: str | None = None
    """Column of texts whose openings are the prompts."""
    prompt: str | None = None
    """Column of prompts, taken as they are."""
    response: str | None = None
    """Column of the prompts' responses."""
    responses: Responses | None = None
    """Another source of prompts with responses."""
    prompt_end: str | None = Field(None, min_length=1)
    """With `text`: the prompt is everything up to and including the last occurrence of this."""
    prompt_start: str | None = Field(None, min_length=1)
    """With `prompt_end`: the prompt is what stands between the first occurrence of this and the next `prompt_end`, for
    chat models; a dialogue of several turns gives its first."""
    opening_words: tuple[int, int] = (2, 5)
    """Least and most words of an opening."""
    sentences: int | None = Field(None, ge=1, le=1_000_000)
    """Keeps the first so many sentences of a text or response; null keeps all."""
    text_characters: Characters = (1, 100_000)
    """Bounds of prompt and response together, after the cut to sentences."""
    prompt_characters: Characters = (1, 100_000)
    """Bounds of a prompt."""
    texts: int = Field(20_000, ge=8, le=10_000_000)
    """Texts to fine-tune on."""
    heldout_texts: int = Field(400, ge=4, le=1_000_000)
    """Texts never trained on, which say what fluent text looks like."""
    train_prompts: int = Field(4_000, ge=4, le=10_000_000)
    """Prompts to train policies on."""
    evaluation_prompts: int = Field(100, ge=2, le=1_000_000)
    """Prompts to evaluate on, near none that trains."""
    seed: Seed = 0
    """Decides the splits."""

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
        if self.prompt_start is not None and self.prompt_end is None:
            raise ValueError("`prompt_start` goes with `prompt_end`, where the prompt ends and the response begins")
        if self.evaluation_split == self.split:
            raise ValueError(
                f"evaluation_split and split are both '{self.split}'; leave evaluation_split out to have evaluation"
                " prompts drawn from split"
            )
        if self.opening_words[0] < 1 or self.opening_words[1] < self.opening_words[0]:
            raise ValueError("opening_words: [least, most] with 1 <= least <= most")
        for name in ("text_characters", "prompt_characters"):
            least, most = getattr(self, name)
            if least > most:
                raise ValueError(f"{name}: [least, most] with least <= most, got [{least}, {most}]")
        return self


class Objective(Strict):
    """One objective, under its name; the order of objectives is the order of weights everywhere."""

    reward: Name
    """Its reward, a key of `rewards`."""
    judge: Name | None = None
    """An independent reward that evaluation alone uses."""


class Grid(Strict):
    """Preferences; exactly one of the three keys."""

    divisions: int | None = Field(None, ge=1, le=10_000)
    """A simplex lattice with so many steps per edge."""
    preset: Literal["ric13"] | None = None
    """The 13 points of Rewards-in-Context for three objectives (papers.md 3.3)."""
    points: list[list[float]] | None = Field(None, min_length=1, max_length=MOST)
    """Explicit points, a weight per objective, which sum to 1."""

    @model_validator(mode="after")
    def _one(self) -> "Grid":
        if sum(v is not None for v in (self.divisions, self.preset, self.points)) != 1:
            raise ValueError("give exactly one of: divisions, preset, points")
        return self

    def preferences(self, objectives: int, where: str) -> list[Preference]:
        """Return the preferences for K = `objectives`; `where` names the section in error messages."""
        if self.divisions is not None:
            return lattice(objectives, self.divisions, where, MOST)
        key, given = (f"{where}.points", self.points) if self.points is not None else (f"{where}.preset", RIC13)
        points = [check(list(p), objectives, f"{key}[{i}]") for i, p in enumerate(given)]
        refuse_twice(points, [label(p) for p in points], key)
        return points


class Preferences(Strict):
    """Preferences of training (conditioned methods) and of evaluation (all methods)."""

    training: Grid = Grid(divisions=4)
    """Preferences that training shows."""
    dirichlet: float | None = Field(None, ge=1e-3, le=1e6)
    """Concentration of a Dirichlet distribution from which training draws every preference anew, in place of
    `training`."""
    evaluation: Grid = Grid(divisions=4)
    """Preferences at which every method answers; one policy per preference for methods that train so."""


class Evaluation(Strict):
    """Metrics."""

    bootstrap: int = Field(1000, ge=10, le=100_000)
    """Resamples of the prompts behind every interval."""
    reference_responses: int = Field(1000, ge=20, le=1_000_000)
    """Responses of the reference policy that give every objective its scale."""
    reference_point: dict[str, Limit] | None = None
    """Reference point of the hypervolume, raw, by objective; null: the reward's lower bound, or the 1 % quantile of the
    reference policy's scores (papers.md 4)."""
