"""Fishwood: gather fish or wood, with a straight Pareto front (MO-Gymnasium's fishwood-v0; docs/papers.md 1.4).

Two states (in the wood, at the river), two actions (be in the wood, or at the river, at the next step), 200 steps. A
step first pays for the current state: one piece of wood with probability 0.9, or one fish with probability 0.1. The
episode starts in the wood, so m steps at the river, 0 <= m <= 199, earn (0.1 m, 0.9 (200 - m)): every policy is on the
segment from (0, 180) to (19.9, 0.9) in expectation, and what a method is judged by is how much of the segment it
covers, and in what order.
"""

import torch
from torch import Tensor

from moa.rl.estimation import Scale
from moa.testbed.policy import Episodes

WOOD, FISH = 0, 1  # states, and the actions that lead to them
STEPS = 200
CHANCE = (0.9, 0.1)  # of a reward, by state
ENDS = ((0.0, 180.0), (19.9, 0.9))  # of the front: always wood, always fish


class Fishwood:
    """The environment, for a batch of episodes at once. Rewards are (fish, wood), as in the source's code."""

    objectives = ["fish", "wood"]
    states = 2
    actions = 2
    horizon = STEPS

    def __init__(self) -> None:
        self.scale = Scale(torch.tensor([0.0, 0.9]), torch.tensor([19.9, 180.0]))  # the front's ends

    def play(self, policy: Tensor) -> Episodes:
        """Sample one episode per row of (B, 2, 2) action probabilities."""
        batch = len(policy)
        states = torch.zeros(batch, STEPS, dtype=torch.int64)
        actions = torch.zeros_like(states)
        now = torch.full((batch,), WOOD)
        draws = torch.rand(STEPS, batch)
        for t in range(STEPS):
            states[:, t] = now
            now = (draws[t] < policy[torch.arange(batch), now, FISH]).long()
            actions[:, t] = now
        paid = torch.rand(batch, STEPS) < torch.tensor(CHANCE)[states]
        return Episodes(states, actions, torch.stack([paid & (states == FISH), paid & (states == WOOD)]).float())

    def expected(self, policy: Tensor) -> Tensor:
        """Return (..., 2) expected (fish, wood) by dynamic programming: V_t(s) = r(s) + sum_a pi(a | s) V_{t+1}(a)."""
        pays = torch.tensor([[0.0, CHANCE[WOOD]], [CHANCE[FISH], 0.0]], dtype=torch.float64)  # (state, objective)
        values = torch.zeros(*policy.shape[:-2], 2, 2, dtype=torch.float64)
        for _ in range(STEPS):
            values = pays + policy.double() @ values
        return values[..., WOOD, :]
