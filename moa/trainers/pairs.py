"""MODPO's equations: which response of a pair is chosen, the margin of the other objectives, the loss.

Notation: B responses; N pairs (i, j) of responses to the same prompt; K objectives.
"""

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from moa.store.provenance import text_hash

LEAST_WEIGHT = 0.05  # of the divisor, so that a small w_k neither divides by 0 nor drowns the gradient


def label_probabilities(margins: Tensor) -> Tensor:
    """Return P (N,) = sigma(R^k_i - R^k_j), that response i is preferred (Bradley and Terry 1952), of margins (N,)."""
    return torch.sigmoid(margins)


def modpo_loss(gap: Tensor, others: Tensor, chosen: Tensor, weight: float, beta: float) -> Tensor:
    """-log sigma( (beta gap - others) / w_k ) where i is chosen, and the same with i and j exchanged where j is.

    MODPO, docs/papers.md 3.5.

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

    N = prompts * C(responses, 2).
    """
    within = torch.tensor(list(combinations(range(responses), 2)))
    return (torch.arange(prompts)[:, None, None] * responses + within).reshape(-1, 2)


@dataclass(frozen=True)
class Pairs:
    """N labelled pairs.

    Attributes:
        rows: (N, 2) rows i and j of the samples.
        chosen: (N,) 1 where i is chosen, 0 where j is, or the probability of it.
        others: (N,) the margin of the other objectives, i less j.
        better: (N,) sum_k w_k D R^k, i less j: what the policy's own ranking should follow.
        weight: w_k.
    """

    rows: Tensor
    chosen: Tensor
    others: Tensor
    better: Tensor
    weight: float


def make_pairs(rewards: Tensor, responses: int, weights: Tensor, labelled: int, drawn: int | None) -> Pairs:
    """Label pairs by the rewards.

    Args:
        rewards: (B, K) on the margin's scale, the responses of a prompt side by side.
        responses: per prompt.
        weights: (K,).
        labelled: k.
        drawn: seed by which every label is drawn from its probability; None keeps the probability.
    """
    rows = all_pairs(len(rewards) // responses, responses).to(rewards.device)
    chosen = label_probabilities(rewards[rows[:, 0], labelled] - rewards[rows[:, 1], labelled])
    if drawn is not None:
        generator = torch.Generator().manual_seed(int(text_hash("labels", str(drawn)), 16) % 2**63)
        chosen = (torch.rand(len(rows), generator=generator).to(chosen.device) < chosen).float()
    return _with_margins(rows, chosen, rewards, weights, labelled)


def given_pairs(rewards: Tensor, weights: Tensor, labelled: int) -> Pairs:
    """Return pairs that a data set labelled: rewards (B, K) of chosen and rejected responses in turn.

    `weights` (K,); `labelled` is k.
    """
    rows = all_pairs(len(rewards) // 2, 2).to(rewards.device)
    return _with_margins(rows, torch.ones(len(rows), device=rewards.device), rewards, weights, labelled)


def _with_margins(rows: Tensor, chosen: Tensor, rewards: Tensor, weights: Tensor, labelled: int) -> Pairs:
    margins = rewards[rows[:, 0]] - rewards[rows[:, 1]]
    better = margins @ weights
    return Pairs(rows, chosen, better - weights[labelled] * margins[:, labelled], better, float(weights[labelled]))
