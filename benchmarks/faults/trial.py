"""One trial of the campaign: what was tried, how it ended, and a process of its own to try it in."""

import os
import random
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEMORY = 6 * 2**30  # bytes of address space beyond the libraries'; a trial that wants more has no bound of its own
TRACE = "Traceback (most recent call last)"
MOST = 4 * 2**20  # bytes of output that are kept
LONGEST = 1500  # characters of one clear line


@dataclass(frozen=True)
class Trial:
    """One thing to try.

    Attributes:
        kind: of the table.
        number: within the kind; with the campaign's seed it decides everything that is drawn.
        what: the file and the damage, the statement, the signals.
        how: how such trials are made, for the page.
        run: tries it in an empty folder.
    """

    kind: str
    number: int
    what: str
    how: str
    run: Callable[["Place"], "Verdict"] = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number}"


@dataclass(frozen=True)
class Place:
    """Where a trial works: an empty folder, a generator of its own, and how long it may take."""

    folder: Path
    random: random.Random
    seconds: float = 120.0


@dataclass(frozen=True)
class Verdict:
    """How a trial ended.

    Attributes:
        survived: it ended as it should.
        equal: whether the results' bytes were those of an undisturbed run; None where there are none to compare.
        outcome: refused, recovered, harmless, or what went wrong.
        said: the line that the user saw.
        differed: what was not equal.
        tried: kills, files or statements in this trial.
    """

    survived: bool
    equal: bool | None
    outcome: str
    said: str = ""
    differed: str = ""
    tried: int = 1


@dataclass(frozen=True)
class End:
    """How a process ended: its status (negative: a signal), all that it printed, peak memory (MiB), seconds, hung."""

    status: int
    output: str
    memory: float
    seconds: float
    hung: bool

    @property
    def trace(self) -> bool:
        return TRACE in self.output

    @property
    def complaint(self) -> str:
        """What stands from the last 'error: ' at the beginning of a line to the end."""
        found = self.output.rfind("\nerror: ")
        start = found + 1 if found >= 0 else (0 if self.output.startswith("error: ") else len(self.output))
        return self.output[start:].strip()

    @property
    def last(self) -> str:
        lines = self.output.strip().splitlines()
        return lines[-1][:300] if lines else ""

    def unclear(self, *names: str, lines: int = 1) -> str:
        """Return why this is not one clear line with one of `names`; '' where it is."""
        said = self.complaint
        if self.hung:
            return f"hung: not ended after {self.seconds:.0f} s"
        if self.trace:
            return f"a trace: {self.last}"
        if self.status < 0 or self.status > 128:
            return f"killed by signal {-self.status if self.status < 0 else self.status - 128}"
        if not said:
            return f"no line that begins with 'error: ' (status {self.status}): {self.last}"
        if len(said.splitlines()) > lines or len(said) > LONGEST * lines:
            return f"{len(said.splitlines())} lines, {len(said)} characters: {said[:200]}"
        if names and not any(name in said for name in names):
            return f"the line does not name {' or '.join(names)}: {said[:300]}"
        return ""


def isolated(body: Callable[[], object], place: Place, answers: str = "", memory: int = MEMORY) -> End:
    """Run `body` in a fork of this process, whose folder is the place's, and return how it ended.

    A fork has every library loaded already. It reads `answers` from its standard input, may map `memory` more bytes
    than it begins with, and is ended with all its children when the place's seconds are over.
    """
    asked = place.folder.parent / f"{place.folder.name}.input"
    asked.write_text(answers)
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.perf_counter()
    reader, writer = os.pipe()  # a limit on file sizes does not reach it
    child = os.fork()
    if not child:
        os.close(reader)
        _become(body, place.folder, (asked, writer), memory)
    os.close(writer)
    printed, hung, ended = bytearray(), False, None
    while ended is None:
        _read(reader, printed, 0.02)
        pid, status, used = os.wait4(child, os.WNOHANG)
        if pid:
            ended = status
        elif time.perf_counter() - began > place.seconds:
            hung = True
            os.killpg(child, signal.SIGKILL)
            _, ended, used = os.wait4(child, 0)
    seconds = time.perf_counter() - began
    end_group(child)
    while _read(reader, printed, 0.5):
        pass
    os.close(reader)
    output = printed.decode(errors="replace")
    place.folder.parent.joinpath(f"{place.folder.name}.output").write_text(output, encoding="utf-8")
    return End(os.waitstatus_to_exitcode(ended), output, used.ru_maxrss / 1024, seconds, hung)


def _read(reader: int, into: bytearray, seconds: float) -> bool:
    """Add what there is to read; False at the end or where nothing came in time."""
    if not select.select([reader], [], [], seconds)[0]:
        return False
    part = os.read(reader, 65536)
    into += part[: max(0, MOST - len(into))]
    return bool(part)


def end_group(group: int) -> None:
    """Kill whatever is left of a process group."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _become(body: Callable[[], object], folder: Path, streams: tuple[Path, int], memory: int) -> None:
    """Be the fork: never returns."""
    status = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.dup2(os.open(streams[0], os.O_RDONLY), 0)
        os.dup2(streams[1], 1)
        os.dup2(streams[1], 2)
        _renew_streams()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        body()
        status = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        status = 1 if isinstance(ended.code, str) else int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):  # a guest may have put None there
            try:
                stream.flush()
            except (OSError, ValueError):
                status = status or 1
        os._exit(status)


def _renew_streams() -> None:
    """Make Python's streams anew: the parent's, which may be files, remember that they can seek, and a pipe cannot."""
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  they last as long as the process
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def outcome(end: End, names: tuple[str, ...], different: list[str] | None, lines: int = 1) -> Verdict:
    """Judge a job on damaged or hostile input: refused in a clear line, or right results; anything else is a failure.

    `different` lists where the results differ from an undisturbed run's; None where there are none to compare.
    """
    if end.status == 0 and not end.hung:
        if end.trace:
            return Verdict(False, not different, "a trace", end.last)
        if different is None:
            return Verdict(True, None, "harmless", end.last)
        wrong = "; ".join(different[:6])
        return Verdict(not different, not different, "wrong results, status 0" if different else "recovered", "", wrong)
    why = end.unclear(*names, lines=lines)
    return Verdict(not why, None, "refused" if not why else "unclear", why or end.complaint[:400])


def row(trial: Trial, seed: int, verdict: Verdict, seconds: float) -> Mapping[str, Any]:
    """Return a trial as a row of the campaign's Parquet file."""
    return {
        "kind": trial.kind,
        "number": trial.number,
        "seed": seed,
        "what": trial.what,
        "how": trial.how,
        "tried": verdict.tried,
        "survived": verdict.survived,
        "equal": verdict.equal,
        "outcome": verdict.outcome,
        "said": verdict.said,
        "differed": verdict.differed,
        "seconds": seconds,
    }
