"""A user's reward that misbehaves as the variable MOA_GUEST says: 'raise:3' raises in the third call.

Without the variable it is a plain function of the response: the share of its vowels.
"""

import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable

import numpy as np

calls = 0


def score(prompts: list[str], responses: list[str]) -> list[float]:
    """Return the share of vowels in each response, from 0 to 1."""
    global calls
    calls += 1
    what, _, number = os.environ.get("MOA_GUEST", "").partition(":")
    values = [sum(c in "aeiou" for c in r.lower()) / max(1, len(r)) for r in responses]
    if not what or calls < int(number or 1):
        return values
    if what in RETURNS:
        return RETURNS[what](values)  # type: ignore[return-value]
    ACTS[what](prompts, responses)
    return values


def _raise(error: BaseException) -> Callable[[list[str], list[str]], object]:
    def act(prompts: list[str], responses: list[str]) -> object:
        raise error

    return act


def _recurse(prompts: list[str], responses: list[str]) -> object:
    return _recurse(prompts, responses)


def _kill_itself(prompts: list[str], responses: list[str]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _change_folder(prompts: list[str], responses: list[str]) -> None:
    os.chdir("/")


def _seed(prompts: list[str], responses: list[str]) -> None:
    import torch

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def _dtype(prompts: list[str], responses: list[str]) -> None:
    import torch

    torch.set_default_dtype(torch.float64)


def _threads(prompts: list[str], responses: list[str]) -> None:
    import torch

    torch.set_num_threads(3)


def _no_gradients(prompts: list[str], responses: list[str]) -> None:
    import torch

    torch.set_grad_enabled(False)


def _change_arguments(prompts: list[str], responses: list[str]) -> None:
    prompts.clear()
    responses.reverse()


def _print(prompts: list[str], responses: list[str]) -> None:
    print("\x1b[2Jerror: a guest's own words", flush=True)


def _no_output(prompts: list[str], responses: list[str]) -> None:
    sys.stdout = None


def _umask(prompts: list[str], responses: list[str]) -> None:
    os.umask(0o777)


def _signals(prompts: list[str], responses: list[str]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)


def _variables(prompts: list[str], responses: list[str]) -> None:
    os.environ["OMP_NUM_THREADS"] = "7"
    os.environ["TMPDIR"] = "/nowhere"


def _thread(prompts: list[str], responses: list[str]) -> None:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


# What the function returns, in place of its values: each is refused.
RETURNS: dict[str, Callable[[list[float]], object]] = {
    "nan": lambda v: [float("nan"), *v[1:]],
    "infinite": lambda v: [float("inf"), *v[1:]],
    "too-few": lambda v: v[1:],
    "too-many": lambda v: [*v, 0.5],
    "nothing": lambda v: None,
    "words": lambda v: ["good"] * len(v),
    "matrix": lambda v: [[x, x] for x in v],
    "outside": lambda v: [1e38] * len(v),
    "one-number": lambda v: 0.5,
    "complex": lambda v: [complex(x, 1.0) for x in v],
}
# What it does before it returns its values.
FAILING: dict[str, Callable[[list[str], list[str]], object]] = {
    "raise": _raise(RuntimeError("the service is down\nsecond line")),
    "interrupt": _raise(KeyboardInterrupt()),
    "memory": _raise(MemoryError()),
    "stop": _raise(StopIteration()),
    "exit": _raise(SystemExit(3)),
    "exit-well": _raise(SystemExit(0)),
    "exit-with-words": _raise(SystemExit("bye")),
    "recurse": _recurse,
}
ENDING: dict[str, Callable[[list[str], list[str]], object]] = {
    "end-at-once": lambda prompts, responses: os._exit(0),
    "kill-itself": _kill_itself,
}
HARMLESS: dict[str, Callable[[list[str], list[str]], object]] = {
    "sleep": lambda prompts, responses: time.sleep(0.2),
    "change-folder": _change_folder,
    "seed": _seed,
    "dtype": _dtype,
    "threads": _threads,
    "no-gradients": _no_gradients,
    "change-arguments": _change_arguments,
    "print": _print,
    "no-output": _no_output,
    "umask": _umask,
    "signals": _signals,
    "variables": _variables,
    "thread": _thread,
}
ACTS = FAILING | ENDING | HARMLESS
