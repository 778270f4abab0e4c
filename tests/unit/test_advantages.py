"""GAE, whitening and token rewards by hand."""

import torch

from moa.rl.advantages import gae, whiten, whiten_groups
from moa.rl.experience import token_rewards


def test_gae_by_hand() -> None:
    values = torch.tensor([[0.5, 0.25, 9.0]])
    rewards = torch.tensor([[0.0, 1.0, 7.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])  # the third token is padding: its 9.0 and 7.0 must not count
    advantages, returns = gae(values, rewards, mask, gamma=1.0, lam=0.5)
    # delta_1 = 1 + 0 - 0.25 = 0.75;  delta_0 = 0 + 0.25 - 0.5 = -0.25;  A_0 = -0.25 + 0.5 * 0.75 = 0.125
    torch.testing.assert_close(advantages, torch.tensor([[0.125, 0.75, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[0.625, 1.0, 0.0]]))


def test_streams_do_not_mix() -> None:
    values, rewards, mask = torch.randn(3, 4, 5), torch.randn(3, 4, 5), torch.ones(4, 5)
    together = gae(values, rewards, mask, 0.9, 0.8)[0]
    for k in range(3):
        torch.testing.assert_close(together[k], gae(values[k], rewards[k], mask, 0.9, 0.8)[0])


def test_whiten_by_hand() -> None:
    # values 1, 3 (masked 100): mean 2, unbiased variance ((-1)^2 + 1^2) / 1 = 2 -> -1/sqrt 2, 1/sqrt 2
    got = whiten(torch.tensor([[1.0, 3.0, 100.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
    torch.testing.assert_close(got, torch.tensor([[-(0.5**0.5), 0.5**0.5, 0.0]]))


def test_whiten_groups_removes_each_groups_mean() -> None:
    x = torch.tensor([[1.0, 3.0], [11.0, 13.0], [1.0, 3.0]])
    got = whiten_groups(x, torch.ones(3, 2), torch.tensor([0, 1, 0]))
    torch.testing.assert_close(got[1], torch.tensor([-(0.5**0.5), 0.5**0.5]))
    assert got[[0, 2]].mean().abs() < 1e-6


def test_whitening_a_constant_is_zero_and_finite() -> None:
    assert torch.equal(whiten(torch.full((2, 3), 5.0), torch.ones(2, 3)), torch.zeros(2, 3))


def test_reward_sits_on_the_last_response_token() -> None:
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    placed = token_rewards(torch.tensor([[5.0, 6.0], [7.0, 8.0]]), mask)
    assert placed.tolist() == [[[0.0, 5.0, 0.0], [0.0, 0.0, 7.0]], [[0.0, 6.0, 0.0], [0.0, 0.0, 8.0]]]
