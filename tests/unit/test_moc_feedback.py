"""MOC by feedback, by hand: what is missing shifts the weights of the objectives."""

import pytest
import torch

from moa.errors import MoaError
from moa.experiment.keys import Ppo
from moa.method import Batch, Scores
from moa.methods import catalogue, moc_feedback
from moa.methods.moc_feedback import objective_weights

HALF = 0.5**0.5  # p / |p| of (0.5, 0.5)


def make(**settings: object) -> moc_feedback.Method:
    method = catalogue.load("row", {"kind": "moc_feedback", **settings}, ["a", "b"])
    assert isinstance(method, moc_feedback.Method)
    return method


def batch(advantages: torch.Tensor, preferences: torch.Tensor, quantile: list[list[float]]) -> Batch:
    scores = Scores(torch.zeros(len(quantile), 2), torch.tensor(quantile))
    return Batch(advantages, torch.ones(advantages.shape[1:]), preferences, scores)


def test_weights_by_hand() -> None:
    """p = (0.6, 0.8) has length 1 and asks for itself: achieved (0.3, 0.9) misses (0.3, -0.1).

    Times multiplier 4 and 2 / N = 1 on top of p: (0.6 + 1.2, 0.8 - 0.4).
    """
    p, achieved = torch.tensor([[0.6, 0.8]]), torch.tensor([[0.3, 0.9]])
    torch.testing.assert_close(objective_weights(p, achieved, 4.0, 0.0), torch.tensor([[1.8, 0.4]]))
    torch.testing.assert_close(objective_weights(p, achieved, 0.0, 0.0), p)  # without a multiplier it is linear
    # (0.09 + 0.01) / 2 = 0.05: a met constraint asks for nothing
    torch.testing.assert_close(objective_weights(p, achieved, 4.0, 0.051), p)
    torch.testing.assert_close(objective_weights(p, achieved, 4.0, 0.049), torch.tensor([[1.8, 0.4]]))


def test_three_objectives_share_the_constraint() -> None:
    """p = (2, 1, 2) / 5 asks for (2, 1, 2) / 3; achieved (0, 1/3, 1) misses (2/3, 0, -1/3); times 3 (2/3) = 2."""
    p, achieved = torch.tensor([[0.4, 0.2, 0.4]]), torch.tensor([[0.0, 1 / 3, 1.0]])
    expected = torch.tensor([[0.4 + 4 / 3, 0.2, 0.0]])  # the last would be 0.4 - 2/3
    torch.testing.assert_close(objective_weights(p, achieved, 3.0, 0.0), expected)


def test_each_preference_meets_its_own_constraint() -> None:
    """The first misses (0.3, -0.1), mean square 0.05; the second (-0.2, -0.2), 0.04, is within phi."""
    p, achieved = torch.tensor([[0.6, 0.8], [0.8, 0.6]]), torch.tensor([[0.3, 0.9], [1.0, 0.8]])
    got = objective_weights(p, achieved, 4.0, 0.045)
    torch.testing.assert_close(got, torch.tensor([[1.8, 0.4], [0.8, 0.6]]))


def test_what_exceeds_its_target_is_not_pushed_down() -> None:
    """p = (1, 0) achieved (1, 1): 0 + 4 (0 - 1) = -4 stops at 0, and the objective that has its target keeps p."""
    got = objective_weights(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]]), 4.0, 0.0)
    torch.testing.assert_close(got, torch.tensor([[1.0, 0.0]]))


