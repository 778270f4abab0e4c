"""The one exception for mistakes that the reader can mend, and how its message, or any text, is shown."""

import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 80  # characters of a key or value in a message
LISTED = 20  # names in a list; the others are counted
REASON = 300  # characters of a library's own words
LINES = 40  # of a message; the others are counted
HEAD, TAIL = 800, 400  # characters that stay of a message's longer lines: what is wrong, and what to do
INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidirectional, zero width), surrogate, line separators


class MoaError(Exception):
    """A problem with the user's input or machine: what is wrong, where, and what to do.

    Commands print it without a stack trace and leave with status 1. The message names the file, key or row. It may
    quote what a file holds, so the middle of an endless line is left out, and the rest of endless lines.
    """

    def __init__(self, message: str) -> None:
        lines = message.split("\n")
        rest = [f"... and {len(lines) - LINES + 1} more lines"] if len(lines) > LINES else []
        super().__init__("\n".join([*map(_bounded, lines[: LINES - len(rest)]), *rest]))


def _bounded(line: str) -> str:
    return line if len(line) <= HEAD + TAIL else f"{line[:HEAD]} ... {line[-TAIL:]}"


class Diverged(MoaError):
    """Training produced a non-finite number; the last good checkpoint is kept."""


class NotFinite(MoaError):
    """A model's next-token distribution is NaN or infinite: nothing can be sampled from it."""


class Ended(SystemExit):
    """A signal from outside ends the job: nobody's mistake, and no code's own exit."""


class Unstoppable(MoaError):
    """What was asked goes on in a thread that cannot be interrupted: the process has to end with `status`."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ' Did you mean ...?' for the nearest of `known`, or the list of what is known."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else f" Known: {listed(names)}."


def listed(names: Iterable[str]) -> str:
    """Return names with commas between them; of many the first, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - LISTED} more" if len(every) > LISTED else ""
    return ", ".join(map(short, every[:LISTED])) + more


def short(text: str) -> str:
    """Return `text`, cut where it is no name and no number any more."""
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def one_line(error: BaseException) -> str:
    """Return what a library's error says, in one line; its name where it says nothing."""
    text = " ".join(str(error).split())
    return (text if len(text) <= REASON else text[:REASON] + "...") or type(error).__name__


def visible(text: str) -> str:
    r"""Return `text` with characters that a terminal would obey, not show, as \u escapes; line ends, too."""
    return "".join(_escape(c) if unicodedata.category(c) in INVISIBLE else c for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def shown(text: str) -> str:
    """Return text of several lines with each line made visible."""
    return "\n".join(visible(line) for line in text.split("\n"))
