"""MODPO's equations: which response of a pair is chosen, the margin of the other objectives, the loss.

Notation: B responses; N pairs (i, j) of responses to the same prompt; K objectives.
"""

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

LEAST_WEIGHT = 0.05  # of the divisor, so that a small w_k neither divides by 0 nor drowns the gradient


def label_probabilities(margins: Tensor) -> Tensor:
    """Return P (N,) = sigma(R^k_i - R^k_j), that response i is preferred (Bradley and Terry 1952), of margins (N,)."""
    return torch.sigmoid(margins)


def modpo_loss(gap: Tensor, others: Tensor, chosen: Tensor, weight: float, beta: float) -> Tensor:
    """Return -log sigma((beta gap - others) / w_k) where i is chosen, and with i and j exchanged where j is.

    The loss is MODPO's (docs/papers.md 3.5).

    Args:
        gap: (N,) log-ratio of policy to reference of response i less that of response j.
        others: (N,) sum_{j != k} w_j D R^j, response i less response j.
        chosen: (N,) 1 where i is the chosen response, 0 where j is; a probability gives the loss's expectation.
        weight: w_k; the divisor is at least 0.05.
        beta: strength of the KL to the reference.

    Returns:
        (N,) losses.
    """
    logits = (beta * gap - others) / max(weight, LEAST_WEIGHT)
    return binary_cross_entropy_with_logits(logits, chosen, reduction="none")


def all_pairs(prompts: int, responses: int) -> Tensor:
    """Return (N, 2) rows of responses that stand side by side, `responses` to each prompt.

    Their number N is prompts * C(responses, 2).
    """
    within = torch.tensor(list(combinations(range(responses), 2)))
    return (torch.arange(prompts)[:, None, None] * responses + within).reshape(-1, 2)


@dataclass(frozen=True)
class Pairs:
    """N labelled pairs.

    Attributes:
        rows: (N, 2) rows i and j of the samples.
        chosen: (N,) the probability that i is chosen; 1 where somebody chose it.
        others: (N,) the margin of the other objectives, i less j.
        better: (N,) sum_k w_k D R^k, i less j: what the policy's own ranking should follow.
        weight: w_k.
    """

    rows: Tensor
    chosen: Tensor
    others: Tensor
    better: Tensor
    weight: float


def make_pairs(rewards: Tensor, responses: int, weights: Tensor, labelled: int) -> Pairs:
    """Label pairs by the rewards: with the probability that the first is chosen, so that the loss is its mean.

    Args:
        rewards: (B, K) on the margin's scale, the responses of a prompt side by side.
        responses: per prompt.
        weights: (K,).
        labelled: k.
    """
    rows = all_pairs(len(rewards) // responses, responses).to(rewards.device)
    chosen = label_probabilities(rewards[rows[:, 0], labelled] - rewards[rows[:, 1], labelled])
    return _with_margins(rows, chosen, rewards, weights, labelled)


def given_pairs(rewards: Tensor, weights: Tensor, labelled: int) -> Pairs:
    """Return pairs that a data set labelled.

    `rewards` (B, K) are those of chosen and rejected responses in turn. `weights` are (K,), and `labelled` is k.
    """
    rows = all_pairs(len(rewards) // 2, 2).to(rewards.device)
    return _with_margins(rows, torch.ones(len(rows), device=rewards.device), rewards, weights, labelled)


def _with_margins(rows: Tensor, chosen: Tensor, rewards: Tensor, weights: Tensor, labelled: int) -> Pairs:
    margins = rewards[rows[:, 0]] - rewards[rows[:, 1]]
    better = margins @ weights
    return Pairs(rows, chosen, better - weights[labelled] * margins[:, labelled], better, float(weights[labelled]))