def test_the_weights_are_of_the_achieved_range() -> None:
    """Achieved 0.3 to 0.9 and 0.2 to 1.0; the middle reached (0.7, 0.6): (2/3, 1/2) of the ranges.

    It asks for sqrt(1/2) of each, misses (0.0404401, 0.2071068) and has 0.5 + 2 times that; the corners miss nothing.
    """
    preferences = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    advantages = torch.tensor([[[1.0], [1.0], [1.0]], [[10.0], [10.0], [10.0]]])
    got = make(multiplier=2.0).combine(batch(advantages, preferences, [[0.9, 0.2], [0.3, 1.0], [0.7, 0.6]]))
    first, second = 0.5 + 2 * (HALF - 2 / 3), 0.5 + 2 * (HALF - 1 / 2)
    torch.testing.assert_close(got.advantages[:, 0], torch.tensor([1.0, 10.0, first + 10 * second]))
    torch.testing.assert_close(got.weights, torch.tensor([(1 + first) / 3, (1 + second) / 3]))


def test_order_is_kept_beyond_the_scales_end() -> None:
    """(1, 0) reached (1.6, 0.2) and (0, 1) reached (1.2, 0.8): the ends of the ranges, just what they ask for."""
    given = batch(torch.tensor([[[1.0], [1.0]], [[10.0], [10.0]]]), torch.eye(2), [[1.6, 0.2], [1.2, 0.8]])
    torch.testing.assert_close(make().combine(given).advantages, torch.tensor([[1.0], [10.0]]), atol=1e-5, rtol=0)


def test_it_is_the_gradient_of_the_constraint() -> None:
    """On a bandit with exact expectations the multiplier adds -d/dtheta mean_i (E R^i - p~_i)^2 to utility's gradient.

    Ranges have width 1 (set by two other preferences), so that missing is p~ - E R; the weights stay above 0.
    """
    rewards = torch.tensor([[0.7, 0.1], [0.4, 0.6], [0.1, 0.6]])  # three arms, two objectives
    theta = torch.tensor([0.5, 0.25, 0.25]).log().requires_grad_()
    arms = torch.tensor([0, 0, 1, 2])  # every arm as often as the policy draws it: the batch's mean is the expectation
    wanted = torch.full((2,), HALF)
    exact = torch.autograd.grad(-((torch.softmax(theta, 0) @ rewards - wanted) ** 2).mean(), theta)[0]
    centred = (rewards[arms] - rewards[arms].mean(0)).T[..., None]  # (K, B, 1)
    # two samples of the corners, whose advantages are 0, span the ranges from 0 to 1
    advantages = torch.cat([centred, torch.zeros(2, 2, 1)], 1)
    preferences = torch.cat([torch.full((4, 2), 0.5), torch.eye(2)])

    def gradient(multiplier: float) -> torch.Tensor:
        given = batch(advantages, preferences, [*rewards[arms].tolist(), [1.0, 0.0], [0.0, 1.0]])
        combined = make(multiplier=multiplier).combine(given).advantages[:4, 0]
        return torch.autograd.grad((combined * torch.log_softmax(theta, 0)[arms]).mean(), theta)[0]

    torch.testing.assert_close(gradient(1.0) - gradient(0.0), exact)
    torch.testing.assert_close(gradient(2.0) - gradient(0.0), 2 * exact)


def test_it_needs_preferences_that_come_again() -> None:
    make().check(Ppo(), None)
    with pytest.raises(MoaError, match=r"methods\.row: moc_feedback keeps .* preferences\.dirichlet \(0\.5\) draws"):
        make().check(Ppo(), 0.5)


def test_it_has_no_head_of_its_own_and_keeps_its_means() -> None:
    method = make()
    assert method.extra_heads == ()
    given = batch(torch.ones(2, 2, 1), torch.eye(2), [[0.9, 0.2], [0.3, 1.0]])
    method.combine(given)
    assert method.state() == {
        "w1-0": [pytest.approx(0.9), pytest.approx(0.2)],
        "w0-1": [pytest.approx(0.3), pytest.approx(1.0)],
    }
    other = make()
    other.restore(method.state())
    later = batch(torch.ones(2, 2, 1), torch.eye(2), [[0.5, 0.5], [0.5, 0.5]])
    torch.testing.assert_close(other.combine(later).advantages, method.combine(later).advantages)
