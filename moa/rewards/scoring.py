"""Load a declared reward and score responses with it: the one place that checks what a reward returns.

Notation: n responses. Scores are float32, unrounded, higher is better. Nothing here loads torch or scikit-learn; the
module of a kind, moa/rewards/<kind>.py, is imported when a reward of that kind is loaded or trained. It offers
`load(name, spec, models, device)` and, where the kind is trained here, `train(name, spec, folder, job)`.
"""

import importlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moa.errors import MoaError, one_line
from moa.experiment.rewards import (
    TRAINED,
    Classifier,
    Conciseness,
    Endpoint,
    Length,
    Python,
    Readability,
    Reward,
    Vader,
)
from moa.job.process import Job

MOST_CUT = 0.5  # share of cut responses above which scores say more of the window than of the responses
FIELD = re.compile(r"\{(prompt|response)\}")


@dataclass(frozen=True)
class Scores:
    """Scores of n responses.

    Attributes:
        values: (n,) float32, raw.
        truncated: (n,) bool, the response was longer than the reward reads, even without its prompt, and was cut.
    """

    values: NDArray[np.float32]
    truncated: NDArray[np.bool_]


class Scorer(Protocol):
    """A loaded reward. It never sees a blank response.

    Attributes:
        low: smallest possible score, None where there is none; blank responses get it.
        deviation: largest change of a score by batching that was measured, None where a score is the same in every
            batch.
        tokens: tokens that a reward model has read so far.
        reduced: responses at a time, where memory did not suffice for as many as declared; else None.
    """

    low: float | None = None
    deviation: float | None = None
    tokens: int = 0
    reduced: int | None = None

    def score(self, prompts: list[str], responses: list[str]) -> Scores:
        """Score n responses to n prompts."""
        ...


@dataclass
class Formula(Scorer):
    """A reward that is a formula of the response alone."""

    formula: Callable[[str], float]
    low: float | None = None

    def score(self, prompts: list[str], responses: list[str]) -> Scores:
        """Apply the formula to each response; nothing is cut."""
        return whole([self.formula(response) for response in responses])


@dataclass(frozen=True)
class Trained:
    """What training a reward gave.

    Attributes:
        heldout: metrics on rows that were not trained on, and their number n.
        rows: rows that were trained on.
        tokens: tokens that a language model read.
        micro_batch: pairs per pass that fitted into memory; None where there are no batches.
    """

    heldout: dict[str, float]
    rows: int
    tokens: int = 0
    micro_batch: int | None = None


def whole(values: Sequence[float] | NDArray[np.floating]) -> Scores:
    """Return scores of texts that were read whole."""
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which `score` reports with its row
        return Scores(np.asarray(values, np.float32), np.zeros(len(values), bool))


def load(name: str, spec: Reward, models: Sequence[Path], device: str | None = None) -> Scorer:
    """Load the reward `name`.

    Args:
        name: name in the config; a trained reward is the folder of `models` with this name.
        spec: its declaration.
        models: folders of rewards that were trained here.
        device: 'cpu' or 'cuda'; the GPU where there is one if left out. Formulas and linear models always use the CPU.

    Raises:
        MoaError: model, module or function are missing or do not fit the declaration.
    """
    scorer: Scorer = importlib.import_module(f"moa.rewards.{spec.kind}").load(name, spec, models, device)
    return scorer


def load_several(specs: Mapping[str, Reward], models: Sequence[Path], device: str | None = None) -> dict[str, Scorer]:
    """Load rewards by name, as `load` does; classifiers that differ in their outputs alone share one model."""
    shared = {name: spec for name, spec in specs.items() if isinstance(spec, Classifier)}
    found: dict[str, Scorer] = {}
    if shared:
        found |= importlib.import_module("moa.rewards.classifier").load_several(shared, device)
    found |= {name: load(name, spec, models, device) for name, spec in specs.items() if name not in shared}
    return {name: found[name] for name in specs}


def train(name: str, spec: Reward, folder: Path, job: Job) -> Trained:
    """Train the reward `name` into the existing `folder`: model.safetensors, reward.json with held-out metrics.

    `job` keeps the checkpoints of kinds that take long.
    """
    if spec.kind not in TRAINED:
        raise MoaError(f"rewards.{name}: kind '{spec.kind}' is not trained here; kinds that are: {', '.join(TRAINED)}")
    trained: Trained = importlib.import_module(f"moa.rewards.{spec.kind}").train(name, spec, folder, job)
    return trained


def bounds(spec: Reward) -> tuple[float | None, float | None]:
    """Return the smallest and the largest score that the formula allows; None where there is no such bound."""
    match spec:
        case Vader():
            return -1.0, 1.0
        case Length() | Python() | Endpoint():
            return spec.low, spec.high
        case Conciseness() | Readability():
            return 0.0, 1.0
        case _:
            return None, None


