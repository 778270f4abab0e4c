"""Fixed points that are known: quadratic rewards in the plane, with exact gradients.

Learning from samples: test_bandit_learning.py.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from moa.experiment.preferences import lattice
from moa.method import Method
from moa.methods import catalogue
from moa.rl.weights import min_norm
from moa.testbed.bandit import Arms, Quadratic, rings

SEGMENT = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
TRIANGLE = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]], dtype=torch.float64)
FREE = (0.5, 0.5)


def make(kind: str, objectives: int = 2, **settings: object) -> Method:
    return catalogue.load("row", {"kind": kind, **settings}, [f"o{k}" for k in range(objectives)])


def at(*xy: float) -> Tensor:
    return torch.tensor(xy, dtype=torch.float64)


def starts(count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).uniform(-1.5, 2.5, size=(count, 2)))


def projection(point: Tensor, centres: Tensor) -> Tensor:
    """Nearest point of a segment or triangle, by its corners, edges and inside: no solver."""
    ends = [(a, b) for i, a in enumerate(centres) for b in centres[i + 1 :]]
    found = [a + ((point - a) @ (b - a) / (b - a).square().sum()).clamp(0, 1) * (b - a) for a, b in ends]
    if len(centres) == 3:
        shares = torch.linalg.solve(
            torch.cat([centres.T, centres.new_ones(1, 3)]), torch.cat([point, point.new_ones(1)])
        )
        if (shares >= 0).all():
            return point
    return min(found, key=lambda q: float((q - point).norm()))


# What the two bandits are


def test_rings_have_the_normal_distributions_moments() -> None:
    z = rings()
    torch.testing.assert_close(z.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(z.T @ z / len(z), torch.eye(2, dtype=torch.float64))


def test_the_policy_gradient_of_a_reward_is_exact() -> None:
    """E[(r_k - J_k) (a - x)] / sigma^2 = g_k = 2 (a_k - x).

    Single-objective weights show it through the method's file.
    """
    problem, mean = Quadratic(TRIANGLE), at(0.7, -0.4)
    for k, corner in enumerate(np.eye(3)):
        got, weights = problem.direction(make("single_objective", 3), tuple(corner), mean)
        torch.testing.assert_close(got, problem.gradients(mean)[k])
        assert weights.tolist() == list(corner)


def test_arms_front() -> None:
    arms = Arms()
    for p in lattice(2, 10):
        best = int((arms.table @ torch.tensor(p)).argmax())
        assert arms.optimal[best] and float(arms.position[best]) == pytest.approx(p[0])


# Fixed points with exact gradients


@pytest.mark.parametrize("kind", ["linear", "morlhf"])
def test_linear_weights_end_at_the_weighted_centre(kind: str) -> None:
    # |x - sum w a| shrinks by 1 - 2 * 0.1 = 0.8 per step: 0.8^80 = 2e-8
    w = (0.2, 0.5, 0.3)
    end = Quadratic(TRIANGLE).ascend(make(kind, 3), w, at(3.0, -2.0), steps=80)
    torch.testing.assert_close(end, torch.tensor(w, dtype=torch.float64) @ TRIANGLE, atol=1e-6, rtol=0)


@pytest.mark.parametrize("centres", [SEGMENT, TRIANGLE], ids=["segment", "triangle"])
def test_min_norm_goes_straight_to_the_hull(centres: Tensor) -> None:
    problem = Quadratic(centres)
    for start in starts(6):
        mean = start
        for _ in range(40):  # the distance shrinks by 1 - 2 * 0.2 = 0.6 per step: 0.6^40 = 1e-9
            g = problem.gradients(mean)
            step = 0.2 * torch.from_numpy(min_norm((g @ g.T).numpy()).weights) @ g
            # J_k(x + s) - J_k(x) = g_k.s - |s|^2 >= |s|^2 (1/0.2 - 1) > 0: a common ascent direction
            assert (problem.expected(mean + step) >= problem.expected(mean) - 1e-9).all()
            mean = mean + step
        assert float((mean - projection(start, centres)).norm()) < 1e-5
        g = problem.gradients(mean)
        shortest = torch.from_numpy(min_norm((g @ g.T).numpy()).weights) @ g  # of length twice the distance to the hull
        assert float(shortest.norm()) < 2e-5


def test_min_norm_rests_inside_the_hull() -> None:
    g = Quadratic(TRIANGLE).gradients(at(0.4, 0.3))
    assert float((torch.from_numpy(min_norm((g @ g.T).numpy()).weights) @ g).norm()) < 1e-6


def test_gram_of_advantages_has_the_gradients_weights() -> None:
    """MOC's bound needs no backward pass, and is exact here: Cov(r_k, r_l) = sigma^2 g_k.g_l + a constant."""
    problem = Quadratic(TRIANGLE)
    for mean in starts(20):
        batch, _ = problem.batch(make("linear", 3), (1 / 3,) * 3, mean)
        a = batch.advantages[:, :, 0]
        g = problem.gradients(mean)
        difference = (a @ a.T / a.shape[1] / problem.sigma**2 - g @ g.T).flatten()
        torch.testing.assert_close(difference, difference.mean().expand(9), atol=1e-9, rtol=0)
        torch.testing.assert_close(
            min_norm((a @ a.T).numpy()).weights, min_norm((g @ g.T).numpy()).weights, atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("centres", [SEGMENT, TRIANGLE], ids=["segment", "triangle"])
def test_mgda_ub_ends_at_the_projection(centres: Tensor) -> None:
    """Equal sensitivities: min-norm on Cov(r) goes straight to the hull, 0.8^80 = 2e-8 of the way left."""
    problem = Quadratic(centres)
    for start in starts(4):
        end = problem.ascend(make("mgda_ub", len(centres)), FREE, start, steps=80)
        torch.testing.assert_close(end, projection(start, centres), atol=1e-4, rtol=0)


def test_mgda_ub_weighs_its_gram_matrix_by_sensitivity() -> None:
    """Sensitivity s = o_2^2 of the action's offset o, as if the representation moved the second coordinate alone.

    For an isotropic o, E[o_i o_j o_2^2] is proportional to diag(1, 3) (1 and 3 are the normal distribution's moments),
    so M_kl = g_k' diag(1, 3) g_l up to factor and constant: the weights lead straight to the point of the hull that is
    nearest in that metric. From (1, 0) to t (1, 1): (1 - t)^2 + 3 t^2 is least at t = 1/4, where equal sensitivities
    end at 1/2.
    """
    problem, method, mean = (
        Quadratic(torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)),
        make("mgda_ub"),
        at(1.0, 0.0),
    )
    for _ in range(80):
        batch, offsets = problem.batch(method, FREE, mean)
        combined = method.combine(replace(batch, sensitivity=offsets[:, 1:].square())).advantages
        mean = mean + 0.1 * (combined * offsets).mean(0) / problem.sigma**2
    torch.testing.assert_close(mean, at(0.25, 0.25), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("start", "nearest"), [((0.4, 0.5), 0), ((0.6, 0.5), 1)])
