"""The user's own reward: `python: package.module:function`, a function of prompts and responses.

    # rewards/politeness.py beside the experiment file
    def score(prompts: list[str], responses: list[str]) -> list[float]:
        return [float("please" in response.lower()) for response in responses]

    polite: {kind: python, function: "rewards.politeness:score", low: 0, high: 1}

The module is looked for in the current directory and among installed packages. It is the user's own code and runs
with the user's rights. `low` and `high` are promises: a score outside of them is an error.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moa.errors import MoaError, nearest
from moa.experiment.rewards import Python
from moa.rewards.scoring import Scorer, Scores, whole


@dataclass
class PythonScorer(Scorer):
    """Calls the user's function and checks its answer against the declared bounds."""

    name: str
    function: Callable[[list[str], list[str]], Any]
    low: float | None = None
    high: float | None = None

    def score(self, prompts: list[str], responses: list[str]) -> Scores:
        """Call the function once with all prompts and responses."""
        returned = self.function(list(prompts), list(responses))
        try:
            scores = whole(np.asarray(returned, np.float64))
        except (TypeError, ValueError) as error:
            raise MoaError(
                f"reward {self.name}: the function returned {str(returned)[:80]} ({error}); return a list with one"
                " number per response"
            ) from error
        # Compared in float32, in which the bounds themselves are rounded.
        low = -np.inf if self.low is None else np.float32(self.low)
        high = np.inf if self.high is None else np.float32(self.high)
        outside = np.flatnonzero(np.isfinite(scores.values) & ((scores.values < low) | (scores.values > high)))
        if outside.size:
            at = outside.flat[0]
            raise MoaError(
                f"reward {self.name}: score {scores.values.flat[at]:g} for response {responses[at][:80]!r} is outside"
                f" of the declared [{low:g}, {high:g}]; correct the function, or `low` and `high`"
            )
        return scores


def load(name: str, spec: Python, models: Sequence[Path], device: str | None) -> PythonScorer:
    """Import the function."""
    module_name, function_name = spec.function.split(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last: a user's random.py must not replace the standard library's
    module = _import(name, module_name)
    function = vars(module).get(function_name)
    if function is None:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = nearest(function_name, public) if public else " It defines none."
        raise MoaError(f"reward {name}: {module.__file__} has no function '{function_name}'.{hint}")
    if not callable(function):
        raise MoaError(
            f"reward {name}: '{function_name}' in {module.__file__} is a {type(function).__name__}, not a function;"
            " name the one that scores"
        )
    return PythonScorer(name, function, spec.low, spec.high)


def _import(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise MoaError(
                f"reward {name}: no module '{module}' in {Path.cwd()} or among the installed packages; run from the"
                " folder that holds it, or install it"
            ) from None
        raise MoaError(
            f"reward {name}: module '{module}' needs '{error.name}', which is not installed; install it"
        ) from error
    except Exception as error:
        raise MoaError(
            f"reward {name}: importing '{module}' raised {type(error).__name__}: {error}; correct the module"
        ) from error
