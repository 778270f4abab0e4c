"""Conciseness: 1 up to `full` units of length, then falling linearly to 0 at `zero` units; bounded at both ends.

Units are those of moa/rewards/length.py. A blank response is not concise but empty: it scores 0.
"""

from collections.abc import Sequence
from pathlib import Path

from moa.experiment.rewards import Conciseness
from moa.rewards.length import measure
from moa.rewards.scoring import Formula


def reward(length: float, full: float, zero: float) -> float:
    """Return clip((zero - length) / (zero - full), 0, 1)."""
    return min(max((zero - length) / (zero - full), 0.0), 1.0)


def load(name: str, spec: Conciseness, models: Sequence[Path], device: str | None) -> Formula:
    """Return the scorer."""
    return Formula(lambda response: reward(measure(response, spec.unit), spec.full, spec.zero), 0.0)
