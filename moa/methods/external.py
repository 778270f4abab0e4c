"""External: any existing adapter, merged model or table of responses as a row of the benchmark, without training.

Exactly one of:
    adapter: a PEFT adapter (safetensors) on this experiment's base, local folder or hub id (with `revision`);
    model: a causal LM, hub id (with `revision`) or local folder;
    responses: a Parquet file with columns `prompt` or `prompt_id`, `response`, and, if `conditioned`, `preference`.
With `conditioned: true` the preference stands in the prompt, as `conditioning` says.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import field_validator, model_validator

from moa import method
from moa.errors import MoaError
from moa.experiment.names import Source
from moa.experiment.preferences import Preference

if TYPE_CHECKING:
    from moa.experiment.keys import Ppo


class Settings(method.Settings):
    adapter: Source | None = None
    """A PEFT adapter (safetensors) on this experiment's base: local folder or hub id."""
    model: Source | None = None
    """A causal language model: local folder or hub id."""
    revision: str | None = None
    """Commit, branch or tag of a hub adapter or model; null is main. models.lock.yaml keeps the commit that it was."""
    responses: Path | None = None
    """A Parquet file with columns `prompt` or `prompt_id`, `response`, and, if `conditioned`, `preference`."""
    conditioned: bool = False
    """Whether it is steered by the preference in its prompt, as `conditioning` says."""

    @field_validator("adapter", "model")
    @classmethod
    def _home(cls, source: str | None) -> str | None:
        return str(Path(source).expanduser()) if source is not None and source.startswith("~") else source

    @field_validator("responses")
    @classmethod
    def _home_file(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser()

    @model_validator(mode="after")
    def _one(self) -> "Settings":
        if sum(v is not None for v in (self.adapter, self.model, self.responses)) != 1:
            raise ValueError("give exactly one of: adapter, model, responses")
        return self


def _local(source: str) -> bool:
    """Return whether a source is a folder, or cannot be a hub id."""
    return Path(source).exists() or source.startswith((".", "/")) or source.count("/") != 1


class Method(method.Method):
    """Answers with what it is given."""

    schema = Settings
    settings: Settings
    answers = "external"

    def check(self, ppo: "Ppo", dirichlet: float | None) -> None:
        adapter, model, responses = self.settings.adapter, self.settings.model, self.settings.responses
        if (
            adapter is not None
            and _local(adapter)
            and not any((Path(adapter) / inner / "adapter_config.json").is_file() for inner in ("", "adapter"))
        ):
            raise MoaError(
                f"methods.{self.row}.adapter: {adapter}: no adapter_config.json there; give a folder, that of a policy"
                " or of a PEFT adapter, or a hub id"
            )
        if model is not None and _local(model) and not (Path(model) / "config.json").is_file():
            raise MoaError(
                f"methods.{self.row}.model: {model}: no config.json there; give a folder with a model, or a hub id"
            )
        if responses is not None and not responses.is_file():
            raise MoaError(f"methods.{self.row}.responses: {responses}: no such file; give a Parquet file of responses")

    def policies(self, evaluation: list[Preference]) -> list[method.Policy]:
        return []

    def sources(self) -> list[str]:
        return [source for source in (self.settings.adapter, self.settings.model) if source is not None]

    def evaluation_preferences(self, evaluation: list[Preference]) -> list[Preference | None]:
        return list(evaluation) if self.settings.conditioned else [None]
