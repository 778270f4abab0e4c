"""Quality of the responses behind a point, by counting words; no model.

A word is a run of letters, digits or underscores, with apostrophes inside, in lower case.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
REPEATED_GRAM = 4  # words
REPEATED_TIMES = 3
REPEATED_RUN = 3  # times the same word in a row: a text of few words has no room for a repeated 4-gram


def words(text: str) -> list[str]:
    """Return the words of `text` in lower case."""
    return WORD.findall(text.lower())


def grams(sequence: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """Yield every run of `size` neighbouring words."""
    return zip(*(sequence[i:] for i in range(size)), strict=False)


def repeats(sequence: Sequence[str]) -> bool:
    """Return whether some word 4-gram occurs at least three times, or a word stands three times in a row.

    Overlapping 4-grams count.
    """
    counts = Counter(grams(sequence, REPEATED_GRAM))
    often = bool(counts) and max(counts.values()) >= REPEATED_TIMES
    return often or any(len(set(run)) == 1 for run in grams(sequence, REPEATED_RUN))


def empty_rate(responses: Sequence[str]) -> float:
    """Return the share of responses that are blank."""
    return sum(not response.strip() for response in responses) / len(responses)


def distinct(sequences: Sequence[Sequence[str]], size: int) -> float:
    """Return distinct-n (Li et al. 2016): distinct n-grams over n-grams of all responses' words together.

    It is 0 where there are none.
    """
    seen = [gram for sequence in sequences for gram in grams(sequence, size)]
    return len(set(seen)) / len(seen) if seen else 0.0
