"""Where MOC's searches and MGDA-UB's normalised gradients rest on quadratic rewards, against roots and curves known in closed form.

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
from moa.method import Batch, Method, Scores
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
    """Return the t that solves t (w_1 + w_2) = w_2 for weights (2, n) of rewards (2, n), where the difference changes its sign once."""
    t = np.linspace(0, 1, 200_001)
    w = weights(rewards(t))
    past = t * w.sum(0) - w[1] >= 0
    (changes,) = np.nonzero(~past[:-1] & past[1:])
    assert len(changes) == 1
    return float(t[changes[0]])


def test_weights_on_the_simplex_rest_where_they_point() -> None:
    """v = p + m (p~ - R), projected: for two objectives w_2 = (1 + v_2 - v_1) / 2, within 0 and 1."""
    p, m = np.array([0.35, 0.65]), 2.0
    wanted = p / p.max()

    def weights(r: Array) -> Array:
        v = p[:, None] + m * (wanted[:, None] - r)
        second = ((1 + v[1] - v[0]) / 2).clip(0, 1)
        return np.stack([1 - second, second])

    method = make("moc", target="scaled", multiplier=m, objective_weights="simplex")
    end = PROBLEM.ascend(method, tuple(p), torch.tensor([0.4, 0.3], dtype=torch.float64), steps=300)
    assert end.tolist() == pytest.approx([rest(weights), 0.0], abs=1e-3)
    assert abs(rest(weights) - p[1]) > 0.02  # not where utility alone ends


def test_exact_search_balances_what_falls_short() -> None:
    """p = (0.8, 0.2) asks for (1, 1/4).

    From t = 0.4 the second has more than that, so the first alone is raised, until t = 1 - sqrt(3/4) = 0.134;
    there both fall short, by t^2 and 1/4 - 2 t + t^2, and the weights are these shares: t s = s_2 for s = s_1 + s_2."""
    wanted = np.array([1.0, 0.25])[:, None]
    root = rest(lambda r: (wanted - r).clip(min=0) + np.array([[1e-12], [0.0]]))
    assert root < 1 - 0.75**0.5
    method = make("moc", target="scaled", weights="exact")
    end = PROBLEM.ascend(method, (0.8, 0.2), torch.tensor([0.4, 0.3], dtype=torch.float64), steps=600)
    assert end.tolist() == pytest.approx([root, 0.0], abs=2e-3)


def test_exact_search_stays_where_the_constraint_begins_to_be_violated() -> None:
    """Within phi utility pulls to t = 0.2, where C = (t^4 + (1/4 - 2 t + t^2)^2) / 2 = 0.0069.

    At phi = 0.003 it is turned back on the way.
    """
    t = np.linspace(0.1, 0.2, 10_001)
    c = (((rewards(t) - np.array([[1.0], [0.25]])) ** 2).mean(0) - 0.003) > 0
    edge = float(t[int(np.argmax(c & (t > 0.134)))])
    assert 0.14 < edge < 0.19
    method = make("moc", target="scaled", weights="exact", phi=0.003)
    mean, seen = torch.tensor([0.3, 0.1], dtype=torch.float64), []
    for _ in range(600):
        mean = mean + 0.03 * PROBLEM.direction(method, (0.8, 0.2), mean)[0]
        seen.append(mean)
    last = torch.stack(seen[-200:])
    assert float(last[:, 0].mean()) == pytest.approx(edge, abs=5e-3) and float(last[:, 0].std()) < 5e-3


def simplex_rest(p: Array, wanted: Callable[[Array], Array]) -> float:
    """Return where v = p + 4 (p~(R) - R) on the simplex points.

    For two objectives w_2 = (1 + v_2 - v_1) / 2, within 0 and 1.
    """

    def weights(r: Array) -> Array:
        v = p[:, None] + 4 * (wanted(r) - r)
        second = ((1 + v[1] - v[0]) / 2).clip(0, 1)
        return np.stack([1 - second, second])

    return rest(weights)


def ends(method: Method, preferences: list[tuple[float, ...]], steps: int) -> tuple[list[float], float]:
    """Return where the preferences of one policy end along the segment, and the furthest from it."""
    means = [torch.tensor([0.5, 0.3], dtype=torch.float64) for _ in preferences]
    for _ in range(steps):
        means = [mean + 0.1 * PROBLEM.direction(method, p, mean)[0] for p, mean in zip(preferences, means, strict=True)]
    return [float(mean[0]) for mean in means], max(abs(float(mean[1])) for mean in means)


@pytest.mark.parametrize("shrink", [False, True])
def test_on_the_ray_preferences_spread_over_the_front_in_order(shrink: bool) -> None:
    """Five preferences share the achieved range.

    Corners reach the ends (their weights are p), so the range becomes 0 to 1 and the target of p is
    u (u . R), u = p / |p|: the nearest point of its ray."""
    preferences = lattice(2, 4)
    reached, off = ends(make("moc", target="ray", shrink=shrink, objective_weights="simplex"), preferences, 150)
    found = []
    for p in np.array(preferences):
        u = (p / np.linalg.norm(p))[:, None]
        found.append(float(p[1]) if p.max() == 1 else simplex_rest(p, lambda r, u=u: u * (u * r).sum(0)))
    assert reached == pytest.approx(found, abs=5e-3) and off < 1e-3
    order = np.argsort([p[1] for p in preferences])
    assert (np.diff(np.array(reached)[order]) > 0.1).all()


def test_the_default_spreads_them_in_order_too() -> None:
    """As above with p~ = p / |p| and w = max(0, p + 4 (p~ - R)); corners' other weight stops at 0."""
    preferences = lattice(2, 4)
    reached, off = ends(make("moc"), preferences, 150)
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


