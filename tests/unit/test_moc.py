"""MOC's equations by hand: the control reward, targets, streams, min-norm weights, state."""

import pytest
import torch

from moa.errors import MoaError
from moa.experiment.keys import Ppo
from moa.method import Batch, Scores
from moa.methods import catalogue, moc
from moa.rl.weights import gram

NAMES = ["a", "b"]
LITERAL = {"streams": "literal", "target": "scaled"}


def make(**settings: object) -> moc.Method:
    method = catalogue.load("row", {"kind": "moc", **settings}, NAMES)
    assert isinstance(method, moc.Method)
    return method


def scored(quantile: list[list[float]]) -> Scores:
    rewards = torch.tensor(quantile)
    return Scores(torch.zeros_like(rewards), rewards)


def batch(advantages: torch.Tensor, preferences: torch.Tensor) -> Batch:
    return Batch(advantages, torch.ones(advantages.shape[1:]), preferences, scored([[0.0, 0.0]] * len(preferences)))


def test_the_control_reward_by_hand() -> None:
    """Two samples of p = (0.75, 0.25), target (1, 1/3): misses (-0.1, -0.133333) and (-0.5, 0.666667)."""
    scores, preferences = scored([[0.9, 0.2], [0.5, 1.0]]), torch.tensor([[0.75, 0.25], [0.75, 0.25]])
    # (0.01 + 0.0177778) / 2 = 0.0138889;  (0.25 + 0.444444) / 2 = 0.347222
    got = make(**LITERAL).extra_rewards(scores, preferences)
    torch.testing.assert_close(got, torch.tensor([[-0.0138889], [-0.3472222]]))
    # the first is within phi, the second 0.247222 beyond
    got = make(**LITERAL, phi=0.1).extra_rewards(scores, preferences)
    torch.testing.assert_close(got, torch.tensor([[0.0], [-0.2472222]]))


def test_the_mean_is_over_objectives() -> None:
    """p = (0.5, 0.25, 0.5) asks three objectives for (1, 0.5, 1): misses 0.3, 0, 0.6, (0.09 + 0 + 0.36) / 3 = 0.15."""
    method = catalogue.load("row", {"kind": "moc", "target": "scaled", "phi": 0.05}, ["a", "b", "c"])
    got = method.extra_rewards(scored([[0.7, 0.5, 0.4]]), torch.tensor([[0.5, 0.25, 0.5]]))
    torch.testing.assert_close(got, torch.tensor([[-0.1]]))


def test_against_the_whole_scale_rewards_are_clipped() -> None:
    """Target (1, 0): 1.2 and 1.6 count as 1, so both miss by (0, 0.2), mean square 0.02."""
    scores, preferences = scored([[1.2, 0.2], [1.6, 0.2]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    method = make(target="scaled")
    torch.testing.assert_close(method.extra_rewards(scores, preferences), torch.tensor([[-0.02], [-0.02]]))
    assert float(method.control_error(scores, preferences)) == pytest.approx(0.02)


def test_within_the_achieved_range_nothing_is_clipped() -> None:
    """Means (1.4, 0.2) and (0.4, 0.9): targets of the corners are (1.4, 0.2) and (0.4, 0.9).

    Samples of the first miss by 0.2 either way, their squares' mean over objectives is 0.02.
    """
    scores = scored([[1.2, 0.2], [1.6, 0.2], [0.4, 0.9]])
    preferences = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    method = make(target="range")
    torch.testing.assert_close(method.extra_rewards(scores, preferences)[:, 0], torch.tensor([-0.02, -0.02, 0.0]))
    assert float(method.control_error(scores, preferences)) == pytest.approx((0.02 + 0.02) / 3)


def test_the_middle_asks_for_both_ends_of_the_range() -> None:
    """Achieved 0.3 to 0.9 and 0.2 to 1.0; p = (0.5, 0.5) asks for (0.9, 1.0) and has (0.7, 0.6).

    It misses by (0.2, 0.4), mean square 0.1; the corners have what they ask for.
    """
    scores, preferences = (
        scored([[0.9, 0.2], [0.3, 1.0], [0.7, 0.6]]),
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]),
    )
    got = make(target="range").extra_rewards(scores, preferences)
    torch.testing.assert_close(got[:, 0], torch.tensor([0.0, 0.0, -0.1]), atol=1e-6, rtol=0)


