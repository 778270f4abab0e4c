"""The min-norm solver's optimality, on cases with known answers and random ones."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.rl.weights import min_norm, pair


def test_known_answers() -> None:
    # orthogonal with squared norms 1 and 4: c_i proportional to 1/norm^2 = (4/5, 1/5)
    np.testing.assert_allclose(min_norm(np.diag([1.0, 4.0])).weights, [0.8, 0.2], atol=1e-9)
    # the second is twice the first: all weight on the shorter
    np.testing.assert_allclose(min_norm(np.array([[1.0, 2.0], [2.0, 4.0]])).weights, [1.0, 0.0], atol=1e-9)
    # opposite vectors: any point of the segment holds 0; c = (1/2, 1/2)
    np.testing.assert_allclose(min_norm(np.array([[1.0, -1.0], [-1.0, 1.0]])).weights, [0.5, 0.5], atol=1e-9)


def test_no_signal_keeps_equal_weights() -> None:
    assert min_norm(np.zeros((3, 3))).weights.tolist() == [1 / 3] * 3


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
