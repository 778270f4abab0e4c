"""One policy's front: mean rewards over a grid of preferences, and what they are worth.

Notation: P prompts; M preferences; K objectives; R resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moa.experiment.preferences import Preference
from moa.metrics import bootstrap, fronts, steering, text
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


STEERING = {"tau": steering.kendall_tau, "order_rate": steering.order_rate}


def points_of(scale: Normaliser, rewards: Array, weights: Array) -> tuple[Array, Array]:
    """Return the (M, K) points of (P, M, K) raw rewards, and the (R, M, K) ones of prompts resampled by (R, P)."""
    return scale.apply(rewards.mean(0)), scale.apply(bootstrap.resampled_means(weights, rewards))


def with_an_answer(empty_rates: Sequence[float]) -> NDArray[np.bool_]:
    """Return which points hold one. A point of blank responses only is no solution, whatever the reference point."""
    return np.array([rate < 1 for rate in empty_rates])


def volume_of(points: Array, drawn: Array, reference: Array) -> tuple[float, tuple[float, float]]:
    """Return the hypervolume of points, and its interval from the resampled ones."""
    volume = fronts.hypervolume(points, reference)
    return volume, bootstrap.corrected_interval(volume, fronts.hypervolumes(drawn, reference))


def followed(statistic: Callable[[Array, Array], Array], asked: Sequence[Preference], points: Array) -> Array:
    """Return a statistic of STEERING, (..., K), of (..., M, K) points; NaN with fewer than three preferences."""
    if len(asked) < steering.LEAST_POINTS:
        return np.full((*points.shape[:-2], points.shape[-1]), np.nan)
    columns = np.array(asked).T
    return np.stack([statistic(column, points[..., k]) for k, column in enumerate(columns)], axis=-1)


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
    points, drawn = points_of(scale, rewards, bootstrap.resamples(len(rewards), resamples))
    answered = with_an_answer([text.empty_rate(said) for said in responses])
    volume, interval = volume_of(points[answered], drawn[:, answered], scale.reference)
    asked, found = np.array(preferences), {m: followed(s, preferences, points).tolist() for m, s in STEERING.items()}
    return Front(
        objectives=scale.objectives,
        preferences=asked,
        means=rewards.mean(0),
        points=points,
        reference_point=scale.reference,
        hypervolume=volume,
        interval=interval,
        tau=dict(zip(scale.objectives, found["tau"], strict=True)),
        order_rate=dict(zip(scale.objectives, found["order_rate"], strict=True)),
        control_error=float(steering.control_error(asked, points)),
        responses=responses,
    )
