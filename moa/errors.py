"""The one exception for mistakes that the reader can mend, and the exit path of every command."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 80  # characters of a key or value in a message


class MoaError(Exception):
    """A problem with the user's input or machine: what is wrong, where, and what to do.

    Commands print it without a stack trace and leave with status 1. The message names the file, key or row.
    """


class Diverged(MoaError):
    """Training produced a non-finite number; the last good checkpoint is kept."""


class NotFinite(MoaError):
    """A model's next-token distribution is NaN or infinite: nothing can be sampled from it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ' Did you mean ...?' for the nearest of `known`, or the list of what is known."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else f" Known: {', '.join(names)}."


def short(text: str) -> str:
    """Return `text`, cut where it is no name and no number any more."""
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."
