"""VADER's compound sentiment (Hutto and Gilbert, ICWSM 2014), a published rule-based model that runs offline.

The compound score is in [-1, 1]; the reference implementation, used here, itself rounds it to four decimals.
"""

from collections.abc import Sequence
from pathlib import Path

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from moa.experiment.rewards import Vader
from moa.rewards.scoring import Formula, bounds


def load(name: str, spec: Vader, models: Sequence[Path], device: str | None) -> Formula:
    """Return the scorer; the lexicon is read once."""
    analyser = SentimentIntensityAnalyzer()

    def compound(response: str) -> float:
        return float(analyser.polarity_scores(response)["compound"])

    return Formula(compound, bounds(spec)[0])
