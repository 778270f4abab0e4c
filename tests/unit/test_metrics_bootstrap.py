"""The bootstrap: paired, repeatable, and as wide as theory says."""

import numpy as np
import pytest

from moa.metrics import bootstrap


def test_resamples_are_counts_over_prompts_and_always_the_same():
    weights = bootstrap.resamples(7, 50)
    assert weights.shape == (50, 7)
    assert weights.sum(1) == pytest.approx(np.ones(50))
    assert (weights * 7).round(9) == pytest.approx((weights * 7).round())  # whole counts
    assert (bootstrap.resamples(7, 50) == weights).all()
    assert len(np.unique(weights, axis=0)) > 40


def test_resampled_means_equal_the_mean_of_the_drawn_prompts():
    values = np.array([[1.0, 10], [2, 20], [6, 60]])
    weights = np.array([[2, 1, 0], [0, 0, 3]]) / 3
    # (1 + 1 + 2) / 3 = 4/3; (6 + 6 + 6) / 3 = 6
    assert bootstrap.resampled_means(weights, values) == pytest.approx(np.array([[4 / 3, 40 / 3], [6, 60]]))


def test_interval_is_as_wide_as_the_standard_error_says():
    values = np.random.default_rng(3).normal(5, 2, size=400)
    low, high = bootstrap.interval(bootstrap.resampled_means(bootstrap.resamples(400, 4000), values))
    half = 1.96 * values.std() / np.sqrt(400)
    assert low < values.mean() < high
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)


def test_a_shift_shifts_the_interval_because_all_methods_share_the_resamples():
    weights = bootstrap.resamples(30, 500)
    values = np.random.default_rng(4).normal(size=30)
    low, high = bootstrap.interval(bootstrap.resampled_means(weights, values))
    shifted = bootstrap.interval(bootstrap.resampled_means(weights, values + 1))
    assert shifted == pytest.approx((low + 1, high + 1))
    difference = bootstrap.interval(bootstrap.resampled_means(weights, values + 1) - bootstrap.resampled_means(weights, values))
    assert difference == pytest.approx((1, 1))  # no noise left in a paired difference


def test_interval_of_columns():
    columns = np.stack([np.arange(1001.0), np.zeros(1001)], axis=1)
    low, high = bootstrap.interval(columns)
    assert low == pytest.approx([25, 0]) and high == pytest.approx([975, 0])