def test_pama_per_batch_trains_the_objective_that_is_nearly_done(start: tuple[float, float], nearest: int) -> None:
    """Under Noon all means are positive, the smallest is the nearest centre's, and Theorem 1 gives it all the weight.

    The end is a corner of the front: Pareto optimal, and no compromise.
    """
    problem, method = Quadratic(SEGMENT), make("pama")
    weights = problem.direction(method, FREE, at(*start))[1]
    assert weights.argmax() == nearest and float(weights.max()) == 1.0
    torch.testing.assert_close(problem.ascend(method, FREE, at(*start), steps=120), SEGMENT[nearest], atol=1e-3, rtol=0)


def test_mse_only_ends_where_its_error_is_least() -> None:
    """p = (0.3, 0.7) asks for (3/7, 1); normalised rewards are 1 - |x - a_k|^2, found on the hull by a grid.

    It stays on the hull: off it by y both distances grow, and at the least error both exceed what is asked for.
    """
    t = np.linspace(0, 1, 100_001)
    best = t[np.argmin((t**2 - 4 / 7) ** 2 + ((1 - t) ** 2) ** 2)]
    assert best**2 > 4 / 7 and abs(best - 0.7) > 0.05  # not where linear weights end
    end = Quadratic(SEGMENT, sigma=0.01).ascend(make("mse_only"), (0.3, 0.7), at(0.4, 0.2), steps=600)
    torch.testing.assert_close(end, at(float(best), 0.0), atol=2e-3, rtol=0)


