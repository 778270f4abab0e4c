"""Losses by hand and against autograd."""

import math

import pytest
import torch

from moa.rl.loop import AdaptiveKl
from moa.rl.losses import (
    Tokens,
    distribution_kl,
    estimated_kl,
    forbid_empty,
    logprobs_and_entropy,
    policy_loss,
    reference_loss,
    sensitivity,
    value_loss,
)


def test_policy_loss_by_hand() -> None:
    # ratio 1.5 with A = 1: min(1.5, 1.2) = 1.2; ratio 0.5 with A = -1: min(-0.5, -0.8) = -0.8; loss = -(1.2 - 0.8) / 2
    # = -0.2
    new = torch.log(torch.tensor([[1.5, 0.5]]))
    loss, clipped = policy_loss(
        new, torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), Tokens(torch.ones(1, 2), torch.tensor(2.0)), 0.2
    )
    torch.testing.assert_close(loss, torch.tensor(-0.2))
    assert float(clipped) == 1.0


def test_value_loss_by_hand() -> None:
    # value 2, old 0, clip 0.2 -> 0.2; return 1: max((2-1)^2, (0.2-1)^2) = 1; half of it
    one = Tokens(torch.ones(1, 1), torch.tensor(1.0))
    got = value_loss(torch.tensor([[[2.0]]]), torch.zeros(1, 1, 1), torch.ones(1, 1, 1), one, 0.2)
    torch.testing.assert_close(got, torch.tensor([0.5]))


def test_reference_loss_has_the_gradient_of_the_kl() -> None:
    """Expected over the policy's own samples, grad of k2 equals grad KL(pi || ref), exactly.

    The expectation is a sum over the vocabulary.
    """
    logits = torch.tensor([0.3, -0.4, 1.1], dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64), 0)
    logs = torch.log_softmax(logits, 0)
    exact = torch.autograd.grad((logs.exp() * (logs - reference)).sum(), logits, retain_graph=True)[0]
    mask, one = torch.ones(1, 1), torch.tensor(1.0)
    expected = torch.zeros(3, dtype=torch.float64)
    for token in range(3):
        loss = reference_loss(logs[token].view(1, 1), reference[token].view(1, 1), Tokens(mask, one))
        expected += float(logs[token].detach().exp()) * torch.autograd.grad(loss, logits, retain_graph=True)[0]
    torch.testing.assert_close(expected, exact)


def test_kl_of_two_distributions_by_hand() -> None:
    policy = torch.tensor([[[0.0, 0.0, 5.0], [0.0, math.log(3.0), -math.inf]]])
    assert distribution_kl(policy, policy, 1.0).tolist() == [[0.0, 0.0]]
    reference = torch.tensor([[[0.0, math.log(3.0), -math.inf], [0.0, 0.0, -math.inf]]])
    policy = torch.tensor([[[0.0, 0.0, -math.inf], [0.0, math.log(3.0), -math.inf]]])
    # (1/2, 1/2) against (1/4, 3/4): log(2)/2 + log(2/3)/2; (1/4, 3/4) against (1/2, 1/2): log(1/2)/4 + 3/4 log(3/2)
    expected = torch.tensor([[0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.25 * math.log(0.5) + 0.75 * math.log(1.5)]])
    torch.testing.assert_close(distribution_kl(policy, reference, 1.0), expected)
    # At temperature 1/2 log-odds double: (1/10, 9/10) against (1/2, 1/2)
    torch.testing.assert_close(
        distribution_kl(policy, reference, 0.5)[0, 1], torch.tensor(0.1 * math.log(0.2) + 0.9 * math.log(1.8))
    )


def test_kl_estimated_from_drawn_tokens_by_hand() -> None:
    a, b = torch.log(torch.tensor([[0.5, 0.25]])), torch.log(torch.tensor([[0.25, 0.25]]))
    assert float(estimated_kl(a, a, torch.ones(1, 2))) == 0.0
    # d = log(0.25/0.5) = -log 2 on the first token: exp(d) - d - 1 = 0.5 + log 2 - 1; second token 0; mean of two
    torch.testing.assert_close(estimated_kl(a, b, torch.ones(1, 2)), torch.tensor((math.log(2) - 0.5) / 2))
    # with the second token padding, the first alone
    torch.testing.assert_close(estimated_kl(a, b, torch.tensor([[1.0, 0.0]])), torch.tensor(math.log(2) - 0.5))


def test_reference_loss_by_hand() -> None:
    # (3 - 1)^2 = 4 and (2 - 2)^2 = 0 on two tokens, 7 on padding; half of 4 over a mini-batch of 8 tokens
    got = reference_loss(
        torch.tensor([[3.0, 2.0, 7.0]]),
        torch.tensor([[1.0, 2.0, 0.0]]),
        Tokens(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor(8.0)),
    )
    assert float(got) == 0.25


def test_entropy_and_logprobs_use_the_temperature() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)]]])
    logprobs, entropy = logprobs_and_entropy(logits, torch.tensor([[1]]), temperature=0.5)
    # logits / 0.5 = (0, log 9): probabilities 0.1, 0.9
    torch.testing.assert_close(logprobs, torch.log(torch.tensor([[0.9]])))
    torch.testing.assert_close(entropy, torch.tensor([[-(0.1 * math.log(0.1) + 0.9 * math.log(0.9))]]))


def test_adaptive_kl_clips_the_error_at_a_fifth() -> None:
    kl = AdaptiveKl(0.2, target=0.1, horizon=100.0)
    kl.update(10.0, samples=50)  # error clipped to 0.2: 0.2 * (1 + 0.2 * 50 / 100) = 0.22
    assert math.isclose(kl.coefficient, 0.22)
    kl.update(0.095, samples=50)  # error -0.05: 0.22 * (1 - 0.05 * 0.5)
    assert math.isclose(kl.coefficient, 0.22 * 0.975)


def test_sensitivity_is_the_squared_gradient_at_the_hidden_state() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    output = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    tokens = torch.tensor([[0, 4, 2], [1, 1, 3]])
    temperature = 0.7
    logits = hidden @ output.T
    logprobs = torch.log_softmax(logits / temperature, -1).gather(-1, tokens[..., None])[..., 0]
    # a token's log-probability depends on its own state alone
    gradient = torch.autograd.grad(logprobs.sum(), hidden)[0]
    got = sensitivity(logits.detach(), tokens, output, temperature)
    torch.testing.assert_close(got, gradient.square().sum(-1).float(), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="shorter"):
        # one sample's tokens for two: never cut in silence
        sensitivity(logits.detach(), tokens[:1], output, temperature)


def test_a_token_that_cannot_be_drawn_has_no_share_of_the_entropy() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0), 5.0], [0.0, 0.0, 0.0]]], requires_grad=True)
    masked = forbid_empty(logits * 1, ends=[2])
    logprobs, entropy = logprobs_and_entropy(masked, torch.tensor([[1, 2]]), temperature=1.0)
    # position 0: probabilities 1/4, 3/4, 0; position 1 keeps the end token: three thirds
    torch.testing.assert_close(logprobs, torch.log(torch.tensor([[0.75, 1 / 3]])))
    torch.testing.assert_close(
        entropy, torch.tensor([[-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), math.log(3.0)]])
    )
    gradient = torch.autograd.grad(entropy.sum() + logprobs.sum(), logits)[0]
    assert torch.isfinite(gradient).all()
    assert float(gradient[0, 0, 2]) == 0.0
