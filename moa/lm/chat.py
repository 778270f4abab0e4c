"""Chat templates: programs that a tokenizer brings along, so they are run as foreign code is.

Transformers renders them in Jinja's immutable sandbox. Added here: a bound of time and memory, one date for ever, a
seeded random choice, and the check that every message stands in what comes out.
"""

import json
import os
import random
import re
import resource
import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moa.errors import MoaError, nearest, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]
DATE = datetime(2024, 7, 26)  # every day's date for templates that ask for one; Llama 3's templates default to it
PROBE = "Hello, world. " * 64  # a message, long enough to show what grows with its cube
SECONDS, MEMORY, LONGEST = 5, 2**30, 10**6  # what it may take: processor seconds, more bytes, characters
OTHER = "chat: false, or another chat model"


def _fixed_date() -> str:
    """Return a macro that stands in the place of Transformers' `strftime_now`, whose date would change every day."""
    known = {f"%{dash}{letter}" for dash in ("", "-") for letter in "aAbBdeHIjmMpSyY"}
    filled = "".join(f"|replace('{directive}', '{DATE.strftime(directive)}')" for directive in sorted(known))
    return "{% macro strftime_now(format) %}{{ format" + filled + " }}{% endmacro +%}"


def render(messages: Messages, tokenizer: "PreTrainedTokenizerBase", extra: Mapping[str, Any]) -> str:
    """Return the text of the messages, with the beginning of an answer after them.

    `extra` are the template's own switches (`conditioning.chat_template_kwargs`).

    Raises:
        MoaError: there is no template; it fails, takes too long or too much memory, or leaves a message out.
    """
    if tokenizer.chat_template is None:
        raise MoaError(
            "conditioning.chat is true, but the model's tokenizer has no chat template; set chat: false, or use a chat"
            " model"
        )
    shape = json.dumps([[message["role"] for message in messages], dict(extra)], sort_keys=True)
    _check(tokenizer, _template(tokenizer), shape)
    name = f"conditioning: the chat template of {tokenizer.name_or_path or 'the tokenizer'}"
    try:
        made = _render(messages, tokenizer, extra)
    except Exception as error:  # whatever a foreign program may end with
        remedy = "role: user" if len(messages) > 1 else OTHER
        raise MoaError(
            f"{name} refuses the messages ({type(error).__name__}: {one_line(error)}); try {remedy}"
        ) from error
    for message in messages:
        if message["content"].strip() not in made:
            remedy = "role: user" if message["role"] == "system" else OTHER
            raise MoaError(
                f"{name} leaves out the {message['role']}'s message {message['content'][:60]!r}, or changes it, so that"
                f" the policy would never read it; try {remedy}"
            )
    return made


def _template(tokenizer: "PreTrainedTokenizerBase") -> str:
    found: str = tokenizer.get_chat_template()
    return found


def _render(messages: Messages, tokenizer: "PreTrainedTokenizerBase", extra: Mapping[str, Any]) -> str:
    template, state = _template(tokenizer), random.getstate()
    if "strftime_now" in template:
        template = _fixed_date() + template
    random.seed(0)  # of Jinja's filter `random`
    try:
        made = tokenizer.apply_chat_template(
            list(map(dict, messages)), chat_template=template, tokenize=False, add_generation_prompt=True, **extra
        )
    finally:
        random.setstate(state)
    assert isinstance(made, str)
    return made


@lru_cache(maxsize=32)
def _check(tokenizer: "PreTrainedTokenizerBase", template: str, shape: str) -> None:
    """Render once in a child process, where what never ends is ended; refuse switches that the template does not know.

    `shape` is what a template's course depends on beside the contents: roles and switches, as JSON.
    """
    roles, extra = json.loads(shape)
    name = f"the chat template of {tokenizer.name_or_path or 'the tokenizer'}"
    for key in extra:
        if not re.search(rf"\b{re.escape(key)}\b", template):
            switches = set(re.findall(r"([A-Za-z_]\w*)\s+is\s+(?:not\s+)?defined", template))
            hint = nearest(key, switches) if switches else " It has no switches."
            raise MoaError(f"conditioning.chat_template_kwargs: {name} does not use '{key}'.{hint}")
    probe = [{"role": role, "content": PROBE} for role in roles]
    reason = _unbounded(lambda: _render(probe, tokenizer, extra))
    if reason is not None:
        raise MoaError(f"conditioning: {name} {reason}; try {OTHER}")


def _unbounded(work: Callable[[], str]) -> str | None:
    """Do the work in a child; return what it takes too much of, None where it ends in time, with an error or without.

    A thread cannot be stopped, and a signal waits for a long operation to end.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads are not needed in the child
        child = os.fork()
    if child == 0:
        try:
            _limit()
            os._exit(2 if len(work()) > LONGEST else 0)
        except MemoryError:
            os._exit(1)
        except BaseException:  # is raised again, and explained, outside
            os._exit(0)
    deadline = time.monotonic() + 6 * SECONDS
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    if not os.WIFEXITED(ended[1]):
        return f"does not end within {SECONDS} seconds"
    return (None, f"needs more than {MEMORY >> 20} MiB", f"makes more than {LONGEST} characters of {len(PROBE)}")[
        os.WEXITSTATUS(ended[1])
    ]


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    pages = Path("/proc/self/statm")
    if pages.exists():  # on Linux
        most = int(pages.read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
