"""Weights of least norm on the simplex: min over c of c' M c (MOC eq. 12; MGDA-UB).

Notation: S streams; M (S, S) the Gram matrix of their advantages; c (S,) weights. Loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

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


def gram(streams: Tensor, mask: Tensor) -> Tensor:
    """Return M (S, S) = mean_t S^k_t S^l_t over the mask's tokens, from (S, B, T)."""
    flat = (streams * mask).flatten(1).double()
    return flat @ flat.T / mask.sum()


def min_norm(gram: Array, *, tolerance: float = 1e-12, limit: int = 5_000) -> Solution:
    """Minimise c' M c over the simplex by Frank-Wolfe with exact line search and away-steps.

    Frank and Wolfe 1956; away-steps (Guelat and Marcotte 1986) converge linearly. Without them the method may stop some
    1e-2 from the minimum, as that of Sener and Koltun (2018) does (tests/unit/test_golden.py).

    Args:
        gram: (S, S), symmetric positive semidefinite; the problem is solved for M over its largest diagonal entry.
        tolerance: stop when the duality gap -(g.d) of the scaled problem is below this.
        limit: at most so many iterations.
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
        d, longest = _direction(c, g, toward)
        curvature = float(d @ m @ d)
        # A flat direction (d'Md = 0) loses norm linearly: go as far as the simplex allows.
        gamma = longest if curvature <= 0.0 else min(longest, max(0.0, -float(g @ d) / curvature))
        c = np.maximum(c + gamma * d, 0.0)
        c /= c.sum()
    return Solution(c, gap, limit)


def _direction(c: Array, g: Array, toward: int) -> tuple[Array, float]:
    """Return the step towards the best vertex or away from the worst, and the longest one that stays on the simplex."""
    d = -c.copy()
    d[toward] += 1.0
    active = np.flatnonzero(c > 0)
    worst = int(active[np.argmax(g[active])])
    if -(g @ d) >= g[worst] - g @ c or c[worst] >= 1.0:
        return d, 1.0
    back = c.copy()
    back[worst] -= 1.0
    return back, float(c[worst] / (1.0 - c[worst]))
