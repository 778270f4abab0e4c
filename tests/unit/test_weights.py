"""The min-norm solver's optimality, on cases with known answers and random ones."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.rl.weights import min_norm, pair, solve


def test_known_answers() -> None:
    # orthogonal with squared norms 1 and 4: c_i proportional to 1/norm^2 = (4/5, 1/5)
    np.testing.assert_allclose(min_norm(np.diag([1.0, 4.0])).weights, [0.8, 0.2], atol=1e-9)
    # the second is twice the first: all weight on the shorter
    np.testing.assert_allclose(min_norm(np.array([[1.0, 2.0], [2.0, 4.0]])).weights, [1.0, 0.0], atol=1e-9)
    # opposite vectors: any point of the segment holds 0; c = (1/2, 1/2)
    np.testing.assert_allclose(min_norm(np.array([[1.0, -1.0], [-1.0, 1.0]])).weights, [0.5, 0.5], atol=1e-9)


def test_no_signal_keeps_equal_weights() -> None:
    found = min_norm(np.zeros((3, 3)))
    assert (found.weights.tolist(), found.gap, found.iterations) == ([1 / 3] * 3, 0.0, 0)


def test_iterations_by_hand() -> None:
    assert min_norm(np.eye(4)).iterations == 0  # equal weights are the answer
    # from (1/2, 1/2) the line to the first vertex holds (4/5, 1/5): one exact line search
    assert min_norm(np.diag([1.0, 4.0])).iterations == 1
    # no gap is below -1, so the limit ends it: the documented 5,000, with the gap of the solution that it has
    found = min_norm(np.diag([1.0, 4.0]), tolerance=-1.0)
    assert found.iterations == 5_000 and found.gap < 1e-12
    assert min_norm(np.diag([1.0, 4.0]), limit=0).gap == np.inf  # nothing is known before the first iteration


def test_an_away_step_drops_a_stream_at_once() -> None:
    """Vectors (1, 0), (0, 1), (10, 10): from equal weights their sum is (11/3, 11/3).

    The third is the worst: its gap is 220/3 - 242/9 = 46.4, to the best only 242/9 - 11/3 = 23.2, so the step leads away from it.
    The line's minimum is at 11/19 = 0.58, beyond the edge at c_3 / (1 - c_3) = 1/2: c = (1/2, 1/2, 0), which is the solution.
    """
    found = min_norm(np.array([[1.0, 0.0, 10.0], [0.0, 1.0, 10.0], [10.0, 10.0, 200.0]]))
    assert (found.weights.tolist(), found.iterations) == ([0.5, 0.5, 0.0], 1)


def test_a_flat_direction_is_followed_to_its_end() -> None:
    """Rounding can leave M slightly indefinite. Here 1 + 2 - 2 * 1.5 = 0: no curvature from equal weights to the shorter stream."""
    assert min_norm(np.array([[1.0, 1.5], [1.5, 2.0]])).weights.tolist() == [1.0, 0.0]
    assert pair(1.0, 1.0, 1.0).tolist() == [0.5, 0.5]  # equal streams: any weights do


def test_single_precision_is_solved_in_double() -> None:
    gram = np.array([[3.0, 0.1, 0.7], [0.1, 2.0, 0.3], [0.7, 0.3, 1.0]], dtype=np.float32)
    assert min_norm(gram).weights.tolist() == min_norm(gram.astype(np.float64)).weights.tolist()


def test_the_plain_solver_is_the_papers() -> None:
    """250 iterations without away-steps: what is left on these five streams is a gap that away-steps close."""
    rows = np.random.default_rng(3).normal(size=(5, 4))
    plain, away = (solve(rows @ rows.T, solver) for solver in ("plain", "away"))
    assert (plain.iterations, plain.weights.tolist()) == (250, min_norm(rows @ rows.T, away=False, limit=250).weights.tolist())
    assert away.gap < 1e-12 < plain.gap and away.weights.tolist() == min_norm(rows @ rows.T).weights.tolist()


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 10), st.integers(0, 10_000))
def test_optimality_certificate(n: int, seed: int) -> None:
    """At the minimum (Mc)_i >= c'Mc for every i, with equality where c_i > 0; scale of M must not matter."""
    rows = np.random.default_rng(seed).normal(size=(n, n + 2))
    gram = rows @ rows.T
    c = min_norm(gram).weights
    value = c @ gram @ c
    assert c.min() >= 0 and abs(c.sum() - 1) < 1e-12
    assert ((gram @ c) >= value - 1e-6 * np.abs(gram).max()).all()
    np.testing.assert_allclose(min_norm(gram * 1e-8).weights, c, atol=1e-6)


def test_pair_agrees_with_the_solver() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        rows = rng.normal(size=(2, 3))
        gram = rows @ rows.T
        np.testing.assert_allclose(pair(gram[0, 0], gram[0, 1], gram[1, 1]), min_norm(gram).weights, atol=1e-6)
