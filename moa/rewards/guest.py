"""Runs the user's own code as a guest: however it ends, the run's surroundings are as they were before.

Restored are the working folder, the environment, the search path, standard streams, random states, torch's and NumPy's
settings, numbers of threads, filters of warnings, logging, signal handlers, alarms, locale, umask and recursion limit.
What the guest made of its folder, environment and search path it finds again at its next call.

Nothing here is a sandbox. `os._exit`, a crash, threads and processes that go on, or another library's replaced
functions are beyond it.
"""

import io
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TextIO

import numpy as np
from threadpoolctl import threadpool_limits

from moa.errors import shown

PRINTED = 10_000  # characters that a guest may print per visit


@dataclass
class Room:
    """What the guest left as its own, for its next visit.

    Attributes:
        folder: its working folder; None: the run's.
        path: its search path; None: the run's.
        variables: of the environment that it set, or removed (None).
    """

    folder: str | None = None
    path: list[str] | None = None
    variables: dict[str, str | None] = field(default_factory=dict)

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Run the block as the guest's."""
        with ExitStack() as undo:
            _keep_process(undo)
            _keep_python(undo)
            _keep_numbers(undo)
            if "torch" in sys.modules:
                _keep_torch(undo)
            before, folder, path = dict(os.environ), os.getcwd(), list(sys.path)
            _set_variables(self.variables)
            if self.folder is not None:
                os.chdir(self.folder)
            sys.path[:] = path if self.path is None else self.path
            try:
                yield
            finally:
                self._leave(before, folder, path)

    def _leave(self, before: dict[str, str], folder: str, path: list[str]) -> None:
        names = before.keys() | os.environ.keys()
        self.variables = {name: os.environ.get(name) for name in names if before.get(name) != os.environ.get(name)}
        _set_variables({name: before.get(name) for name in self.variables})
        try:
            here = os.getcwd()
        except FileNotFoundError:  # the guest has removed it
            here = folder
        self.folder = None if here == folder else here
        self.path = None if sys.path == path else list(sys.path)


def _set_variables(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _keep(undo: ExitStack, get: Callable[[], Any], put: Callable[[Any], object]) -> None:
    """Put back what `get` returns now, if it has changed."""
    before = get()
    undo.callback(lambda: None if get() == before else put(before))


def _keep_process(undo: ExitStack) -> None:
    here = os.open(".", os.O_RDONLY)  # also found again when it has been renamed
    undo.callback(os.close, here)
    undo.callback(os.fchdir, here)
    mask = os.umask(0o077)
    os.umask(mask)
    undo.callback(os.umask, mask)
    if threading.current_thread() is threading.main_thread():  # only it may set handlers
        known = {number: signal.getsignal(number) for number in signal.valid_signals()}
        for number, handler in known.items():
            if handler is not None:
                _keep(undo, partial(signal.getsignal, number), partial(signal.signal, number))
        undo.callback(
            lambda before: signal.setitimer(signal.ITIMER_REAL, *before), signal.getitimer(signal.ITIMER_REAL)
        )
    _keep(undo, lambda: locale.setlocale(locale.LC_ALL), lambda name: locale.setlocale(locale.LC_ALL, name))


def _keep_python(undo: ExitStack) -> None:
    undo.enter_context(warnings.catch_warnings())
    undo.callback(setattr, sys, "path", sys.path)
    undo.callback(sys.path.__setitem__, slice(None), list(sys.path))
    _keep(undo, sys.getrecursionlimit, sys.setrecursionlimit)
    root = logging.getLogger()
    _keep(undo, lambda: root.level, root.setLevel)
    _keep(undo, lambda: root.manager.disable, logging.disable)
    undo.callback(root.handlers.__setitem__, slice(None), list(root.handlers))
    _keep(undo, lambda: sys.stdin, lambda stream: setattr(sys, "stdin", stream))
    sys.stdin = io.StringIO()  # a question is answered by the end of the file
    for redirect in (redirect_stdout, redirect_stderr):
        undo.enter_context(redirect(_Printed(sys.stderr)))


def _keep_numbers(undo: ExitStack) -> None:
    undo.callback(random.setstate, random.getstate())
    undo.callback(np.random.set_state, np.random.get_state())
    undo.enter_context(np.errstate())
    undo.enter_context(threadpool_limits(limits=None))  # sets none, and puts back what was


def _keep_torch(undo: ExitStack) -> None:
    import torch  # is loaded already

    undo.callback(torch.set_rng_state, torch.get_rng_state())
    if torch.cuda.is_initialized():
        undo.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
    _keep(undo, torch.get_default_dtype, torch.set_default_dtype)
    _keep(undo, torch.get_default_device, lambda _: torch.set_default_device(None))  # the run has set none
    _keep(undo, torch.is_grad_enabled, torch.set_grad_enabled)
    _keep(undo, torch.get_num_threads, torch.set_num_threads)
    _keep(undo, torch.get_float32_matmul_precision, torch.set_float32_matmul_precision)
    _keep(undo, torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode)
    cudnn = torch.backends.cudnn
    undo.callback(setattr, cudnn, "benchmark", cudnn.benchmark)
    undo.callback(setattr, cudnn, "deterministic", cudnn.deterministic)


class _Printed(io.TextIOBase):
    """Passes on what a guest prints, as escapes where a terminal would obey, and stops after a while."""

    def __init__(self, to: TextIO) -> None:
        self.to, self.left = to, PRINTED

    def writable(self) -> bool:
        """Return that it is."""
        return True

    def write(self, text: str) -> int:
        """Pass on as much as may still be printed."""
        if self.left > 0:
            self.to.write(shown(text[: self.left]))
            self.left -= len(text)
            if self.left <= 0:
                self.to.write(f"\n(a reward printed more than {PRINTED} characters; the rest is left out)\n")
        return len(text)
