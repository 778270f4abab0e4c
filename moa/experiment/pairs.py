"""Where a data set's own preference pairs are read from."""

from pydantic import Field, model_validator

from moa.experiment.names import Source
from moa.experiment.strict import Strict


class PairSource(Strict):
    """A data set's own pairs: columns of prompts and responses, or of whole dialogues that share their beginning."""

    source: Source
    """Hub id, or local file or folder (Parquet, JSON lines, CSV)."""
    revision: str | None = None
    """Commit, branch or tag of a hub data set; null is main. models.lock.yaml keeps the commit that it was."""
    subset: str | None = None
    """Configuration of a hub data set, or sub-folder of a local folder."""
    split: str = "train"
    """Split to read."""
    prompt: str | None = None
    """Column of the prompts."""
    prompt_end: str | None = Field(None, min_length=1)
    """In place of `prompt`: dialogues share everything up to and including the last occurrence of this."""
    chosen: str = "chosen"
    """Column of the chosen responses or dialogues."""
    rejected: str = "rejected"
    """Column of the rejected ones."""
    frame: str | None = None
    """What the data set puts around a prompt and the task does not, with {prompt} in its place; it is taken off, and
    dialogues of more turns are left out."""
    text_characters: tuple[int, int] = (1, 100_000)
    """Bounds of prompt and response together."""

    @model_validator(mode="after")
    def _one_prompt(self) -> "PairSource":
        if (self.prompt is None) == (self.prompt_end is None):
            raise ValueError(
                "name the `prompt` column, or the `prompt_end` after which the responses of whole dialogues start; one"
                " of them"
            )
        if self.frame is not None and self.frame.count("{prompt}") != 1:
            raise ValueError(f"frame must hold {{prompt}} exactly once, got {self.frame!r}")
        return self