def test_a_centred_shortfall_rests_in_order_too() -> None:
    """Five preferences in one batch. Ranges and targets as above, where corners reach the ends.

    By symmetry the batch's mean shortfall m is the same for
    both objectives. On the simplex only the difference of v = p + 4 (p~ - R - m) counts, so m has no part in it: w_2 =
    (1 + v_2 - v_1) / 2.
    """
    method, preferences = make("moc", shortfall="centred", objective_weights="simplex"), lattice(2, 4)
    means = [torch.tensor([0.5, 0.3], dtype=torch.float64) for _ in preferences]
    for _ in range(200):
        batches, offsets = zip(
            *[PROBLEM.batch(method, p, mean) for p, mean in zip(preferences, means, strict=True)], strict=True
        )
        scores = Scores(
            *[torch.cat([getattr(b.scores, name) for b in batches]) for name in ("raw", "quantile", "zscore")]
        )
        joint = Batch(
            torch.cat([b.advantages for b in batches], 1),
            torch.cat([b.mask for b in batches]),
            torch.cat([b.preferences for b in batches]),
            scores,
        )
        advantages = method.combine(joint).advantages.split(len(offsets[0]))
        means = [
            mean + 0.1 * (a * o).mean(0) / PROBLEM.sigma**2
            for mean, a, o in zip(means, advantages, offsets, strict=True)
        ]
    found = []
    for p in np.array(preferences):
        wanted = (p / np.linalg.norm(p))[:, None]
        found.append(float(p[1]) if p.max() == 1 else simplex_rest(p, lambda r, wanted=wanted: wanted))
    assert [float(mean[0]) for mean in means] == pytest.approx(found, abs=5e-3)
    assert all(abs(float(mean[1])) < 1e-3 for mean in means)


@pytest.mark.parametrize("start", [(0.2, 0.6), (0.9, 0.4), (-0.3, 0.8)])
def test_mgda_ub_with_normalised_gradients_follows_a_hyperbola(start: tuple[float, float]) -> None:
    """Two unit gradients' min-norm combination bisects the angle between the ways to both centres, as the tangent of a hyperbola with these
    foci does: |x - a_1| - |x - a_2| stays, and on the segment it is t - (1 - t)."""
    x = torch.tensor(start, dtype=torch.float64)
    apart = float((x - SEGMENT[0]).norm() - (x - SEGMENT[1]).norm())
    end = PROBLEM.ascend(make("mgda_ub", normalise=True), (0.5, 0.5), x, steps=1000, rate=0.004)
    assert end.tolist() == pytest.approx([(1 + apart) / 2, 0.0], abs=4e-3)
    plain = PROBLEM.ascend(make("mgda_ub"), (0.5, 0.5), x, steps=1000, rate=0.004)
    assert abs(float(plain[0]) - (1 + apart) / 2) > 0.02  # without it straight down, to its projection
