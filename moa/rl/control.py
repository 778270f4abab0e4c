"""MOC's constraint: how far the achieved rewards are from what the preference asks for (docs/papers.md 1.2).

Notation: B samples; K objectives; P preferences; R~ rewards and p~ targets on one scale, both (B, K); Rbar_p the
    running mean
reward of a preference. Torch is imported for annotations only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from moa.experiment.preferences import label

if TYPE_CHECKING:
    from torch import Tensor

    from moa.method import Scores

Scale = Literal["quantile", "zscore", "raw"]
Target = Literal["scaled", "plain", "simplex", "range", "arc", "ray"]
Shortfall = Literal["relative", "absolute", "centred"]
WITHIN = (
    "range",
    "arc",
    "ray",
)  # targets that lie between the least and the largest reward that any preference achieves
MEMORY = 0.9  # weight of a batch in the running mean of a preference, relative to the next
# weight of a preference's first batch where a later one has 1 when it is new, unless `even`; so the mean keeps MEMORY
# of itself from the start
FIRST = 10.0
LEAST_RANGE = 0.05  # of an achieved range, so that the first steps divide by no near-zero


def on_scale(scores: Scores, scale: Scale, target: Target) -> Tensor:
    """Return R~ (B, K) on the switch's scale.

    'simplex' divides the positive part, of quantiles at most 1, by its sum.
    """
    scaled = {"quantile": scores.quantile, "zscore": scores.zscore, "raw": scores.raw}[scale]
    if target != "simplex":
        return scaled
    positive = bounded(scaled, scale, target).clamp(min=1e-6)
    return positive / positive.sum(1, keepdim=True)


def bounded(rewards: Tensor, scale: Scale, target: Target) -> Tensor:
    """Clip quantiles to [0, 1], where p asks for nothing beyond.

    Targets within the achieved range lie wherever the rewards do.

    What is averaged is clipped afterwards: the constraint is on expectations, and clipped responses have another mean.
    A policy better than nearly all of the reference's responses would seem to be at 1 whatever its preference.
    """
    return rewards if scale != "quantile" or target in WITHIN else rewards.clamp(0, 1)


def targets(preferences: Tensor, target: Target) -> Tensor:
    """Return p~ (B, K): p / max p ('scaled', 'range'), p / |p| ('arc', the l2 map of Rewards-in-Context.

    'ray', its direction), else p.
    """
    if target in ("scaled", "range"):
        return preferences / preferences.amax(1, keepdim=True)
    return preferences / preferences.norm(dim=1, keepdim=True) if target in ("arc", "ray") else preferences


def per_sample(rewards: Tensor, wanted: Tensor, phi: float) -> Tensor:
    """Return -max(0, (1/N) sum_i (R~^i - p~_i)^2 - phi), (B,), from two (B, N)."""
    return -((rewards - wanted).square().mean(1) - phi).clamp(min=0)


def on_mean(rewards: Tensor, wanted: Tensor, mean: Tensor, phi: float) -> Tensor:
    """Return -(2/N) sum_i (Rbar^i_p - p~_i)(R~^i - p~_i), (B,), and 0 where the mean's squared distance is within phi; `mean` (B, N) is each sample's preference's mean reward."""
    return -2.0 * ((mean - wanted) * (rewards - wanted)).mean(1) * ((mean - wanted).square().mean(1) > phi)


