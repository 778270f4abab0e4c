"""Bandits whose Pareto set is known in closed form: quadratic rewards in the plane, and a row of arms.

Notation: K objectives; N actions; x the policy's mean action; a_k the centre of reward k.
"""

from dataclasses import dataclass
from math import log, sqrt

import torch
from torch import Tensor

from moa.experiment.preferences import Preference
from moa.method import Batch, Method
from moa.rl.estimation import Scale
from moa.testbed.policy import Episodes

RINGS, RAYS = 48, 48  # of the rule that stands for the normal distribution


@dataclass(frozen=True)
class Quadratic:
    """A normal policy with mean x and fixed deviation sigma in the plane; reward k is -|a - a_k|^2.

    The expected reward is J_k(x) = -|x - a_k|^2 - 2 sigma^2 with gradient g_k = 2 (a_k - x). A mean x is Pareto
    stationary, and Pareto optimal too since every J_k is strictly concave, exactly if it lies in the convex hull of the
    a_k: sum_k c_k g_k = 0 on the simplex means x = sum_k c_k a_k. So each method's fixed point is known:

        linear, w             x = sum_k w_k a_k
        min-norm on the g_k   sum_k c_k g_k = 2 (nearest point of the hull - x): every start goes to its projection
        min-norm on Cov(r)    the same weights: Cov(r_k, r_l) = sigma^2 g_k.g_l + 4 sigma^4, and a constant
                              changes no minimiser
    """

    centres: Tensor  # (K, 2) float64
    sigma: float = 0.2

    def expected(self, mean: Tensor) -> Tensor:
        """Return J (K,) of a mean (2,)."""
        return -(mean - self.centres).square().sum(1) - 2 * self.sigma**2

    def gradients(self, mean: Tensor) -> Tensor:
        """Return the exact gradients g (K, 2)."""
        return 2 * (self.centres - mean)

    def scale(self) -> Scale:
        """Return the normaliser: each objective from its worst at another's centre (0) to its best (1)."""
        payoff = torch.stack([self.expected(a) for a in self.centres])
        low, high = payoff.amin(0), payoff.amax(0)
        return Scale(low, high)

    def batch(self, method: Method, preference: Preference, mean: Tensor) -> tuple[Batch, Tensor]:
        """Return a batch that stands for the whole distribution, and its offsets from the mean (N, 2).

        N equally likely actions in rings around the mean have the normal distribution's mean and covariance exactly, so
        averages over the batch are expectations: no sampling noise. Advantages are r - mean r, one token per response,
        and pass through the method's own `extra_rewards` and `transform`.
        """
        offsets = self.sigma * rings().to(mean)
        actions = mean + offsets
        raw = -(actions[:, None, :] - self.centres).square().sum(2)
        scores = self.scale().apply(raw)
        preferences = mean.new_tensor(preference).expand(len(raw), -1)
        rewards = torch.cat([raw, method.extra_rewards(scores, preferences)], 1)
        mask = mean.new_ones(len(raw), 1)
        advantages = method.transform((rewards - rewards.mean(0)).T[:, :, None])
        return Batch(advantages, mask, preferences, scores, mean.new_ones(len(raw), 1)), offsets

    def direction(self, method: Method, preference: Preference, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Return the exact policy gradient E[A grad log pi] (2,), and the method's weights (H,).

        A is the method's combined advantage.
        """
        batch, offsets = self.batch(method, preference, mean)
        combination = method.combine(batch)
        return (combination.advantages * offsets).mean(0) / self.sigma**2, combination.weights

    def ascend(self, method: Method, preference: Preference, start: Tensor, steps: int, rate: float = 0.1) -> Tensor:
        """Return where gradient ascent from `start` (2,) ends."""
        mean = start
        for _ in range(steps):
            mean = mean + rate * self.direction(method, preference, mean)[0]
        return mean


def rings() -> Tensor:
    """Return (RINGS RAYS, 2) equally likely points with mean 0 and covariance 1, as a standard normal has."""
    # Radii at the middle of equally likely rings: P(|z| > r) = exp(-r^2 / 2); then scaled so that E[|z|^2] = 2.
    radii = torch.tensor([sqrt(-2 * log((i + 0.5) / RINGS)) for i in range(RINGS)], dtype=torch.float64)
    radii = radii * torch.rsqrt(radii.square().mean() / 2)
    angles = torch.arange(RAYS, dtype=torch.float64) * (2 * torch.pi / RAYS)
    return (radii[:, None, None] * torch.stack([angles.cos(), angles.sin()], 1)).view(-1, 2)


class Arms:
    """Arms x = 0, 1/n, ..., 1 with rewards 1 - (1 - x)^2 and 1 - x^2, and as many that pay `loss` less on both.

    The first n + 1 arms are the front. It bends outwards, so every one of them is optimal for a weight: the utility
    p_1 (1 - (1 - x)^2) + p_2 (1 - x^2) is greatest at x = p_1.
    """

    objectives = ["first", "second"]
    states = 1
    horizon = 1

    def __init__(self, divisions: int = 10, loss: float = 0.3) -> None:
        x = torch.linspace(0, 1, divisions + 1)
        front = torch.stack([1 - (1 - x).square(), 1 - x.square()], 1)
        self.position = torch.cat([x, x])
        self.table = torch.cat([front, front - loss])  # (A, K)
        self.optimal = torch.arange(len(self.table)) <= divisions
        self.actions = len(self.table)
        self.scale = Scale(torch.zeros(2), torch.ones(2))  # the front's ends

    def play(self, policy: Tensor) -> Episodes:
        """Sample one action per row of (B, 1, A) probabilities."""
        actions = torch.multinomial(policy[:, 0], 1)
        return Episodes(torch.zeros_like(actions), actions, self.table[actions].movedim(-1, 0))

    def expected(self, policy: Tensor) -> Tensor:
        """Return (..., 2) expected rewards."""
        return policy[..., 0, :] @ self.table
