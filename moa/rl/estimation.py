"""From raw rewards to the advantages of every stream: scale, placement, estimator, whitening.

Notation as in moa/method.py: K, H, B, T.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from moa.experiment.keys import Ppo
from moa.method import Combination, Method, Scores
from moa.rl.advantages import gae, group_centred, group_relative, unit_scale, whiten


class Scale(NamedTuple):
    """The normaliser's columns, each (K,) float32; high is above low."""

    low: Tensor
    high: Tensor

    def apply(self, raw: Tensor) -> Scores:
        """Return raw scores (B, K) and the same with low and high mapped to 0 and 1."""
        return Scores(raw, (raw - self.low) / (self.high - self.low))


def token_rewards(rewards: Tensor, mask: Tensor) -> Tensor:
    """Place (B, H) rewards on each response's last token: (H, B, T)."""
    last = mask.sum(1).long() - 1
    placed = rewards.new_zeros(rewards.shape[1], *mask.shape)
    placed[:, torch.arange(len(last)), last] = rewards.T
    return placed


def estimate(ppo: Ppo, values: Tensor, rewards: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return advantages and returns, both (H, B, T), of values and rewards (H, B, T).

    Group-relative advantages are the same for every token of a response, whose reward is the undiscounted sum over its
    tokens; nothing learns their returns, which are 0. With `ppo.whiten: combined` they are centred only.
    """
    if ppo.advantages == "gae":
        return gae(values, rewards, mask, ppo.gamma, ppo.lam)
    groups = torch.arange(len(mask), device=mask.device) // ppo.group_size
    compare = group_centred if ppo.whiten == "combined" else group_relative
    relative = compare((rewards * mask).sum(-1).T, groups)
    return relative.T[:, :, None] * mask, torch.zeros_like(rewards)


def shape_advantages(method: Method, ppo: Ppo, advantages: Tensor, mask: Tensor) -> Tensor:
    """Apply the method's own transformation; with `ppo.whiten: batch` after every stream is whitened over the batch.

    `ppo.whiten: combined` leaves every stream on the scale of its rewards; `scale_combined` acts later.
    """
    if ppo.whiten == "batch":
        advantages = whiten(advantages, mask)
    return method.transform(advantages)


def scale_combined(ppo: Ppo, combination: Combination, mask: Tensor) -> Combination:
    """With `ppo.whiten: combined`, bring the combined advantages to unit size.

    This is done within each group, or over the batch without groups.
    """
    if ppo.whiten != "combined":
        return combination
    size = ppo.group_size if ppo.advantages == "group" else len(mask)
    parts = zip(combination.advantages.split(size), mask.split(size), strict=True)
    return combination._replace(advantages=torch.cat([unit_scale(a, m) for a, m in parts]))