class Achieved:
    """Running mean reward of every training preference, and how surely it is known.

    Attributes:
        even: a preference's first batch has no more weight than the others when they are new.
        means: preference's label -> K weighted means over its batches, each batch MEMORY times the weight of the next.
        squares: the same of the batches' squared means.
        sizes: sum of those weights, and of their squares.
    """

    def __init__(self, even: bool = False) -> None:
        self.even = even
        self.means: dict[str, list[float]] = {}
        self.squares: dict[str, list[float]] = {}
        self.sizes: dict[str, list[float]] = {}

    def update(self, rewards: Tensor, preferences: Tensor) -> Tensor:
        """Take in a batch; return each sample's preference's running mean (B, K)."""
        means = rewards.clone()
        for preference in preferences.unique(dim=0):
            rows = (preferences == preference).all(1)
            key, now = label(preference.tolist()), rewards[rows].mean(0).tolist()
            before, squared = self.sizes.get(key, [0.0, 0.0])
            new = 1.0 if before or self.even else FIRST
            self.sizes[key] = [total := MEMORY * before + new, MEMORY**2 * squared + new**2]
            keep = MEMORY * before / total
            self.means[key] = [keep * m + (1 - keep) * n for m, n in zip(self.means.get(key, now), now, strict=True)]
            self.squares[key] = [
                keep * s + (1 - keep) * n * n for s, n in zip(self.squares.get(key, now), now, strict=True)
            ]
            means[rows] = rewards.new_tensor(self.means[key])
        return means

    def range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least running mean of each objective and the distance to the largest, both (K,)."""
        seen = like.new_tensor(list(self.means.values()))
        low = seen.amin(0)
        return low, (seen.amax(0) - low).clamp(min=LEAST_RANGE)

    def wanted(self, preferences: Tensor, target: Target) -> Tensor:
        """Return p~ (B, K); 'range' and 'arc' lie between the least and the largest reward that any preference achieves.

        'ray' lies there in the direction of p, as far out as the preference has come: the point t p that is nearest to
        its own mean reward.
        """
        asked = targets(preferences, target)
        if target not in WITHIN:
            return asked
        low, width = self.range(preferences)
        if target == "ray":
            asked = asked * (asked * (self._of(self.means, preferences) - low) / width).sum(1, keepdim=True)
        return low + width * asked

    def shortfall(self, means: Tensor, preferences: Tensor, target: Target, shortfall: Shortfall) -> Tensor:
        """Return p~ - Rbar_p (B, K).

        'relative' has it in units of the achieved range where the target lies within that.
        """
        missing = self.wanted(preferences, target) - means
        return missing / self.range(preferences)[1] if shortfall == "relative" and target in WITHIN else missing

    def known(self, means: Tensor, preferences: Tensor, target: Target) -> Tensor:
        """Return how far each sample's preference's shortfall d can be told from noise (B, 1).

        Max(0, 1 - E|noise|^2 / |d|^2).

        A positive-part factor of James and Stein's form (1961) that takes off the whole noise: E|d|^2 = bias^2 +
        variance, so |d|^2 less the noise estimates the constraint's square, without bias where rewards and ranges stand
        still. While they move, drift counts as noise.
        """
        missing = self.shortfall(means, preferences, target, "relative")
        noise = self.squared_error(preferences)
        if target in WITHIN:
            noise = noise / self.range(preferences)[1].square()
        if target == "ray":  # d is what stands at right angles to the ray
            noise = noise * (1 - targets(preferences, target).square())
        return (1 - noise.sum(1, keepdim=True) / missing.square().sum(1, keepdim=True)).nan_to_num(0.0).clamp(min=0)

    def squared_error(self, preferences: Tensor) -> Tensor:
        """Return the squared standard error of each sample's preference's running mean (B, K).

        Every objective has one variance between a preference's batches, pooled over the preferences; it is infinite
        until one of them has had two batches.
        """
        exact = preferences.double()  # variances of rewards far from 0
        means, squares = (exact.new_tensor(list(of.values())) for of in (self.means, self.squares))
        total, squared = exact.new_tensor(list(self.sizes.values())).T
        freedom = (1 - squared / total.square()).sum()
        variance = (
            (squares - means.square()).clamp(min=0).sum(0) / freedom
            if freedom > 0
            else means.new_full(means.shape[1:], float("inf"))
        )
        total, squared = self._of(self.sizes, exact).T
        return (variance * (squared / total.square())[:, None]).to(preferences.dtype)

    def state(self) -> dict[str, list[float]]:
        """Return everything, by names that `restore` reads."""
        return {f"{name} {key}": value for name, of in self._kept().items() for key, value in of.items()}

    def restore(self, state: dict[str, list[float]]) -> None:
        for name, of in self._kept().items():
            of.clear()
            of.update({k.removeprefix(f"{name} "): v for k, v in state.items() if k.startswith(f"{name} ")})

    def _kept(self) -> dict[str, dict[str, list[float]]]:
        return {"mean": self.means, "square": self.squares, "size": self.sizes}

    def _of(self, kept: dict[str, list[float]], preferences: Tensor) -> Tensor:
        return preferences.new_tensor([kept[label(p)] for p in preferences.tolist()])