def notes(scorers: Mapping[str, Scorer]) -> dict[str, str]:
    """Return Parquet metadata as JSON by reward.

    'moa.deviation' has the rewards that measured one, 'moa.reduced' those that memory limited.
    """
    found = {
        "moa.deviation": {name: scorer.deviation for name, scorer in scorers.items() if scorer.deviation is not None},
        "moa.reduced": {name: scorer.reduced for name, scorer in scorers.items() if scorer.reduced is not None},
    }
    return {key: json.dumps(values, sort_keys=True) for key, values in found.items() if values}


def is_blank(response: str) -> bool:
    """Return whether the response is empty, or all white space and invisible characters (Unicode's category Cf)."""
    return all(character.isspace() or unicodedata.category(character) == "Cf" for character in response)


def score(name: str, scorer: Scorer, prompts: list[str], responses: list[str], floor: float | None) -> Scores:
    """Score responses and check the result; a blank response is worth the least.

    Args:
        name: the reward's name, for messages.
        scorer: what `load` returned.
        prompts: n prompts, without any preference text.
        responses: n responses; blank ones are not shown to the reward.
        floor: score of a blank response where the reward has no lower bound and no response of this call scores less.

    Raises:
        MoaError: the reward raised, or returned a wrong number of scores, NaN or infinity; more than `MOST_CUT` of the
            responses were cut; or every response is blank and neither bound nor floor says what that is worth.
    """
    if len(prompts) != len(responses):
        raise MoaError(
            f"reward {name}: {len(prompts)} prompts for {len(responses)} responses; give one prompt per response"
        )
    kept = np.array([not is_blank(response) for response in responses], bool)
    values, truncated = np.empty(len(responses), np.float32), np.zeros(len(responses), bool)
    if kept.any():
        some = [i for i, keep in enumerate(kept) if keep]
        found = _checked(name, scorer, [prompts[i] for i in some], [responses[i] for i in some], some)
        check_cut(name, found.truncated)
        values[kept], truncated[kept] = found.values, found.truncated
    if not kept.all():
        seen = [*([] if floor is None else [floor]), *values[kept].tolist()]
        if scorer.low is None and not seen:
            raise MoaError(
                f"reward {name}: all {len(responses)} responses are blank, and no lower bound says what that is worth; "
                "see why the model writes nothing, or give a floor"
            )
        values[~kept] = min(seen) if scorer.low is None else scorer.low
    return Scores(values, truncated)


def check_cut(name: str, truncated: NDArray[np.bool_]) -> None:
    """Raise a MoaError where more than `MOST_CUT` of the responses were cut."""
    if truncated.mean() > MOST_CUT:
        raise MoaError(
            f"reward {name}: {truncated.sum()} of {len(truncated)} responses are longer than it can read, even without"
            f" their prompts (at most {100 * MOST_CUT:.0f} % may be cut); raise rewards.{name}.max_length, name a model"
            " that reads more, or lower generation.max_new_tokens"
        )


def _checked(name: str, scorer: Scorer, prompts: list[str], responses: list[str], rows: list[int]) -> Scores:
    try:
        found = scorer.score(prompts, responses)
    except MoaError:
        raise
    except Exception as error:
        raise MoaError(
            f"reward {name}: raised {type(error).__name__}: {one_line(error)} (first of {len(prompts)} prompts:"
            f" {prompts[0][:80]!r}); correct the reward, then run again: finished stages are kept"
        ) from error
    if found.values.shape != (len(responses),):
        shape = len(found.values) if found.values.ndim == 1 else f"an array of shape {found.values.shape}"
        raise MoaError(
            f"reward {name}: returned {shape} scores for {len(responses)} responses (first prompt:"
            f" {prompts[0][:80]!r}); return one number per response"
        )
    if not np.isfinite(found.values).all():
        at = int(np.flatnonzero(~np.isfinite(found.values))[0])
        raise MoaError(
            f"reward {name}: score {found.values[at]} in row {rows[at]} (prompt {prompts[at][:80]!r}, response"
            f" {responses[at][:80]!r}); a score must be a finite float32: correct the reward or its model"
        )
    return found


def fill(template: str, prompt: str, response: str) -> str:
    """Put prompt and response into the template, in one pass: braces inside of them stay as they are."""
    parts = {"prompt": prompt, "response": response}
    return FIELD.sub(lambda match: parts[match[1]], template)


def trained_folder(name: str, models: Sequence[Path]) -> Path:
    """Return the folder of `models` that holds the trained reward `name`."""
    for folder in models:
        if folder.name == name:
            if not (folder / "reward.json").is_file():
                raise MoaError(
                    f"{folder}: no reward.json, so this is not a trained reward; delete the folder and run snakemake"
                    " again: it will be trained anew"
                )
            return folder
    given = ", ".join(map(str, models)) or "none given"
    raise MoaError(
        f"reward {name}: not among the trained rewards ({given}); train it first: snakemake --cores all rewards"
    )
