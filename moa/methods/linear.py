"""Linear-conditioned PPO: one policy, the preference in its prompt, linear scalarisation with w = p.

    A_t = sum_k p_k A^k_t

This is MOC without its control term and without its weights: the ablation that shows what those buy (docs/papers.md
1.3).
"""

from __future__ import annotations

from moa import method


class Method(method.Method):
    """One preference-conditioned policy."""

    schema = method.LoopSettings
    conditioned = True

    def combine(self, batch: method.Batch) -> method.Combination:
        return method.weighted(batch.advantages, batch.preferences)
