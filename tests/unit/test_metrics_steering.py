"""Rank agreement and control error: arithmetic by hand, and SciPy's tau-b."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from moa.experiment.preferences import lattice
from moa.metrics import steering


def test_tau_by_hand():
    preference = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    # 10 pairs; only 0.75 against 1.0 is in the wrong order: (9 - 1) / 10
    assert steering.kendall_tau(preference, np.array([1, 2, 3, 5, 4.0])) == pytest.approx(0.8)
    assert steering.kendall_tau(preference, -preference) == pytest.approx(-1)
    # Rewards tie in 1 of 10 pairs, all others agree: 9 / sqrt(10 * 9)
    assert steering.kendall_tau(preference, np.array([1, 2, 3, 4, 4.0])) == pytest.approx(9 / np.sqrt(90))


@pytest.mark.parametrize("objectives", [2, 3])
def test_tau_equals_scipy(objectives):
    rng = np.random.default_rng(objectives)
    grid = np.array(lattice(objectives, 4))
    for _ in range(100):
        rewards = rng.normal(size=len(grid)).round(1)  # ties in both
        for component in grid.T:
            assert steering.kendall_tau(component, rewards) == pytest.approx(
                kendalltau(component, rewards).statistic, abs=1e-12
            )


def test_tau_of_resamples_equals_one_at_a_time():
    rng = np.random.default_rng(0)
    component, rewards = rng.random(6), rng.normal(size=(20, 6)).round(1)
    expected = [float(steering.kendall_tau(component, row)) for row in rewards]
    assert steering.kendall_tau(component, rewards) == pytest.approx(expected, abs=1e-15)


def test_constant_rewards_do_not_follow_and_constant_preferences_define_nothing():
    assert steering.kendall_tau(np.array([0, 0.5, 1]), np.full(3, 0.3)) == 0  # SciPy: NaN
    assert np.isnan(steering.kendall_tau(np.full(3, 0.5), np.array([1.0, 2, 3])))
    assert np.isnan(steering.order_rate(np.full(3, 0.5), np.array([1.0, 2, 3])))
    assert steering.order_rate(np.array([0, 0.5, 1]), np.full(3, 0.3)) == 0


def test_ties_of_the_preferences_bound_tau():
    grid = np.array(lattice(3, 4))  # 15 preferences; an objective's weights 0, 1/4, .. 1 occur 5, 4, 3, 2 and 1 times
    # tied pairs 10 + 6 + 3 + 1 = 20 of 105, so that 85 differ
    for component in grid.T:
        assert steering.tau_bound(component) == pytest.approx(np.sqrt(85 / 105))
        followed = component + 1e-6 * np.arange(15)  # ties of the weights answered differently, all else in order
        assert steering.kendall_tau(component, followed) == pytest.approx(steering.tau_bound(component))
    assert steering.tau_bound(np.array(lattice(2, 10))[:, 0]) == 1
    assert np.isnan(steering.tau_bound(np.full(3, 0.5)))


def test_order_rate_by_hand():
    preference = np.array([0.5, 0.0, 1.0, 0.25, 0.75])  # in any order
    # sorted by preference the rewards are 1 2 4 3 5: three of four neighbours rise
    assert steering.order_rate(preference, np.array([4, 1, 5, 2, 3.0])) == 0.75
    # levels 0 (two points), 0.5, 1: pairs 1<3 yes, 4<3 no, 3<5 yes
    assert steering.order_rate(np.array([0, 0, 0.5, 1]), np.array([1, 4, 3, 5.0])) == pytest.approx(2 / 3)


def test_control_error_by_hand():
    preferences = np.array([[1, 0], [0.5, 0.5]])
    normalised = np.array([[1.4, 0.2], [0.5, 0.9]])  # 1.4 counts as 1
    # point 0: (0 + 0.04) / 2 = 0.02; point 1: (0 + 0.16) / 2 = 0.08; mean 0.05
    assert steering.control_error(preferences, normalised) == pytest.approx(0.05)
    both = np.stack([normalised, preferences])
    assert steering.control_error(preferences, both) == pytest.approx([0.05, 0.0])
