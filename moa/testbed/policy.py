"""A small policy and critic that read a state and a preference, and the interface of a problem with a known answer.

Notation: B episodes; T steps; K objectives; H >= K streams; S states; A actions.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from moa.experiment.preferences import Preference
from moa.rl.estimation import Scale

GAIN = 6.0


class Episodes(NamedTuple):
    """Played episodes: states and actions (B, T) int64, rewards (K, B, T)."""

    states: Tensor
    actions: Tensor
    rewards: Tensor


class Environment(Protocol):
    """A problem with finitely many states and actions.

    Attributes:
        objectives: K names.
        states: S.
        actions: A.
        horizon: T.
        scale: of an episode's summed rewards; low and high are the ends of the front.
    """

    objectives: list[str]
    states: int
    actions: int
    horizon: int
    scale: Scale

    def play(self, policy: Tensor) -> Episodes:
        """Sample one episode per row of (B, S, A) action probabilities."""
        ...

    def expected(self, policy: Tensor) -> Tensor:
        """Return the exact expected summed rewards (..., K) of (..., S, A) action probabilities."""
        ...


class Policy(nn.Module):
    """softmax(W tanh(V tanh(U x))), x = state (one-hot) and preference; near-uniform at the start."""

    def __init__(self, environment: Environment, hidden: int) -> None:
        super().__init__()
        self.states = environment.states
        k = len(environment.objectives)
        self.body = nn.Sequential(nn.Linear(self.states + k, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        self.head = nn.Linear(hidden, environment.actions)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()

    def forward(self, preferences: Tensor) -> Tensor:
        """Return logits (B, S, A) for preferences (B, K); zeros stand for no preference."""
        logits: Tensor = self.head(self.body(inputs(preferences, self.states)))
        return logits

    def probabilities(self, preferences: list[Preference]) -> Tensor:
        """Return action probabilities (M, S, A) for M preferences."""
        with torch.no_grad():
            return torch.softmax(self(torch.tensor(preferences)), -1)


class Critic(nn.Module):
    """V_h(state, preference, t) = (T - t) / T f_h + g_h, both from a small network.

    The value of a stationary policy grows so with the steps that are left.
    """

    def __init__(self, environment: Environment, heads: int, hidden: int) -> None:
        super().__init__()
        self.states, self.horizon = environment.states, environment.horizon
        self.net = nn.Sequential(
            nn.Linear(self.states + len(environment.objectives), hidden), nn.Tanh(), nn.Linear(hidden, 2 * heads)
        )
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, preferences: Tensor, states: Tensor) -> Tensor:
        """Return values (H, B, T) along the states (B, T)."""
        parts = self.net(inputs(preferences, self.states)).movedim(-1, 0)  # (2 H, B, S)
        picked = parts.gather(2, states.expand(len(parts), -1, -1))
        remaining = torch.arange(self.horizon, 0, -1) / self.horizon
        slope, level = picked.chunk(2)
        return slope * remaining + level


def inputs(preferences: Tensor, states: int) -> Tensor:
    """Return (B, S, S + K): every state, one-hot, beside the preference.

    Neighbouring preferences are GAIN times further apart.
    """
    b, k = preferences.shape
    shown = GAIN * (preferences - 1 / k)
    return torch.cat([torch.eye(states).expand(b, -1, -1), shown[:, None, :].expand(b, states, k)], -1)


def logprobs(logits: Tensor, episodes: Episodes) -> Tensor:
    """Return the log-probabilities (B, T) of the actions, from logits (B, S, A).

    The softmax is taken once per state.
    """
    logs = torch.log_softmax(logits, -1).flatten(1)
    return logs.gather(1, episodes.states * logits.shape[2] + episodes.actions)
