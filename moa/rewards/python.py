"""The user's own reward: `python: package.module:function`, a function of prompts and responses.

    # rewards/politeness.py beside the experiment file
    def score(prompts: list[str], responses: list[str]) -> list[float]:
        return [float("please" in response.lower()) for response in responses]

    polite: {kind: python, function: "rewards.politeness:score", low: 0, high: 1}

The module is looked for in the current directory and among installed packages. It is the user's own code and runs
with the user's rights, as a guest whose traces are removed (moa/rewards/guest.py). It is asked for at most 32 responses
at a time. `low` and `high` are promises: a score outside of them is an error.
"""

import importlib
import logging
import reprlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from moa.errors import Ended, MoaError, nearest
from moa.experiment.rewards import Python
from moa.job.command import Progress
from moa.rewards.guest import Room
from moa.rewards.scoring import Scorer, Scores, whole

log = logging.getLogger("moa")
PART = 32  # always the same, so that a score never depends on how fast the function is


@dataclass
class PythonScorer(Scorer):
    """Calls the user's function and checks its answer against the declared bounds."""

    name: str
    function: Callable[[list[str], list[str]], Any]
    low: float | None = None
    high: float | None = None
    room: Room = field(default_factory=Room)

    def score(self, prompts: list[str], responses: list[str]) -> Scores:
        """Call the function with all prompts and responses, a part at a time; the log shows how far a slow one is."""
        found: list[float] = []
        clock = Progress(f"reward {self.name}", len(responses))
        with self.room.visit():
            for at in range(0, len(responses), PART):
                found += self._part(prompts[at : at + PART], responses[at : at + PART])
                if len(found) < len(responses):
                    clock.add(PART)
        scores = whole(np.asarray(found, np.float64))
        # Compared in float32, in which the bounds themselves are rounded.
        low = -np.inf if self.low is None else np.float32(self.low)
        high = np.inf if self.high is None else np.float32(self.high)
        outside = np.flatnonzero(np.isfinite(scores.values) & ((scores.values < low) | (scores.values > high)))
        if outside.size:
            first = int(outside.flat[0])
            raise MoaError(
                f"reward {self.name}: score {scores.values.flat[first]:g} for response {responses[first][:80]!r} is"
                f" outside of the declared [{low:g}, {high:g}]; correct the function, or `low` and `high`"
            )
        return scores

    def _part(self, prompts: list[str], responses: list[str]) -> list[float]:
        asked = f"(first of {len(prompts)} prompts: {prompts[0][:80]!r})"
        with _named(f"reward {self.name}:", f" {asked}; correct the reward"):
            returned = _items(self.function(list(prompts), list(responses)), len(responses) + 1)
            if not isinstance(returned, list):
                raise MoaError(
                    f"reward {self.name}: the function returned {reprlib.repr(returned)} {asked}; return a list with"
                    " one number per response"
                )
            if len(returned) != len(responses):
                count = len(returned) if len(returned) < len(responses) else f"more than {len(responses)}"
                raise MoaError(
                    f"reward {self.name}: returned {count} scores for {len(responses)} responses {asked}; return one"
                    " number per response"
                )
            return [self._number(value, response) for value, response in zip(returned, responses, strict=True)]

    def _number(self, value: Any, response: str) -> float:
        try:
            if value is None or isinstance(value, str | bytes):
                raise TypeError(f"a {type(value).__name__}")
            return float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise MoaError(
                f"reward {self.name}: the score of response {response[:80]!r} is {reprlib.repr(value)}, not a number"
                f" ({_text(error)}); return a list with one number per response"
            ) from None


def _items(returned: Any, most: int) -> Any:
    """Return at most so many items of a list, tuple, array, tensor or generator; another thing as it is."""
    torch = sys.modules.get("torch")
    if isinstance(returned, np.ndarray) or (torch is not None and isinstance(returned, torch.Tensor)):
        return returned.tolist()
    if isinstance(returned, str | bytes | Mapping | Set) or not isinstance(returned, Iterable):
        return returned
    return list(islice(returned, most))


@contextmanager
def _named(who: str, hint: str) -> Iterator[None]:
    """Give everything that the user's code can raise the reward's name; its trace goes to the log."""
    try:
        yield
    except MoaError:
        raise
    except Ended as error:
        raise Ended(f"{error} ({who.removesuffix(':')} was at work)") from None
    except SystemExit as error:
        raise MoaError(
            f"{who} ended the program, exit({reprlib.repr(error.code)}){hint}{_place(error)}: it must return, or raise"
            " what is wrong"
        ) from None
    except KeyboardInterrupt:
        raise MoaError(f"{who} interrupted{hint.partition(';')[0]}; run the same command again") from None
    except BaseException as error:  # whatever class it is of
        log.info("%s raised", who, exc_info=True)
        raise MoaError(
            f"{who} raised {type(error).__name__}: {_text(error)}{hint}{_place(error)}, then run again: finished stages"
            " are kept"
        ) from error


def _place(error: BaseException) -> str:
    """Return ' at file:line', the user's own line nearest to the error."""
    strange = ("<frozen", __file__)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(strange) and "site-packages" not in f.filename]
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""


def _text(error: BaseException) -> str:
    """Return an exception's message in one short line; the message may be code of the user's, too."""
    try:
        return " ".join(str(error).split())[:300]
    except Exception:
        return "without a message"


def find(name: str, spec: Python, room: Room) -> Callable[[list[str], list[str]], Any]:
    """Import the function, as a guest of `room`.

    Raises:
        MoaError: there is no such module or function, or importing it fails.
    """
    module_name, function_name = spec.function.split(":")
    with room.visit():
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
    found: Callable[[list[str], list[str]], Any] = function
    return found


def load(name: str, spec: Python, models: Sequence[Path], device: str | None) -> PythonScorer:
    """Import the function, and torch before it: a setting that the function changes is then known."""
    importlib.import_module("torch")
    room = Room()
    return PythonScorer(name, find(name, spec, room), spec.low, spec.high, room)


def _import(name: str, module: str) -> Any:
    with _named(f"reward {name}: importing '{module}'", "; correct the module"):
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
