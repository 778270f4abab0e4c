"""MGDA-UB: the common descent direction of least norm at the shared representation.

Sener and Koltun 2018, arXiv 1810.04650.

    min over the simplex of || sum_k c_k grad_z L^k ||^2,   z the last hidden states of the batch's response tokens

The chain rule bounds the gradient with respect to all weights by this one, so a single backward pass follows. For PPO's
surrogate at u = 1 the gradient at a token is A^k_t W'(e_y - pi_t), so the Gram matrix needs no backward pass either:

    M_kl = mean_t A^k_t A^l_t s_t,   s_t = || d log pi_t / d z_t ||^2 = || W'(e_y - pi_t) ||^2

Choices:
1. The representation is the last hidden state; everything after it (the output matrix W) is shared by all objectives
   and frozen, where the source has a decoder per task.
2. Solved once per batch of rollouts, at u = 1, before PPO's epochs.
3. The source's Frank-Wolfe stops some 1e-2 from the minimum; away-steps are the default, `plain` keeps it.
4. `normalise` divides every objective's gradient by its norm, as the source's code offers; off in its paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from moa import method
from moa.rl.weights import solve

if TYPE_CHECKING:
    from torch import Tensor


class Settings(method.LoopSettings):
    solver: Literal["away", "plain"] = "away"
    normalise: bool = False


def gram(advantages: Tensor, sensitivity: Tensor, mask: Tensor) -> Tensor:
    """Return M (H, H) = mean_t A^k_t A^l_t s_t over the mask's tokens, from (H, B, T) and (B, T)."""
    flat = (advantages * (sensitivity * mask).sqrt()).flatten(1).double()
    return flat @ flat.T / mask.sum()


class Method(method.Method):
    """One policy without a preference."""

    schema = Settings
    settings: Settings
    steerable = False
    reads_sensitivity = True

    def combine(self, batch: method.Batch) -> method.Combination:
        assert batch.sensitivity is not None, "reads_sensitivity is set"
        m = gram(batch.advantages, batch.sensitivity, batch.mask)
        size = m.diagonal().sqrt().clamp(min=1e-12) if self.settings.normalise else m.new_ones(len(m))
        matrix = (m / size[:, None] / size).cpu().numpy()
        solution = solve(matrix, self.settings.solver)
        c = batch.advantages.new_tensor(solution.weights)
        # The direction is sum_k c_k g_k / |g_k|. The sum of the weights stays 1: the KL term beside them does not
        # shrink with the gradients.
        weights = c / size.to(c)
        weights = weights / weights.sum()
        return method.weighted(batch.advantages, weights.expand(len(batch.preferences), -1))
