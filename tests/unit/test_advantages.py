"""GAE, whitening and token rewards by hand."""

import torch

from moa.experiment.keys import Ppo
from moa.method import Combination, weighted
from moa.rl.advantages import gae, group_centred, group_relative, masked_mean, unit_scale, whiten
from moa.rl.estimation import Scale, estimate, scale_combined, token_rewards


def test_gae_by_hand() -> None:
    values = torch.tensor([[0.5, 0.25, 9.0]])
    rewards = torch.tensor([[0.0, 1.0, 7.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])  # the third token is padding: its 9.0 and 7.0 must not count
    advantages, returns = gae(values, rewards, mask, gamma=1.0, lam=0.5)
    # delta_1 = 1 + 0 - 0.25 = 0.75;  delta_0 = 0 + 0.25 - 0.5 = -0.25;  A_0 = -0.25 + 0.5 * 0.75 = 0.125
    torch.testing.assert_close(advantages, torch.tensor([[0.125, 0.75, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[0.625, 1.0, 0.0]]))


def test_a_response_of_one_token() -> None:
    advantages, returns = gae(torch.tensor([[0.25]]), torch.tensor([[1.0]]), torch.ones(1, 1), gamma=0.5, lam=0.5)
    assert (advantages.tolist(), returns.tolist()) == ([[0.75]], [[1.0]])  # 1 + 0.5 * 0 - 0.25


def test_streams_do_not_mix() -> None:
    values, rewards, mask = torch.randn(3, 4, 5), torch.randn(3, 4, 5), torch.ones(4, 5)
    together = gae(values, rewards, mask, 0.9, 0.8)[0]
    for k in range(3):
        torch.testing.assert_close(together[k], gae(values[k], rewards[k], mask, 0.9, 0.8)[0])


def test_whiten_by_hand() -> None:
    # values 1, 3 (masked 100): mean 2, unbiased variance ((-1)^2 + 1^2) / 1 = 2 -> -1/sqrt 2, 1/sqrt 2
    got = whiten(torch.tensor([[1.0, 3.0, 100.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
    torch.testing.assert_close(got, torch.tensor([[-(0.5**0.5), 0.5**0.5, 0.0]]))


def test_streams_are_whitened_each_by_itself() -> None:
    # two streams of one sample; the third token is padding
    x = torch.tensor([[[1.0, 3.0, 100.0]], [[-10.0, 30.0, 100.0]]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    assert masked_mean(x, mask).tolist() == [2.0, 10.0]
    # second stream: 10 -+ 20, unbiased variance (400 + 400) / 1 = 800; as in the first, -+1 / sqrt 2
    alone = torch.tensor([[-(0.5**0.5), 0.5**0.5, 0.0]])
    torch.testing.assert_close(whiten(x, mask), torch.stack([alone, alone]))


def test_group_relative_by_hand() -> None:
    """Two groups, in any order, and two streams, each standardised by itself.

    Group 0, first stream: 0, 3, 6 has mean 3 and unbiased deviation sqrt((9 + 0 + 9) / 2) = 3, so -3 / 3.0001 =
    -0.99997. Group 1, first stream: 10, 12 has mean 11 and deviation sqrt(2): 1 / (1.41421 + 0.0001) = 0.70706.
    """
    rewards = torch.tensor([[0.0, 5.0], [10.0, 0.2], [3.0, 5.0], [12.0, 0.1], [6.0, 5.0]])
    got = group_relative(rewards, torch.tensor([0, 1, 0, 1, 0]))
    torch.testing.assert_close(
        got[:, 0], torch.tensor([-0.9999667, -0.7070568, 0.0, 0.7070568, 0.9999667]), atol=1e-6, rtol=0
    )
    # second stream: the same reward throughout group 0 says nothing; .2, .1: .05 / (.0707107 + .0001) = 0.706108
    torch.testing.assert_close(got[:, 1], torch.tensor([0.0, 0.706108, 0.0, -0.706108, 0.0]), atol=1e-5, rtol=0)


def test_every_token_of_a_response_has_its_groups_advantage() -> None:
    """One stream; rewards summed over live tokens are 1 and 3.

    Their mean is 2 and their deviation sqrt(2), so advantages are -+1 / (sqrt(2) + 0.0001), which is -+0.707057.
    """
    rewards = torch.tensor([[[-1.0, 2.0, 9.0], [1.0, 1.0, 1.0]]])  # with the KL in the heads every token has a reward
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    ppo = Ppo(advantages="group", group_size=2, gamma=0.5, whiten="batch")  # the discount plays no part
    advantages, returns = estimate(ppo, torch.full((1, 2, 3), 7.0), rewards, mask)
    torch.testing.assert_close(
        advantages,
        torch.tensor([[[-0.7070568, -0.7070568, 0.0], [0.7070568, 0.7070568, 0.7070568]]]),
        atol=1e-6,
        rtol=0,
    )
    assert not returns.any(), "no value is learnt"


def test_centred_groups_keep_the_scale_of_their_rewards() -> None:
    """Group 0: 1, 5 has mean 3; group 1: 0.2, 0.4 has mean 0.3. The second stream is constant within both groups."""
    got = group_centred(torch.tensor([[1.0, 7.0], [0.2, 8.0], [5.0, 7.0], [0.4, 8.0]]), torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(got, torch.tensor([[-2.0, 0.0], [-0.1, 0.0], [2.0, 0.0], [0.1, 0.0]]))


def test_unit_scale_keeps_signs_and_shares() -> None:
    """Live values 3, 4, 0, 5: mean square 50 / 4 = 12.5.

    Each is divided by sqrt 12.5 = 3.535534, and nothing is shifted.
    """
    got = unit_scale(
        torch.tensor([[3.0, 4.0], [0.0, 5.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    )
    torch.testing.assert_close(got, torch.tensor([[3.0, 4.0], [0.0, 5.0], [0.0, 0.0]]) / 12.5**0.5)
    assert unit_scale(torch.zeros(2, 2), torch.ones(2, 2)).tolist() == [[0.0, 0.0]] * 2, "a group that says nothing"


def test_combined_advantages_are_scaled_within_each_group_or_over_the_batch() -> None:
    """Groups of two one-token responses: -1, 1 and -0.1, 0.1 both become -1, 1.

    Over the batch the mean square is 2.02 / 4 = 0.505.
    """
    combination = Combination(torch.tensor([[-1.0], [1.0], [-0.1], [0.1]]), torch.ones(2))
    mask = torch.ones(4, 1)
    grouped = Ppo(advantages="group", group_size=2, whiten="combined")
    torch.testing.assert_close(
        scale_combined(grouped, combination, mask).advantages[:, 0],
        torch.tensor([-1.0, 1.0, -1.0, 1.0]),
        atol=1e-5,
        rtol=0,
    )
    batch = scale_combined(Ppo(whiten="combined", group_size=2), combination, mask).advantages[:, 0]
    torch.testing.assert_close(batch, torch.tensor([-1.0, 1.0, -0.1, 0.1]) / 0.505**0.5)
    assert scale_combined(Ppo(whiten="batch"), combination, mask) is combination, "the other setting leaves it alone"


def test_streams_on_one_scale_are_summed_as_rewards() -> None:
    """GRPO's order: weights 0.5, 0.5 of rewards (4, 0), (0, 1) give 2 and 0.5.

    That is -+0.75 around the mean, and -+1 after scaling. Standardised first, the streams would cancel: the first says
    +0.7071, -0.7071 and the second the opposite.
    """
    ppo = Ppo(advantages="group", group_size=2, whiten="combined")
    mask, rewards = torch.ones(2, 1), torch.tensor([[[4.0], [0.0]], [[0.0], [1.0]]])
    advantages, _ = estimate(ppo, torch.zeros(2, 2, 1), rewards, mask)
    combined = weighted(advantages, torch.full((2, 2), 0.5))
    torch.testing.assert_close(combined.advantages[:, 0], torch.tensor([0.75, -0.75]))
    torch.testing.assert_close(scale_combined(ppo, combined, mask).advantages[:, 0], torch.tensor([1.0, -1.0]))
    first, _ = estimate(ppo.model_copy(update={"whiten": "batch"}), torch.zeros(2, 2, 1), rewards, mask)
    torch.testing.assert_close(
        weighted(first, torch.full((2, 2), 0.5)).advantages, torch.zeros(2, 1), atol=1e-4, rtol=0
    )


def test_whitening_a_constant_is_zero_and_finite() -> None:
    assert torch.equal(whiten(torch.full((2, 3), 5.0), torch.ones(2, 3)), torch.zeros(2, 3))


def test_reward_sits_on_the_last_response_token() -> None:
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    placed = token_rewards(torch.tensor([[5.0, 6.0], [7.0, 8.0]]), mask)
    assert placed.tolist() == [[[0.0, 5.0, 0.0], [0.0, 0.0, 7.0]], [[0.0, 6.0, 0.0], [0.0, 0.0, 8.0]]]


def test_raw_scores_on_both_scales() -> None:
    scale = Scale(torch.tensor([0.0, -1.0]), torch.tensor([4.0, 1.0]))
    raw = torch.tensor([[2.0, 1.0], [3.0, 0.0]])
    scores = scale.apply(raw)
    # a: 2 / 4, 3 / 4; b: (1 + 1) / 2, (0 + 1) / 2
    torch.testing.assert_close(scores.quantile, torch.tensor([[0.5, 1.0], [0.75, 0.5]]))
    assert scores.raw is raw
