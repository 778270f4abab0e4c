"""Trains a small policy by a method's file, as the loop for language models does.

Hooks, advantages, weights and policy loss are the same.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from moa.experiment.keys import Ppo
from moa.experiment.preferences import Preference
from moa.method import Batch, Method
from moa.rl.advantages import gae
from moa.rl.estimation import scale_combined, shape_advantages, token_rewards
from moa.rl.experience import finite
from moa.rl.losses import Tokens, policy_loss, sensitivity, value_loss
from moa.testbed.policy import Critic, Environment, Episodes, Policy, logprobs

HIDDEN = 32
PPO = Ppo(
    steps=100,
    batch_size=110,
    mini_batch_size=110,
    epochs=3,
    learning_rate=1e-2,
    value_learning_rate=3e-2,
    lam=1.0,
    value_clip=1e6,
    max_grad_norm=1e6,
    early_stop=None,
)


@dataclass
class Learner:
    """One policy in training.

    Attributes:
        ppo: the loop's settings; advantages are always the critic's, so `advantages: group` has no meaning here.
        training: preferences of the episodes, each equally often.
        raw: train on the rewards in their own unit instead of the normalised scale.
    """

    environment: Environment
    method: Method
    ppo: Ppo
    training: list[Preference]
    seed: int
    raw: bool = False

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.policy = Policy(self.environment, HIDDEN)
        self.critic = Critic(self.environment, len(self.environment.objectives) + len(self.method.extra_heads), HIDDEN)
        value_rate = self.ppo.value_learning_rate or self.ppo.learning_rate
        groups = [
            {"params": self.policy.parameters(), "lr": self.ppo.learning_rate},
            {"params": self.critic.parameters(), "lr": value_rate},
        ]
        self.optimizer = torch.optim.Adam(groups)
        rows = torch.tensor(self.training, dtype=torch.float32)
        self.preferences = rows.repeat(-(-self.ppo.batch_size // len(rows)), 1)[: self.ppo.batch_size]
        self.shown = self.preferences if self.method.conditioned else torch.zeros_like(self.preferences)
        self.weights: list[list[float]] = []  # mean weight of every stream, per step

    def train(self) -> Policy:
        """Run all steps; a rate that falls linearly to zero lets the policy settle."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for step in range(self.ppo.steps):
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - step / self.ppo.steps)
            self.step(step)
        return self.policy

    def step(self, step: int) -> None:
        """Play a batch, estimate and combine advantages, and run the epochs."""
        with torch.no_grad():
            logits = self.policy(self.shown)
            episodes = self.environment.play(torch.softmax(logits, -1))
            old = logprobs(logits, episodes)
            values = self.critic(self.shown, episodes.states)
        mask = torch.ones_like(old)
        scores = self.environment.scale.apply(episodes.rewards.sum(-1).T)
        extra = token_rewards(self.method.extra_rewards(scores, self.preferences), mask)
        unit = (
            torch.ones_like(self.environment.scale.high)
            if self.raw
            else self.environment.scale.high - self.environment.scale.low
        )
        rewards = torch.cat([episodes.rewards / unit[:, None, None], extra])
        advantages, returns = gae(values, rewards, mask, self.ppo.gamma, self.ppo.lam)
        advantages = shape_advantages(self.method, self.ppo, advantages, mask)
        sensitive = self._sensitivity(logits, episodes) if self.method.reads_sensitivity else None
        combination = self.method.combine(Batch(advantages, mask, self.preferences, scores, sensitive))
        combination = scale_combined(self.ppo, combination, mask)
        finite(combination.advantages, "the combined advantage", step)
        self.weights.append(combination.weights.tolist())
        tokens = Tokens(mask, mask.sum())
        for _ in range(self.ppo.epochs):
            new = logprobs(self.policy(self.shown), episodes)
            loss, _ = policy_loss(new, old, combination.advantages, tokens, self.ppo.clip)
            fit = value_loss(self.critic(self.shown, episodes.states), values, returns, tokens, self.ppo.value_clip)
            self.optimizer.zero_grad()
            (loss + self.ppo.value_coefficient * fit.mean()).backward()
            self.optimizer.step()

    def _sensitivity(self, logits: Tensor, episodes: Episodes) -> Tensor:
        return sensitivity(
            logits[torch.arange(len(logits))[:, None], episodes.states],
            episodes.actions,
            self.policy.head.weight.detach(),
            1.0,
        )
