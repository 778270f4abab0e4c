"""The min-norm solver's optimality, on cases with known answers and random ones."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.rl.weights import min_norm


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


def test_the_tolerance_is_relative_to_the_longest_stream() -> None:
    """Streams of norms 1 and 2 come in a unit a ten-thousandth as large.

    Gaps in that unit are all below 1e-12, and the answer is the same.
    """
    for unit in (1e-4, 1.0, 1e4):
        found = min_norm(unit**2 * np.diag([1.0, 4.0]))
        np.testing.assert_allclose(found.weights, [0.8, 0.2], atol=1e-9)
        assert found.iterations == 1 and found.gap < 1e-12


def test_an_away_step_drops_a_stream_at_once() -> None:
    """Vectors (1, 0), (0, 1), (10, 10): from equal weights their sum is (11/3, 11/3).

    The third is the worst: its gap is 220/3 - 242/9 = 46.4, to the best only 242/9 - 11/3 = 23.2, so the step leads
    away from it. The line's minimum is at 11/19 = 0.58, beyond the edge at c_3 / (1 - c_3) = 1/2: c = (1/2, 1/2, 0),
    which is the solution.
    """
    found = min_norm(np.array([[1.0, 0.0, 10.0], [0.0, 1.0, 10.0], [10.0, 10.0, 200.0]]))
    assert (found.weights.tolist(), found.iterations) == ([0.5, 0.5, 0.0], 1)


def test_an_away_step_ends_where_the_norm_is_least() -> None:
    """The streams are orthogonal, with squared norms 1, 1, 4.

    M c from equal weights is (1, 1, 4) / 3 with mean 2/3, so the step leads away from the third (2/3 against 1/3). On
    the line c = (a, a, 1 - 2 a) the norm 2 a^2 + 4 (1 - 2 a)^2 is least at a = 4/9, inside the simplex, and that is the
    solution.
    """
    found = min_norm(np.diag([1.0, 1.0, 4.0]))
    np.testing.assert_allclose(found.weights, [4 / 9, 4 / 9, 1 / 9], atol=1e-12)
    assert found.iterations == 1


def test_the_line_search_ends_at_a_corner() -> None:
    """The second stream is twice the first.

    The line's least norm is at c = (2, -1), beyond the corner (1, 0), which is the answer after one step.
    """
    found = min_norm(np.array([[1.0, 2.0], [2.0, 4.0]]))
    assert (found.weights.tolist(), found.gap, found.iterations) == ([1.0, 0.0], 0.0, 1)


def test_a_corner_on_the_way_is_left() -> None:
    """The vectors are (1, 0), (1/2, 4), (3, 0), (3, 0).

    4 M c from equal weights is (7.5, 19.75, 22.5, 22.5), so the step leads to the first. There M c = (1, 1/2, 3, 3),
    and 1 < 7.5 / 4 says that the norm still falls at the corner, which therefore ends the step. From a corner no step
    leads away; the next goes to the second vector: c_1 = (16.25 - 0.5) / (1 + 16.25 - 2 * 0.5) = 63 / 65.
    """
    rows = np.array([[1.0, 0.0], [0.5, 4.0], [3.0, 0.0], [3.0, 0.0]])
    found = min_norm(rows @ rows.T)
    np.testing.assert_allclose(found.weights, [63 / 65, 2 / 65, 0.0, 0.0], atol=1e-12)
    assert found.iterations == 2


def test_a_flat_direction_is_followed_to_its_end() -> None:
    """Rounding can leave M slightly indefinite.

    Here 1 + 2 - 2 * 1.5 = 0: no curvature from equal weights to the shorter stream.
    """
    assert min_norm(np.array([[1.0, 1.5], [1.5, 2.0]])).weights.tolist() == [1.0, 0.0]


def test_single_precision_is_solved_in_double() -> None:
    gram = np.array([[3.0, 0.1, 0.7], [0.1, 2.0, 0.3], [0.7, 0.3, 1.0]], dtype=np.float32)
    assert min_norm(gram).weights.tolist() == min_norm(gram.astype(np.float64)).weights.tolist()


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
