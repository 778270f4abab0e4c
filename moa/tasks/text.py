"""Text of datasets: cleaning, sentences, openings."""

import hashlib
import re

BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
SPACE = re.compile(r"\s+")
# A candidate for the end of a sentence: terminal marks, closing quotes or brackets, then space; or a full-width mark.
END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s)|[。！？]+["'”’)\]」』]*""")
TITLES = frozenset(
    (
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "st",
        "sgt",
        "capt",
        "lt",
        "rev",
        "hon",
        "gov",
        "sen",
        "rep",
        "gen",
        "vs",
        "cf",
        "e.g",
        "i.e",
    )
)
ABBREVIATIONS = frozenset(
    ("etc", "jr", "sr", "inc", "ltd", "co", "corp", "dept", "est", "approx", "a.m", "p.m", "u.s", "u.k", "d.c", "ph.d")
)


def clean(text: str) -> str:
    """Return `text` with HTML line breaks and every run of white space as one space; unpaired surrogates become '?'."""
    return SPACE.sub(" ", BREAK.sub(" ", encodable(text))).strip()


def encodable(text: str) -> str:
    """Return `text` with unpaired surrogates, which no file can hold, as '?'; JSON can carry them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def first_sentences(text: str, count: int) -> str:
    """Return the first `count` sentences of `text`, all of it if it has fewer.

    A full stop ends no sentence after a title or a single letter (an initial). After another abbreviation, and as a row
    of dots, it ends one only where no small letter follows.

        >>> first_sentences("Mr. T. wins... again! Twice? Yes.", 2)
        'Mr. T. wins... again! Twice?'
    """
    found = 0
    for match in END.finditer(text):
        found += _ends(text, match)
        if found == count:
            return text[: match.end()]
    return text


def _ends(text: str, match: re.Match[str]) -> bool:
    mark = match[0]
    if mark[0] != "." or mark[:2] == ".)":
        return True
    continues = text[match.end() : match.end() + 5].lstrip("\"'“‘( ")[:1].islower()
    if mark.startswith(".."):
        return not continues
    before = re.search(r"[^\s(\"'“‘\[]*$", text[max(0, match.start() - 20) : match.start()])
    word = before[0].lower() if before else ""
    initial = len(word) == 1 and word.isalpha() and word != "i"
    return not initial and word not in TITLES and not (continues and word in ABBREVIATIONS)


def split_opening(text: str, least: int, most: int) -> tuple[str, str] | None:
    """Split `text` (cleaned) into an opening of `least`..`most` words and the rest, which starts with its space.

    The number of words is drawn from the text's content. At least one word is left for the rest; None where `text` is
    too short.
    """
    words = text.split(" ")
    if len(words) <= least:
        return None
    draw = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % (most - least + 1)
    prompt = " ".join(words[: min(least + draw, len(words) - 1)])
    return prompt, text[len(prompt) :]


def first_turn(text: str, start: str, end: str) -> tuple[str, str] | None:
    """Return a dialogue's first prompt and the response to it, without the marks of the speakers.

    The prompt stands between the first `start` and the next `end`, the response before the next `start`. None where one
    of them is missing or blank.

        >>> first_turn("Q: Why? A: So. Q: And? A: No.", "Q:", "A:")
        ('Why?', 'So.')
    """
    prompt, mark, rest = text.partition(start)[2].partition(end)
    response = rest.partition(start)[0]
    return (prompt.strip(), response.strip()) if mark and prompt.strip() and response.strip() else None


def split_after(text: str, end: str) -> tuple[str, str] | None:
    """Split `text` after the last `end`: the prompt with it, and what follows.

    The result is None where `end` is missing or nothing follows.
    """
    head, mark, tail = text.rpartition(end)
    return (head + mark, tail) if mark and tail.strip() else None
