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
3. The source's Frank-Wolfe stops some 1e-2 from the minimum; ours takes away-steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moa import method
from moa.rl.weights import min_norm

if TYPE_CHECKING:
    from torch import Tensor


def gram(advantages: Tensor, sensitivity: Tensor, mask: Tensor) -> Tensor:
    """Return M (H, H) = mean_t A^k_t A^l_t s_t over the mask's tokens, from (H, B, T) and (B, T)."""
    flat = (advantages * (sensitivity * mask).sqrt()).flatten(1).double()
    return flat @ flat.T / mask.sum()


class Method(method.Method):
    """One policy without a preference."""

    schema = method.LoopSettings
    steerable = False
    reads_sensitivity = True

    def combine(self, batch: method.Batch) -> method.Combination:
        assert batch.sensitivity is not None, "reads_sensitivity is set"
        found = min_norm(gram(batch.advantages, batch.sensitivity, batch.mask).cpu().numpy())
        weights = batch.advantages.new_tensor(found.weights)
        return method.weighted(batch.advantages, weights.expand(len(batch.preferences), -1))
