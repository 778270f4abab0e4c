"""Linear-conditioned PPO: one policy, the preference in its prompt, linear scalarisation with w = p (papers.md 1.3).

    A_t = sum_k p_k A^k_t

This is MOC without its control term and without its weights: the ablation that shows what those buy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moa.methods import base

if TYPE_CHECKING:
    from torch import Tensor


class Method(base.Method):
    """One preference-conditioned policy."""

    conditioned = True

    def combine(self, advantages: Tensor, mask: Tensor, preferences: Tensor) -> base.Combination:
        return base.weighted(advantages, preferences)
