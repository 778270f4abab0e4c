"""MOC's equations by hand: control rewards, targets, streams, weights, state."""

import pytest
import torch

from moa.errors import MoaError
from moa.methods import catalogue, moc
from moa.methods.base import Batch, Scores
from moa.rl import control

NAMES = ["a", "b"]
MIN_NORM = {"streams": "literal", "control": "sample", "target": "scaled", "weights": "min_norm"}  # the paper's reading


def make(**settings: object) -> moc.Method:
    method = catalogue.load("row", {"kind": "moc", **settings}, NAMES)
    assert isinstance(method, moc.Method)
    return method


def scored(quantile: list[list[float]]) -> Scores:
    nothing = torch.zeros(len(quantile), 2)
    return Scores(nothing, torch.tensor(quantile), nothing)


def batch(advantages: torch.Tensor, preferences: torch.Tensor, quantile: list[list[float]] | None = None) -> Batch:
    rewards = scored(quantile or [[0.0, 0.0]] * len(preferences))
    return Batch(advantages, torch.ones(advantages.shape[1:]), preferences, rewards)


def test_control_rewards_by_hand() -> None:
    rewards, preferences = torch.tensor([[0.9, 0.2]]), torch.tensor([[0.75, 0.25]])
    wanted = control.targets(preferences, "scaled")
    torch.testing.assert_close(wanted, torch.tensor([[1.0, 1 / 3]]))
    # ((0.9 - 1)^2 + (0.2 - 1/3)^2) / 2 = (0.01 + 0.017778) / 2 = 0.013889
    torch.testing.assert_close(control.per_sample(rewards, wanted, 0.0), torch.tensor([-0.0138889]))
    assert float(control.per_sample(rewards, wanted, 0.1)) == 0.0  # satisfied: below phi
    # -(2/2) [ (0.5 - 1)(0.9 - 1) + (0.4 - 1/3)(0.2 - 1/3) ] = -(0.05 - 0.0088889)
    torch.testing.assert_close(control.on_mean(rewards, wanted, torch.tensor([[0.5, 0.4]])), torch.tensor([-0.0411111]))


def test_simplex_target_compares_shares() -> None:
    torch.testing.assert_close(control.on_scale(scored([[0.6, 0.2]]), "quantile", "simplex"), torch.tensor([[0.75, 0.25]]))
    with pytest.raises(MoaError, match="feedback needs a target that is linear"):
        make(control="feedback", target="simplex")


def test_weights_solve_the_gram_matrix() -> None:
    # streams: A^1 = (1, 0), A^2 = (0, 2), control (1, 1)
    advantages = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]], [[1.0, 1.0]]])
    torch.testing.assert_close(moc.gram(advantages, torch.ones(1, 2)).float(), torch.tensor([[0.5, 0.0, 0.5], [0.0, 2.0, 1.0], [0.5, 1.0, 1.0]]))
    got = make(**MIN_NORM).combine(batch(advantages, torch.tensor([[0.5, 0.5]])))
    # min over c of |(c1 + c3, 2 c2 + c3)|^2: c3 = 0 gives c1^2 + 4 c2^2 -> c = (0.8, 0.2, 0)
    torch.testing.assert_close(got.weights, torch.tensor([0.8, 0.2, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(got.advantages, torch.tensor([[0.8, 0.4]]), atol=1e-5, rtol=0)
    assert [name for quantity, name, _ in got.logged if quantity == "stream_weight"] == ["a", "b", "control"]


def test_per_preference_solves_each_group_alone() -> None:
    advantages = torch.tensor([[[1.0], [2.0]], [[2.0], [1.0]], [[9.0], [9.0]]])  # (H, B, T) = (3, 2, 1)
    got = make(**MIN_NORM, granularity="preference").combine(batch(advantages, torch.eye(2)))
    # one token per group, all positive: weight on the smallest stream, the first for the first sample, the second for the other
    torch.testing.assert_close(got.advantages, torch.ones(2, 1))
    torch.testing.assert_close(got.weights, torch.tensor([0.5, 0.5, 0.0]))


def test_streams_by_hand() -> None:
    advantages, preferences = torch.tensor([[[2.0]], [[4.0]], [[10.0]]]), torch.tensor([[0.75, 0.25]])
    uniform = {"control": "sample", "target": "scaled", "weights": "uniform"}
    # literal: (2 + 4 + 10) / 3; weighted: (1.5 + 1 + 10) / 3; utility: ((1.5 + 1) + 10) / 2
    for streams, expected in (("literal", 16 / 3), ("weighted", 12.5 / 3), ("utility", 6.25)):
        got = make(streams=streams, **uniform).combine(batch(advantages, preferences))
        torch.testing.assert_close(got.advantages, torch.tensor([[expected]]))


def test_feedback_adds_what_is_missing() -> None:
    # target p / max p = (1, 1/3); reached (0.5, 0.8): missing (0.5, -0.466667), times 2 / N = 1
    method = make(control="feedback", target="scaled", weights="lagrangian", multiplier=2.0)
    assert method.extra_heads == ()
    got = method.combine(batch(torch.tensor([[[1.0]], [[1.0]]]), torch.tensor([[0.75, 0.25]]), [[0.5, 0.8]]))
    # head weights: 0.75 + 2 * 0.5 = 1.75 and 0.25 - 2 * 0.466667 = -0.683333
    torch.testing.assert_close(got.weights, torch.tensor([1.75, -0.683333]), atol=1e-5, rtol=0)
    torch.testing.assert_close(got.advantages, torch.tensor([[1.066667]]), atol=1e-5, rtol=0)


def test_feedback_is_the_gradient_of_the_constraint() -> None:
    """On a bandit with exact expectations, the control stream's policy gradient is -d/dtheta mean_i (E R^i - p~_i)^2."""
    rewards = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.1, 0.8]], dtype=torch.float64)  # three arms, two objectives
    wanted = torch.tensor([0.5, 0.5], dtype=torch.float64)
    theta = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64, requires_grad=True)
    pi = torch.softmax(theta, 0)
    exact = torch.autograd.grad(-((pi @ rewards - wanted) ** 2).mean(), theta, retain_graph=True)[0]
    mean = (pi @ rewards).detach()
    advantages = rewards - mean  # (arms, K)
    stream = (advantages * (2 / 2) * (wanted - mean)).sum(1)
    # sum_y pi_y A_y grad log pi_y
    found = torch.autograd.grad((pi.detach() * stream * torch.log_softmax(theta, 0)).sum(), theta)[0]
    torch.testing.assert_close(found, exact)


