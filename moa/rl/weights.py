"""Weights on the simplex: those of least norm, min over c of c' M c (MOC eq. 12), and the nearest to given ones.

Notation: H streams; M (H, H) the Gram matrix of their advantages; c (H,) weights. Torch is imported for annotations
    only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float64]


class Solution(NamedTuple):
    """Weights, and the Frank-Wolfe duality gap that bounds c'Mc - optimum."""

    weights: Array
    gap: float
    iterations: int


def min_norm(gram: Array, *, away: bool = True, tolerance: float = 1e-12, limit: int = 5_000) -> Solution:
    """Minimise c' M c over the simplex by Frank-Wolfe with exact line search (Frank and Wolfe 1956; Jaggi 2013).

    Args:
        gram: (H, H), symmetric positive semidefinite; the problem is solved for M over its largest diagonal entry.
        away: take away-steps (Guelat and Marcotte 1986), which converge linearly; without them this is the plain
            Frank-Wolfe of Sener and Koltun (2018), which may stop some 1e-2 from the solution.
        tolerance: stop when the duality gap -(g.d) of the scaled problem is below this.
        limit: at most so many iterations (250 in Sener and Koltun's code).
    """
    gram = np.asarray(gram, dtype=np.float64)
    scale = float(np.abs(np.diag(gram)).max())
    c = np.full(len(gram), 1 / len(gram))
    if scale == 0.0:
        return Solution(c, 0.0, 0)
    m = gram / scale
    gap = np.inf
    for iteration in range(limit):
        g = m @ c
        toward = int(np.argmin(g))
        gap = float(g @ c - g[toward])
        if gap < tolerance:
            return Solution(c, gap, iteration)
        d, longest = _direction(c, g, toward, away)
        curvature = float(d @ m @ d)
        # A flat direction (d'Md = 0) loses norm linearly: go as far as the simplex allows.
        gamma = longest if curvature <= 0.0 else min(longest, max(0.0, -float(g @ d) / curvature))
        c = np.maximum(c + gamma * d, 0.0)
        c /= c.sum()
    return Solution(c, gap, limit)


def solve(gram: Array, solver: Literal["away", "plain"]) -> Solution:
    """Solve with away-steps, or with the plain Frank-Wolfe and the 250 iterations of Sener and Koltun's code."""
    return min_norm(gram) if solver == "away" else min_norm(gram, away=False, limit=250)


def _direction(c: Array, g: Array, toward: int, away: bool) -> tuple[Array, float]:
    """Return the step's direction and the longest step that stays on the simplex."""
    d = -c.copy()
    d[toward] += 1.0
    if not away:
        return d, 1.0
    active = np.flatnonzero(c > 0)
    worst = int(active[np.argmax(g[active])])
    if -(g @ d) >= g[worst] - g @ c or c[worst] >= 1.0:
        return d, 1.0
    back = c.copy()
    back[worst] -= 1.0
    return back, float(c[worst] / (1.0 - c[worst]))


def to_simplex(weights: Tensor) -> Tensor:
    """Return the nearest points of the simplex, (B, K), by sorting (Duchi et al. 2008, figure 1)."""
    ordered = weights.sort(1, descending=True).values
    over = ordered.cumsum(1) - 1
    places = weights.new_ones(weights.shape).cumsum(1)
    kept = (ordered * places > over).sum(1, keepdim=True)  # weights that stay positive
    return (weights - over.gather(1, kept - 1) / kept).clamp(min=0.0)
