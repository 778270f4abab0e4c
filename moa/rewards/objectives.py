"""Every objective's reward, loaded together: what training, best of n and the API score responses with.

Notation: B responses; K objectives.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moa.experiment.schema import ScoringSection
from moa.rewards import scoring


class Objectives:
    """Scores batches of responses with every objective's reward, in the objectives' order."""

    def __init__(self, scorers: Mapping[str, tuple[str, scoring.Scorer]], floors: Mapping[str, float | None]) -> None:
        """Take objective -> (its reward's name, the loaded reward), and what a blank response is worth, raw."""
        self.scorers, self.floors = dict(scorers), dict(floors)

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        """Return raw scores (B, K).

        Raises:
            MoaError: a reward fails, or returns what is no score (`scoring.score`).
        """
        columns = [
            scoring.score(name, scorer, list(prompts), list(responses), self.floors[objective]).values
            for objective, (name, scorer) in self.scorers.items()
        ]
        return np.stack(columns, 1).astype(np.float32)

    @property
    def tokens(self) -> int:
        """How many tokens the rewards have read so far."""
        return sum(scorer.tokens for scorer in {id(scorer): scorer for _, scorer in self.scorers.values()}.values())


def load(section: ScoringSection, folders: Sequence[Path], floors: Mapping[str, float | None]) -> Objectives:
    """Load the reward of every objective; `folders` hold those that were trained here."""
    names = {objective: declared.reward for objective, declared in section.objectives.items()}
    loaded = scoring.load_several({name: section.rewards[name] for name in names.values()}, folders)
    return Objectives({objective: (name, loaded[name]) for objective, name in names.items()}, floors)
