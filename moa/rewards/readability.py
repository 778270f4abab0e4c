"""Readability: a published grade-level formula, mapped linearly to [0, 1]; English only, no dictionary needed.

* ARI, the automated readability index (Smith and Senter 1967, AMRL-TR-66-220):
  4.71 characters/words + 0.5 words/sentences - 21.43
* Coleman-Liau index (Coleman and Liau 1975, J. Appl. Psychol. 60(2)):
  0.0588 L - 0.296 S - 15.8, with L letters and S sentences per 100 words

Choices where the sources are silent:
1. A word is what stands between white space and holds a letter or digit; only letters and digits count as characters
   (ARI), only letters as letters (Coleman-Liau).
2. A sentence ends with . ! ? or an ellipsis before white space or the end; 'Mr. Hyde' therefore counts an end too many,
   as in every implementation without a dictionary. Text without such an end is one sentence.
3. Text without any word ('!!!') cannot be read: it scores 0.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from moa.experiment.rewards import Readability
from moa.rewards.scoring import Formula

END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s|$)""")


def words(text: str) -> list[str]:
    """Return the parts between white space that hold a letter or digit."""
    return [part for part in text.split() if any(map(str.isalnum, part))]


def sentences(text: str) -> int:
    """Return the number of sentences that hold a word; at least 1."""
    return max(1, sum(bool(words(piece)) for piece in END.split(text)))


def grade(text: str, formula: Literal["ari", "coleman_liau"]) -> float | None:
    """Return the US school grade that the text asks for, unclipped; None for a text without words."""
    found = words(text)
    if not found:
        return None
    if formula == "ari":
        characters = sum(map(str.isalnum, text))
        return 4.71 * characters / len(found) + 0.5 * len(found) / sentences(text) - 21.43
    letters = sum(map(str.isalpha, text))
    return 0.0588 * 100 * letters / len(found) - 0.296 * 100 * sentences(text) / len(found) - 15.8


def reward(text: str, formula: Literal["ari", "coleman_liau"], easy: float, hard: float) -> float:
    """Return clip((hard - grade) / (hard - easy), 0, 1).

    It is 1 at grade `easy` or below, and 0 at `hard` or above or without words.
    """
    level = grade(text, formula)
    return 0.0 if level is None else min(max((hard - level) / (hard - easy), 0.0), 1.0)


def load(name: str, spec: Readability, models: Sequence[Path], device: str | None) -> Formula:
    """Return the scorer."""
    return Formula(lambda response: reward(response, spec.formula, spec.easy, spec.hard), 0.0)
