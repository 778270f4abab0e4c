"""MOC's constraint: how far the achieved rewards are from what the preference asks for (docs/papers.md 1.2).

Notation: B samples; K objectives; R~ rewards and p~ targets on one scale, both (B, K); Rbar_p the running mean reward of
a preference. Torch is imported for annotations only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from moa.preferences import label

if TYPE_CHECKING:
    from torch import Tensor

    from moa.methods.base import Scores

Scale = Literal["quantile", "zscore", "raw"]
Target = Literal["scaled", "plain", "simplex", "range", "arc"]
Shortfall = Literal["relative", "absolute", "centred"]
WITHIN = ("range", "arc")  # targets that lie between the least and the largest reward that any preference achieves
MEMORY = 0.9  # of the running mean reward per preference
LEAST_RANGE = 0.05  # of an achieved range, so that the first steps divide by no near-zero


def on_scale(scores: Scores, scale: Scale, target: Target) -> Tensor:
    """Return R~ (B, K) on the switch's scale; 'simplex' divides the positive part, of quantiles at most 1, by its sum."""
    scaled = {"quantile": scores.quantile, "zscore": scores.zscore, "raw": scores.raw}[scale]
    if target != "simplex":
        return scaled
    positive = bounded(scaled, scale, target).clamp(min=1e-6)
    return positive / positive.sum(1, keepdim=True)


def bounded(rewards: Tensor, scale: Scale, target: Target) -> Tensor:
    """Clip quantiles to [0, 1], where p asks for nothing beyond; targets within the achieved range lie wherever the rewards do.

    What is averaged is clipped afterwards: the constraint is on expectations, and clipped responses have another mean. A policy better than
    nearly all of the reference's responses would seem to be at 1 whatever its preference.
    """
    return rewards if scale != "quantile" or target in WITHIN else rewards.clamp(0, 1)


def targets(preferences: Tensor, target: Target) -> Tensor:
    """Return p~ (B, K): p / max p ('scaled', 'range'), p / |p| ('arc', the l2 map of Rewards-in-Context), else p."""
    if target in ("scaled", "range"):
        return preferences / preferences.amax(1, keepdim=True)
    return preferences / preferences.norm(dim=1, keepdim=True) if target == "arc" else preferences


def per_sample(rewards: Tensor, wanted: Tensor, phi: float) -> Tensor:
    """Return -max(0, (1/N) sum_i (R~^i - p~_i)^2 - phi), (B,), from two (B, N)."""
    return -((rewards - wanted).square().mean(1) - phi).clamp(min=0)


def on_mean(rewards: Tensor, wanted: Tensor, mean: Tensor, phi: float) -> Tensor:
    """Return -(2/N) sum_i (Rbar^i_p - p~_i)(R~^i - p~_i), (B,), and 0 where the mean's squared distance is within phi; `mean` (B, N) is each sample's preference's mean reward."""
    return -2.0 * ((mean - wanted) * (rewards - wanted)).mean(1) * ((mean - wanted).square().mean(1) > phi)


class Achieved:
    """Running mean reward of every training preference.

    Attributes:
        means: preference's label -> K numbers.
    """

    def __init__(self) -> None:
        self.means: dict[str, list[float]] = {}

    def update(self, rewards: Tensor, preferences: Tensor) -> Tensor:
        """Take in a batch; return each sample's preference's running mean (B, K)."""
        means = rewards.clone()
        for preference in preferences.unique(dim=0):
            rows = (preferences == preference).all(1)
            key, now = label(preference.tolist()), rewards[rows].mean(0).tolist()
            before = self.means.get(key, now)
            self.means[key] = [MEMORY * b + (1 - MEMORY) * n for b, n in zip(before, now, strict=True)]
            means[rows] = rewards.new_tensor(self.means[key])
        return means

    def range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least running mean of each objective and the distance to the largest, both (K,)."""
        seen = like.new_tensor(list(self.means.values()))
        low = seen.amin(0)
        return low, (seen.amax(0) - low).clamp(min=LEAST_RANGE)

    def wanted(self, preferences: Tensor, target: Target) -> Tensor:
        """Return p~ (B, K); 'range' and 'arc' lie between the least and the largest reward that any preference achieves."""
        asked = targets(preferences, target)
        if target not in WITHIN:
            return asked
        low, width = self.range(preferences)
        return low + width * asked

    def shortfall(self, means: Tensor, preferences: Tensor, target: Target, shortfall: Shortfall) -> Tensor:
        """Return p~ - Rbar_p (B, K); 'relative' has it in units of the achieved range where the target lies within that."""
        missing = self.wanted(preferences, target) - means
        return missing / self.range(preferences)[1] if shortfall == "relative" and target in WITHIN else missing