def test_the_gram_matrix_leaves_padding_out() -> None:
    # streams (1, 2) and (3, 0) on two tokens, 9 on padding: [[1 + 4, 3], [3, 9]] / 2
    got = gram(torch.tensor([[[1.0, 2.0, 9.0]], [[3.0, 0.0, 9.0]]]), torch.tensor([[1.0, 1.0, 0.0]]))
    assert got.tolist() == [[2.5, 1.5], [1.5, 4.5]]


def test_literal_streams_are_weighed_by_least_norm() -> None:
    # streams: A^1 = (1, 0), A^2 = (0, 2), control (1, 1)
    advantages = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]], [[1.0, 1.0]]])
    got = make(**LITERAL).combine(batch(advantages, torch.tensor([[0.5, 0.5]])))
    # min over c of |(c1 + c3, 2 c2 + c3)|^2: c3 = 0 gives c1^2 + 4 c2^2 -> c = (0.8, 0.2, 0)
    torch.testing.assert_close(got.weights, torch.tensor([0.8, 0.2, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(got.advantages, torch.tensor([[0.8, 0.4]]), atol=1e-5, rtol=0)
    assert [name for quantity, name, _ in got.logged if quantity == "stream_weight"] == ["a", "b", "control"]
    ((_, _, gap),) = [entry for entry in got.logged if entry[:2] == ("duality_gap", "all")]
    assert gap < 1e-12


def test_utility_is_one_stream_that_the_preference_weighs() -> None:
    """p = (0.75, 0.25): utility 0.75 (4, 0) + 0.25 (0, 4) = (3, 1), control (0, 3): M = [[10, 3], [3, 9]] / 2.

    c_1 = (M22 - M12) / (M11 + M22 - 2 M12) = (9 - 3) / (10 + 9 - 6) = 6/13.
    """
    advantages = torch.tensor([[[4.0, 0.0]], [[0.0, 4.0]], [[0.0, 3.0]]])
    got = make().combine(batch(advantages, torch.tensor([[0.75, 0.25]])))
    torch.testing.assert_close(got.advantages, torch.tensor([[6 / 13 * 3, 6 / 13 * 1 + 7 / 13 * 3]]))
    torch.testing.assert_close(got.weights, torch.tensor([6 / 13 * 0.75, 6 / 13 * 0.25, 7 / 13]))
    assert [(name, pytest.approx(value)) for _, name, value in got.logged[:2]] == [
        ("utility", 6 / 13),
        ("control", 7 / 13),
    ]


def test_every_sample_has_its_own_utility_and_all_share_the_weights() -> None:
    """Samples of (1, 0) and (0, 1) see A^1 = 2 and A^2 = 6; utility (2, 6), control (4, 0): M = [[40, 8], [8, 16]] / 2.

    c_1 = (16 - 8) / (40 + 16 - 16) = 1/5: (0.4 + 3.2, 1.2). A head's weight is the mean of its samples': 0.1, 0.1, 0.8.
    """
    advantages = torch.tensor([[[2.0], [5.0]], [[7.0], [6.0]], [[4.0], [0.0]]])
    got = make().combine(batch(advantages, torch.eye(2)))
    torch.testing.assert_close(got.advantages, torch.tensor([[3.6], [1.2]]))
    torch.testing.assert_close(got.weights, torch.tensor([0.1, 0.1, 0.8]))


def test_a_range_needs_preferences_that_come_again() -> None:
    make().check(Ppo(), None)
    make(target="scaled").check(Ppo(), 0.5)
    with pytest.raises(MoaError, match=r"methods\.row: target: range keeps .* preferences\.dirichlet \(0\.5\) draws"):
        make().check(Ppo(), 0.5)


@pytest.mark.parametrize(("target", "kept"), [("scaled", []), ("range", ["w0.5-0.5"])])
def test_running_means_survive_a_checkpoint(target: str, kept: list[str]) -> None:
    method, preferences = make(target=target), torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    method.extra_rewards(scored([[0.2, 0.4], [0.6, 0.0]]), preferences)
    assert list(method.state()) == kept
    assert all(means == pytest.approx([0.4, 0.2]) for means in method.state().values())
    other = make(target=target)
    other.restore(method.state())
    later = scored([[0.8, 0.1], [0.4, 0.3]])
    torch.testing.assert_close(other.extra_rewards(later, preferences), method.extra_rewards(later, preferences))
    assert other.state() == method.state()
