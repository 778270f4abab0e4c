"""What a constraint on rewards compares: targets, and what the preferences achieve so far (docs/papers.md 1.2).

Notation: B samples; K objectives; Rbar_p (K,) the running mean reward of preference p. Torch is for annotations only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moa.experiment.preferences import label

if TYPE_CHECKING:
    from torch import Tensor

MEMORY = 0.9  # share that a preference's running mean keeps of itself at every batch that has the preference
LEAST_RANGE = 0.05  # of an achieved range, so that the first steps divide by no near-zero


def scaled(preferences: Tensor) -> Tensor:
    """Return p / max p, (B, K): the largest weight asks for all of its objective."""
    return preferences / preferences.amax(1, keepdim=True)


class Achieved:
    """Running mean reward of every training preference.

    Attributes:
        means: preference's label -> K means.
    """

    def __init__(self) -> None:
        self.means: dict[str, list[float]] = {}

    def update(self, rewards: Tensor, preferences: Tensor) -> Tensor:
        """Take in a batch of rewards and preferences, both (B, K); return each sample's Rbar_p (B, K)."""
        means = rewards.clone()
        for preference in preferences.unique(dim=0):
            rows = (preferences == preference).all(1)
            key, now = label(preference.tolist()), rewards[rows].mean(0).tolist()
            before = self.means.get(key, now)
            self.means[key] = [MEMORY * m + (1 - MEMORY) * n for m, n in zip(before, now, strict=True)]
            means[rows] = rewards.new_tensor(self.means[key])
        return means

    def range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return each objective's least Rbar_p and the distance to its largest, both (K,), on the device of `like`."""
        seen = like.new_tensor(list(self.means.values()))
        low = seen.amin(0)
        return low, (seen.amax(0) - low).clamp(min=LEAST_RANGE)

    def state(self) -> dict[str, list[float]]:
        """Return the means, as `restore` takes them back."""
        return dict(self.means)

    def restore(self, state: dict[str, list[float]]) -> None:
        """Take back what `state` returned."""
        self.means = dict(state)
