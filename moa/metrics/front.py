"""One policy's front: mean rewards over a grid of preferences, and what they are worth.

Notation: P prompts; M preferences; K objectives.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from moa.experiment.preferences import Preference
from moa.metrics import bootstrap, fronts, steering
from moa.metrics.bootstrap import Array
from moa.metrics.normaliser import Normaliser


@dataclass(frozen=True)
class Front:
    """What a policy does over a grid of preferences.

    Attributes:
        preferences: (M, K).
        means: (M, K) mean raw rewards over prompts and samples.
        points: (M, K) the same, 0 and 1 as the reference policy's responses span (not clipped).
        reference_point: (K,) of the hypervolume, on the scale of `points`.
        hypervolume: of the points that hold at least one answer that is not blank.
        interval: its 95 % bootstrap interval over prompts.
        tau: objective -> Kendall's tau-b between its weight and its reward; NaN with fewer than three preferences.
        order_rate: objective -> share of neighbouring preferences in order; NaN as above.
        control_error: mean squared distance between points and preferences.
        responses: M lists of the responses, all prompts' first ones before the second ones.
    """

    objectives: list[str]
    preferences: Array
    means: Array
    points: Array
    reference_point: Array
    hypervolume: float
    interval: tuple[float, float]
    tau: dict[str, float]
    order_rate: dict[str, float]
    control_error: float
    responses: list[list[str]] = field(repr=False)

    def __str__(self) -> str:
        """Show the metrics in a line, and a line per preference."""
        low, high = self.interval
        taus = ", ".join(f"{name} {value:.2f}" for name, value in self.tau.items())
        lines = [
            f"hypervolume {self.hypervolume:.3f} ({low:.3f} to {high:.3f}), control error {self.control_error:.3f}"
        ]
        lines.append(f"tau: {taus}")
        for preference, means in zip(self.preferences, self.means, strict=True):
            pairs = zip(self.objectives, preference, means, strict=True)
            lines.append("  ".join(f"{name} {weight:.2f}: {mean:.3f}" for name, weight, mean in pairs))
        return "\n".join(lines)


def measure(
    scale: Normaliser,
    preferences: Sequence[Preference],
    rewards: Array,
    responses: list[list[str]],
    resamples: int,
) -> Front:
    """Measure a policy's answers.

    Args:
        scale: of every objective.
        preferences: M.
        rewards: (P, M, K) raw, samples averaged.
        responses: M lists.
        resamples: of the bootstrap.
    """
    asked, points = np.array(preferences), scale.apply(rewards.mean(0))
    drawn = scale.apply(bootstrap.resampled_means(bootstrap.resamples(len(rewards), resamples), rewards))
    answered = np.array([any(text.strip() for text in said) for said in responses])
    volume = fronts.hypervolume(points[answered], scale.reference)
    draws = fronts.hypervolumes(drawn[:, answered], scale.reference)
    enough = len(points) >= steering.LEAST_POINTS
    columns = {name: (asked[:, k], points[:, k]) for k, name in enumerate(scale.objectives)}
    return Front(
        objectives=scale.objectives,
        preferences=asked,
        means=rewards.mean(0),
        points=points,
        reference_point=scale.reference,
        hypervolume=volume,
        interval=bootstrap.corrected_interval(volume, draws),
        tau={name: float(steering.kendall_tau(*pair)) if enough else np.nan for name, pair in columns.items()},
        order_rate={name: float(steering.order_rate(*pair)) if enough else np.nan for name, pair in columns.items()},
        control_error=float(steering.control_error(asked, points)),
        responses=responses,
    )
