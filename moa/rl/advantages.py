"""Advantages: generalised advantage estimation, group-relative advantages, and whitening.

Shapes: H streams, B samples, T response tokens; a leading H may be absent. Masks are (B, T), 1 on response tokens.
"""

import torch
from torch import Tensor


def gae(values: Tensor, rewards: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1};  V is 0 after the last response token.

    Args:
        values: (..., B, T).
        rewards: (..., B, T).
        mask: (B, T).
        gamma: discount.
        lam: lambda.

    Returns:
        advantages and returns (advantages + values), both (..., B, T) and 0 where the mask is 0.
    """
    values, rewards = values * mask, rewards * mask
    following = torch.zeros_like(values)
    following[..., :-1] = values[..., 1:]
    deltas = rewards + gamma * following - values
    advantages = torch.zeros_like(values)
    running = torch.zeros_like(values[..., 0])
    for t in reversed(range(values.shape[-1])):
        running = deltas[..., t] + gamma * lam * running
        advantages[..., t] = running
    advantages = advantages * mask
    return advantages, (advantages + values) * mask


def group_relative(rewards: Tensor, groups: Tensor) -> Tensor:
    """Return group-relative advantages, without a critic, one per response and stream.

    A^k_b = (r^k_b - mean r^k) / (std r^k + 1e-4), mean and unbiased standard deviation over the group of b, as in TRL
    (Shao et al. 2024, arXiv 2402.03300, section 4.1.2). Each stream is standardised by itself, before any combination
    (GDPO; arXiv 2601.05242).

    Args:
        rewards: (B, H), each response's whole reward.
        groups: (B,) group numbers; every group has at least two responses.

    Returns:
        (B, H); 0 where a whole group has the same reward.
    """
    out = torch.zeros_like(rewards)
    for group in groups.unique():
        rows = groups == group
        out[rows] = (rewards[rows] - rewards[rows].mean(0)) / (rewards[rows].std(0) + 1e-4)
    return out


def group_centred(rewards: Tensor, groups: Tensor) -> Tensor:
    """Rewards (B, H) less their group's mean: every stream keeps the scale of its rewards.

    `groups` (B,) holds group numbers.
    """
    out = torch.zeros_like(rewards)
    for group in groups.unique():
        rows = groups == group
        out[rows] = rewards[rows] - rewards[rows].mean(0)
    return out


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over (B, T) where the mask is 1; keeps leading dimensions."""
    return (x * mask).sum((-2, -1)) / mask.sum()


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale (..., B, T) to mean 0, variance 1 over the mask; unbiased variance plus 1e-8 as in TRL 0.8.

    A group of fewer than two tokens is returned shifted only.
    """
    n = mask.sum()
    mean = masked_mean(x, mask)[..., None, None]
    centred = (x - mean) * mask
    if n < 2:
        return centred
    variance = centred.square().sum((-2, -1), keepdim=True) / (n - 1)
    return centred * torch.rsqrt(variance + 1e-8)


def unit_scale(x: Tensor, mask: Tensor) -> Tensor:
    """Divide (B, T) by its root mean square over the mask.

    Signs stay, so that Noon's advantages remain non-negative.
    """
    return x * torch.rsqrt(masked_mean(x.square(), mask) + 1e-8)
