"""PPO's losses (Schulman et al. 2017, arXiv 1707.06347) per token, and what is logged beside them.

Masked tensors are (B, T); value tensors (H, B, T).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """The tokens that a loss is a mean over.

    Attributes:
        mask: (B, T), 1 on the tokens that are summed.
        total: what the sum is divided by; with gradient accumulation the mini-batch's, so that parts add up to the
            whole.
    """

    mask: Tensor
    total: Tensor


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, tokens: Tokens, clip: float
) -> tuple[Tensor, Tensor]:
    """Clipped surrogate (eq. 7), negated; and the share of tokens whose clipped loss is the larger."""
    mask, total = tokens
    ratio = torch.exp((logprobs - old_logprobs) * mask)
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    loss = (torch.maximum(plain, clipped) * mask).sum() / total
    return loss, ((clipped > plain).float() * mask).sum() / total


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, tokens: Tokens, clip: float) -> Tensor:
    """Clipped squared error with factor 0.5 per stream, (H,); values may move by `clip` from the rollout's."""
    near = torch.clamp(values, old_values - clip, old_values + clip)
    worst = torch.maximum((values - returns).square(), (near - returns).square())
    return 0.5 * (worst * tokens.mask).sum((-2, -1)) / tokens.total


def reference_loss(logprobs: Tensor, reference_logprobs: Tensor, tokens: Tokens) -> Tensor:
    """Half the squared log-ratio to the reference per token.

    On samples of the policy its gradient, (log pi - log pi_ref) grad log pi, is an unbiased estimate of the gradient of
    KL(pi || pi_ref) per token (Schulman's k2); the k3 estimator's gradient is that of the opposite KL.
    """
    return 0.5 * ((logprobs - reference_logprobs).square() * tokens.mask).sum() / tokens.total


def distribution_kl(logits: Tensor, reference_logits: Tensor, temperature: float) -> Tensor:
    """KL(pi || pi_ref) of every position's next-token distribution, (B, T) nats, from (B, T, V) logits of both.

    Exact at the states that the rollouts visit; an estimate from the drawn tokens alone has so heavy a tail that the
    adaptive coefficient would follow its noise.
    """
    logs, reference = (torch.log_softmax(x.float() / temperature, -1) for x in (logits, reference_logits))
    # A token that cannot be drawn adds nothing: 0 log 0 = 0, which -inf less -inf would make NaN.
    return (logs.exp() * (logs - reference).nan_to_num(0.0)).sum(-1).clamp(min=0)  # equal ones: rounding alone


def estimated_kl(logprobs: Tensor, other_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Estimate KL(policy || other) in nats per token from the policy's own tokens.

    The estimate is k3 = exp(d) - d - 1 with d = log other - log policy. It is never negative.
    """
    d = (other_logprobs - logprobs) * mask
    return ((d.exp() - d - 1) * mask).sum() / mask.sum()


def approximate_kl(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Half the mean squared log-ratio to the rollout policy: how far the epochs have moved."""
    return 0.5 * ((logprobs - old_logprobs).square() * mask).sum() / mask.sum()


def forbid_empty(logits: Tensor, ends: list[int]) -> Tensor:
    """Take the end tokens from each response's first position, as sampling does.

    `logits` (B, T, V) are changed in place and returned. A copy would be one more tensor of their size.
    """
    logits[:, 0, ends] = -torch.inf
    return logits


def entropies(logits: Tensor, temperature: float) -> Tensor:
    """Entropies (...) float32 of softmax(logits / temperature), (..., V); differentiable."""
    return _entropies(torch.log_softmax(logits.float() / temperature, -1))


def _entropies(logs: Tensor) -> Tensor:
    # A token that cannot be drawn adds nothing: 0 log 0 = 0, which -inf would make NaN.
    return -(logs.exp() * logs.clamp(min=torch.finfo(logs.dtype).min)).sum(-1)


def logprobs_and_entropy(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `tokens` and entropies, both (B, T) float32, of softmax(logits / temperature), (B, T, V)."""
    logs = torch.log_softmax(logits.float() / temperature, -1)
    return logs.gather(-1, tokens[..., None])[..., 0], _entropies(logs)


def sensitivity(logits: Tensor, tokens: Tensor, output: Tensor, temperature: float) -> Tensor:
    """Return the squared norm (B, T) of d log pi_t / d z_t = W'(e_y - pi_t) / temperature.

    z is the last hidden state (docs/papers.md 1.3).

    Args:
        logits: (B, T, V) = W z.
        tokens: (B, T).
        output: W (V, D).
        temperature: of softmax(logits / temperature).
    """
    probabilities = torch.softmax(logits.float() / temperature, -1)
    # One sample at a time: (T, V) times (V, D), so that no second tensor of the logits' size is in memory.
    weights = output.float()
    rows = [weights[y] - p @ weights for p, y in zip(probabilities, tokens, strict=True)]
    return torch.stack([row.square().sum(-1) for row in rows]) / temperature**2
