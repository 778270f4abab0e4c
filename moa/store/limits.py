"""What a query may take: memory, as much temporary disk, and seconds; and how it ends when it takes more, or at Ctrl-C.

DuckDB's own limit covers its tables and sorts, which then go to disk, but not every list and text, and some functions
cannot be interrupted. So the process has a limit, too, and the query runs beside a thread that watches it.
"""

import re
import resource
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from moa.errors import MoaError, Unstoppable

INTERRUPTED = 130  # the status after Ctrl-C, as typer and shells have it
MEMORY, SECONDS = "25%", 60.0
BESIDE = 512 * 2**20  # bytes that Python and texts on their way out may take beside DuckDB's memory
UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}  # as DuckDB prints its limit
POLL_SECONDS, GRACE_SECONDS = 0.05, 0.25
TOO_LARGE = (
    "the query needs more memory than it may take; ask for less (LIMIT, WHERE, fewer joined rows), or allow more with"
    " --memory"
)


@dataclass(frozen=True)
class Limits:
    """What a query may take.

    Attributes:
        memory: like 2GB, or 25% of what the machine has; as much again of temporary disk.
        seconds: until it is interrupted; writing its rows does not count.
    """

    memory: str = MEMORY
    seconds: float = SECONDS


@dataclass
class Clock:
    """Counts the seconds in which the database works, and ends a query that takes too many."""

    seconds: float
    spent: float = 0.0
    since: float | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what the block takes."""
        began = self.since = time.perf_counter()
        try:
            yield
        finally:
            self.since = None
            self.spent += time.perf_counter() - began

    def total(self) -> float:
        """Return the seconds so far, the running block's included."""
        since = self.since
        return self.spent + (0.0 if since is None else time.perf_counter() - since)

    def watch(self, work: Callable[[], None], interrupt: Callable[[], None]) -> None:
        """Run `work` in a thread to its end, at most for the clock's seconds; what it raises is raised here.

        Raises:
            MoaError: the time is over and the thread has ended.
            KeyboardInterrupt: Ctrl-C, and the thread has ended.
            Unstoppable: either, and the thread goes on.
        """
        raised: list[BaseException] = []
        ended = threading.Event()  # a thread whose join Ctrl-C has interrupted says that it has ended

        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # the caller's thread raises it
                raised.append(error)
            finally:
                ended.set()

        threading.Thread(target=guarded, daemon=True).start()
        try:
            while not ended.wait(POLL_SECONDS) and self.total() < self.seconds:
                pass
        except KeyboardInterrupt:
            interrupt()
            if not ended.wait(GRACE_SECONDS):
                raise Unstoppable("interrupted", INTERRUPTED) from None
            raise
        if not ended.is_set():
            late = f"no answer within {self.seconds:g} s; ask for less, or allow more seconds: --timeout 600"
            interrupt()
            raise MoaError(late) if ended.wait(GRACE_SECONDS) else Unstoppable(late, 1)
        if raised:
            raise raised[0]


@contextmanager
def bounded(limits: Limits) -> Iterator[tuple[dict[str, str], Clock]]:
    """Yield DuckDB's settings and a clock; while the block runs, the process has a limit of memory."""
    if not limits.seconds > 0:
        raise MoaError(f"--timeout {limits.seconds:g}: give a number of seconds above 0")
    shown, count = _memory(limits.memory)
    spill = Path(_folder()) / f"moa-{uuid.uuid4().hex}"  # DuckDB makes it when it needs it
    settings = {"memory_limit": shown, "max_temp_directory_size": shown, "temp_directory": str(spill)}
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = psutil.Process().memory_info().data + count + BESIDE
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    try:
        yield settings, Clock(limits.seconds)
    except MemoryError:
        raise MoaError(TOO_LARGE) from None
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        shutil.rmtree(spill, ignore_errors=True)


@cache
def _memory(text: str) -> tuple[str, int]:
    """Return a limit as DuckDB writes it, and its bytes."""
    import duckdb  # here, since the command line reads the defaults above before it knows that it will be needed

    try:
        if text.strip().startswith("-"):
            raise MoaError(f"--memory {text}: give a positive size")
        with duckdb.connect(config={"memory_limit": text}) as asked:
            (shown,) = asked.execute("SELECT current_setting('memory_limit')").fetchone() or ("",)
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise MoaError(f"--memory {text}: no size ({reason}); give one like 2GB, 500MB or 25%") from None
    number, unit = re.fullmatch(r"([\d.]+) (\w+)", shown).groups()  # type: ignore[union-attr]
    return shown, int(float(number) * UNITS[unit])


def _folder() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # none can be written to: only a query that needs the disk will fail
        return "/tmp"