def feedback(**settings: object) -> Method:
    """MOC by feedback whose achieved range is that of the corners, 0 to 1 in both objectives."""
    method = make("moc_feedback", **settings)
    method.restore({"w1-0": [1.0, 0.0], "w0-1": [0.0, 1.0]})
    return method


@pytest.mark.parametrize("p", [(0.8, 0.2), (0.35, 0.65)])
def test_feedback_ends_at_its_constrained_optimum(p: tuple[float, float]) -> None:
    """max U(x) - m C(x) for the multiplier m, U = sum p_k J_k and C = (1/2) sum (J_k - p~_k)^2, p~ = p / |p|.

    Both ranges are 1, so J_1 = 1 - t^2 and J_2 = 1 - (1 - t)^2 at x = (t, 0); found on the hull by a grid. A C* for
    which this is the optimum of max U s.t. C <= C* is the C that it has. All hull points are Pareto optimal.
    """
    t = np.linspace(0, 1, 100_001)
    j, wanted = np.stack([1 - t**2, 1 - (1 - t) ** 2]), np.array(p) / np.linalg.norm(p)
    best = t[np.argmax(p @ j - 2.0 * ((j - wanted[:, None]) ** 2).mean(0))]
    end = Quadratic(SEGMENT, sigma=0.01).ascend(feedback(multiplier=2.0), p, at(0.4, 0.3), steps=200)
    torch.testing.assert_close(end, at(float(best), 0.0), atol=2e-3, rtol=0)
    assert abs(best - p[1]) > 0.02  # not where utility alone ends


def test_a_met_constraint_leaves_linear_weights() -> None:
    end = Quadratic(SEGMENT).ascend(feedback(phi=1e6), (0.3, 0.7), at(0.4, 0.3), steps=80)
    torch.testing.assert_close(end, at(0.7, 0.0), atol=1e-6, rtol=0)


def test_a_stream_of_zeros_takes_all_the_weight() -> None:
    """A met constraint's stream is the shortest of all: min-norm rests wherever it is met, Pareto stationary or not."""
    problem, off = Quadratic(SEGMENT), at(0.5, 1.0)
    batch, offsets = problem.batch(make("linear"), FREE, off)
    streams = torch.cat([batch.advantages, torch.zeros_like(batch.advantages[:1])])[:, :, 0]
    c = torch.from_numpy(min_norm((streams @ streams.T).numpy()).weights)
    torch.testing.assert_close(c, at(0.0, 0.0, 1.0), atol=1e-6, rtol=0)
    assert float(((c @ streams)[:, None] * offsets).mean(0).norm()) / problem.sigma**2 < 1e-5
    assert float((off - projection(off, SEGMENT)).norm()) == 1.0


def test_min_norm_of_weighted_streams_inverts_the_preference() -> None:
    """Streams p_k A^k of unrelated A^k of one size have c_k proportional to 1 / p_k^2.

    So objective k counts c_k p_k ~ 1 / p_k.
    """
    p = np.array([0.8, 0.2])
    effective = min_norm(np.diag(p**2)).weights * p
    # c = (1/17, 16/17): 1/17 * 0.8 = 0.047 and 16/17 * 0.2 = 0.188
    np.testing.assert_allclose(effective, [0.8 / 17, 3.2 / 17], atol=1e-9)


def test_min_norm_weighs_noise_not_conflict() -> None:
    """Two rewards with the same gradient, the second with independent noise: the second gets next to no weight."""
    problem, mean = Quadratic(SEGMENT), at(0.5, 1.0)
    batch, offsets = problem.batch(make("linear"), FREE, mean)
    clean = batch.advantages[:, :, 0]
    # Noise orthogonal to the offsets and to the streams: it changes a norm and no gradient.
    noise = torch.where(torch.arange(clean.shape[1]) % 2 == 0, 1.0, -1.0).to(clean) * 10
    streams = torch.stack([clean[0], clean[1] + noise])
    assert float(((streams[1] * offsets.T).mean(1) / problem.sigma**2 - problem.gradients(mean)[1]).norm()) < 1e-9
    before, after = (min_norm((rows @ rows.T).numpy()).weights for rows in (clean, streams))
    np.testing.assert_allclose(before, [0.5, 0.5], atol=1e-9)
    assert after[1] < 0.01