def test_range_target_lies_between_what_preferences_achieve() -> None:
    achieved = control.Achieved()
    preferences = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    means = achieved.update(torch.tensor([[0.9, 0.2], [0.3, 1.0], [0.7, 0.6]]), preferences)
    # ranges: first objective 0.3 to 0.9, second 0.2 to 1.0; the middle asks for both ends: (0.9, 1.0)
    torch.testing.assert_close(achieved.wanted(preferences, "range"), torch.tensor([[0.9, 0.2], [0.3, 1.0], [0.9, 1.0]]))
    # on the arc the middle asks for sqrt(1/2) of each range: 0.3 + 0.7071 * 0.6 and 0.2 + 0.7071 * 0.8
    torch.testing.assert_close(achieved.wanted(preferences, "arc"), torch.tensor([[0.9, 0.2], [0.3, 1.0], [0.72426, 0.76569]]))
    # what is missing, in ranges: the corners nothing; the middle 0.2 / 0.6 and 0.4 / 0.8
    torch.testing.assert_close(achieved.shortfall(means, preferences, "range"), torch.tensor([[0.0, 0.0], [0.0, 0.0], [1 / 3, 0.5]]))


def test_a_met_constraint_asks_for_nothing() -> None:
    method = make(phi=0.3, control="feedback", target="scaled", weights="lagrangian")
    # missing (0.5, -0.4667): mean square 0.2339 is within phi
    got = method.combine(batch(torch.tensor([[[1.0]], [[1.0]]]), torch.tensor([[0.75, 0.25]]), [[0.5, 0.8]]))
    torch.testing.assert_close(got.weights, torch.tensor([0.75, 0.25]))


def test_running_means_and_smoothed_gram_survive_a_checkpoint() -> None:
    settings = {**MIN_NORM, "control": "mean", "smoothing": 0.5}
    method = make(**settings)
    preferences = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    scores = scored([[0.2, 0.4], [0.6, 0.0]])
    method.extra_rewards(scores, preferences)
    method.combine(batch(torch.tensor([[[1.0], [0.0]], [[0.0], [2.0]], [[1.0], [1.0]]]), preferences))
    assert method.state()["mean w0.5-0.5"] == pytest.approx([0.4, 0.2])
    assert method.state()["gram batch"] == pytest.approx([0.5, 0.0, 0.5, 0.0, 2.0, 1.0, 0.5, 1.0, 1.0])
    other = make(**settings)
    other.restore(method.state())
    torch.testing.assert_close(other.extra_rewards(scores, preferences), method.extra_rewards(scores, preferences))
    # the next batch's matrix is diag(2, 0, 0); half of it and half of the past: M = [[1.25, 0, .25], [0, 1, .5], [.25, .5, .5]]
    got = other.combine(batch(torch.tensor([[[2.0], [0.0]], [[0.0], [0.0]], [[0.0], [0.0]]]), preferences))
    # c = (2, 1, 6) / 9: M c = (4, 4, 4) / 9, equal for all streams, so no exchange of weight lowers c' M c
    assert got.weights.tolist() == pytest.approx([2 / 9, 1 / 9, 6 / 9], abs=1e-6)
