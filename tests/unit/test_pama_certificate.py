"""PAMA's closed form is optimal.

A KKT certificate says so in many cases; an independent QP solver and our own min-norm solver agree.

The problem: min over the simplex of (sum_i c_i a_i)^2. It is convex, so c is optimal exactly when, with s = sum_i c_i
a_i, s a_i >= s^2 for every i: no vertex lies in a direction of descent. The minimum s*^2 is unique; with mixed signs c
is not.
"""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from moa.methods.pama import closed_form
from moa.rl.weights import min_norm

CASES = 10_000
Array = np.ndarray


def drawn(n: int, cases: int, seed: int) -> Array:
    """Values (n, cases), a sixth of the cases each.

    They are all positive, all negative, mixed, with zeros, with ties, or heavy-tailed.
    """
    rng = np.random.default_rng(seed)
    kinds = (
        lambda normal: np.abs(normal),
        lambda normal: -np.abs(normal),
        lambda normal: normal,
        lambda normal: normal * rng.integers(0, 2, size=normal.shape),
        np.round,  # whole numbers from about -4 to 4: ties at both ends for large n
        lambda normal: normal * np.exp(5 * rng.normal(size=normal.shape)),
    )
    return np.concatenate(
        [
            kind(rng.normal(size=(n, len(part))))
            for kind, part in zip(kinds, np.array_split(np.arange(cases), 6), strict=True)
        ],
        axis=1,
    )


def projection_of_zero(a: Array) -> Array:
    """s* (cases,) of (n, cases).

    It is the point of [min a, max a] nearest to 0, written without looking at the closed form.
    """
    return np.clip(0.0, a.min(0), a.max(0))


@pytest.mark.parametrize("n", [2, 3, 10, 100, 1000])
def test_certificate(n: int) -> None:
    a = drawn(n, CASES, seed=n)
    # Scales from 1e-100 to 1e100. The certificate is homogeneous of degree 2 in a, so each case is judged after
    # division by its largest |a|: a tolerance of 1e-12 there is 1e-12 max|a|^2 in the case's own unit.
    scaled = a * 10.0 ** np.random.default_rng(n).uniform(-100, 100, size=CASES)
    c = closed_form(torch.from_numpy(scaled)).numpy()
    unit = a / np.maximum(np.abs(a).max(0), np.finfo(float).tiny)
    s = (c * unit).sum(0)
    assert c.min() >= 0
    np.testing.assert_allclose(c.sum(0), 1, atol=1e-15)  # at most two weights are not zero
    assert (s * unit >= s * s - 1e-12).all()
    np.testing.assert_allclose(s, projection_of_zero(unit), atol=1e-15)


def test_certificate_in_single_precision() -> None:
    """The loop computes in single precision.

    One rounding of c moves s by at most 2^-24 max|a| per weight, and two weights are not zero.
    """
    a = drawn(10, CASES, seed=0).astype(np.float32)
    c = closed_form(torch.from_numpy(a)).numpy().astype(np.float64)
    unit = a / np.maximum(np.abs(a).max(0), np.float32(1e-30)).astype(np.float64)
    assert c.min() >= 0
    np.testing.assert_allclose((c * unit).sum(0), projection_of_zero(unit), atol=4 * 2.0**-24)


def test_at_most_two_objectives_have_weight() -> None:
    c = closed_form(torch.from_numpy(drawn(10, CASES, seed=1)))
    assert int((c > 0).sum(0).max()) == 2


def test_axes_after_the_first_are_independent() -> None:
    a = torch.from_numpy(drawn(4, 60, seed=2))
    torch.testing.assert_close(closed_form(a.view(4, 5, 12)).view(4, 60), closed_form(a))


@pytest.mark.parametrize("n", [2, 3, 10])
def test_value_agrees_with_a_general_solver(n: int) -> None:
    """SLSQP knows neither Theorem 1 nor Frank-Wolfe. It is given the objective, its gradient and the simplex."""
    a = drawn(n, 120, seed=10 + n)
    a /= np.maximum(np.abs(a).max(0), 1e-30)
    c = closed_form(torch.from_numpy(a)).numpy()
    for case in range(a.shape[1]):
        values = a[:, case]
        found = minimize(
            lambda c, values=values: float(c @ values) ** 2,
            np.full(n, 1 / n),
            jac=lambda c, values=values: 2 * float(c @ values) * values,
            method="SLSQP",
            bounds=[(0, 1)] * n,
            constraints={"type": "eq", "fun": lambda c: c.sum() - 1, "jac": lambda c: np.ones_like(c)},
            options={"ftol": 1e-15, "maxiter": 500},
        )
        assert found.success
        # Never worse than the solver; the solver stops up to 1e-8 early where the values span nine orders of magnitude.
        assert -1e-14 < found.fun - float(c[:, case] @ values) ** 2 < 1e-8, values


@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_value_agrees_with_min_norm_on_the_rank_one_gram_matrix(n: int) -> None:
    """a a' is the Gram matrix of n vectors of length one.

    So the least c'aa'c is the same problem, solved in n^2 per iteration.
    """
    a = drawn(n, 120, seed=20 + n)
    a /= np.maximum(np.abs(a).max(0), 1e-30)
    c = closed_form(torch.from_numpy(a)).numpy()
    for case in range(a.shape[1]):
        gram = np.outer(a[:, case], a[:, case])
        w = min_norm(gram).weights
        assert abs(float(w @ gram @ w) - float(c[:, case] @ a[:, case]) ** 2) < 1e-11
