"""PAMA's length reward, clip(l / 140, 70 / 140, 210 / 140) (arXiv 2508.07768, section 6; docs/papers.md 2.6).

Choices where the paper is silent:
1. l counts characters (Unicode code points, white space included); the paper does not name its unit.
2. `unit: tokens` counts words and punctuation marks, because a reward must not depend on the tokenizer of the policy
   that it judges: "It's fine, really." has 5 of them: It's | fine | , | really | .
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from moa.experiment.rewards import Length
from moa.rewards.scoring import Formula

TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def measure(text: str, unit: Literal["characters", "tokens"]) -> int:
    """Return the length of `text` in characters (code points) or in tokens (words and punctuation marks)."""
    return len(text) if unit == "characters" else len(TOKEN.findall(text))


def reward(length: float, divisor: float, low: float, high: float) -> float:
    """Return clip(length / divisor, low, high)."""
    return min(max(length / divisor, low), high)


def load(name: str, spec: Length, models: Sequence[Path], device: str | None) -> Formula:
    """Return the scorer."""
    return Formula(lambda response: reward(measure(response, spec.unit), spec.divisor, spec.low, spec.high), spec.low)
