"""Where MOC's feedback rests on quadratic rewards, against roots known in closed form.

On the segment from (0, 0) to (1, 0), at x = (t, 0), normalised rewards are R = (1 - t^2, 1 - (1 - t)^2), and weights w
of the objectives' own gradients rest at t = w_2 / (w_1 + w_2). A method whose weights depend on R rests where t solves
that.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moa.experiment.preferences import lattice
from moa.method import Method
from moa.methods import catalogue
from moa.testbed.bandit import Quadratic

Array = NDArray[np.float64]
SEGMENT = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
PROBLEM = Quadratic(SEGMENT, sigma=0.01)


def make(kind: str, **settings: object) -> Method:
    return catalogue.load("row", {"kind": kind, **settings}, ["o0", "o1"])


def rewards(t: Array | float) -> Array:
    return np.stack([1 - np.square(t), 1 - np.square(1 - np.asarray(t))])


def rest(weights: Callable[[Array], Array]) -> float:
    """Return the t that solves t (w_1 + w_2) = w_2 for weights (2, n) of rewards (2, n): the only change of sign."""
    t = np.linspace(0, 1, 200_001)
    w = weights(rewards(t))
    past = t * w.sum(0) - w[1] >= 0
    (changes,) = np.nonzero(~past[:-1] & past[1:])
    assert len(changes) == 1
    return float(t[changes[0]])


def ends(method: Method, preferences: list[tuple[float, ...]], steps: int) -> tuple[list[float], float]:
    """Return where the preferences of one policy end along the segment, and the furthest from it."""
    means = [torch.tensor([0.5, 0.3], dtype=torch.float64) for _ in preferences]
    for _ in range(steps):
        means = [mean + 0.1 * PROBLEM.direction(method, p, mean)[0] for p, mean in zip(preferences, means, strict=True)]
    return [float(mean[0]) for mean in means], max(abs(float(mean[1])) for mean in means)


def test_feedback_spreads_preferences_over_the_front_in_order() -> None:
    """Five preferences share the achieved range: corners reach the ends, so it becomes 0 to 1.

    p~ = p / |p| and w = max(0, p + 4 (p~ - R)); the corners' other weight stops at 0.
    """
    preferences = lattice(2, 4)
    reached, off = ends(make("moc_feedback"), preferences, 150)
    found = []
    for p in np.array(preferences):
        wanted = (p / np.linalg.norm(p))[:, None]
        found.append(
            float(p[1])
            if p.max() == 1
            else rest(lambda r, p=p, wanted=wanted: (p[:, None] + 4 * (wanted - r)).clip(min=0))
        )
    assert reached == pytest.approx(found, abs=5e-3) and off < 1e-3
    order = np.argsort([p[1] for p in preferences])
    assert (np.diff(np.array(reached)[order]) > 0.1).all()
