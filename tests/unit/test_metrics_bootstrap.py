"""The bootstrap: paired, repeatable, and as wide as theory says."""

import numpy as np
import pytest

from moa.metrics import bootstrap, fronts


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
    difference = bootstrap.interval(
        bootstrap.resampled_means(weights, values + 1) - bootstrap.resampled_means(weights, values)
    )
    assert difference == pytest.approx((1, 1))  # no noise left in a paired difference


def test_corrected_interval_by_hand():
    # resampled 3 and 5: mean 4, standard deviation 1; estimate 3.5 less bias 0.5 is 3, -+ 1.96
    assert bootstrap.corrected_interval(3.5, np.array([3.0, 5.0])) == pytest.approx((1.04, 4.96), abs=1e-3)
    # bias 4 of an estimate of 5: 1 -+ 1.96, but not below 0, and it reaches the estimate
    assert bootstrap.corrected_interval(5.0, np.array([8.0, 10.0])) == (0.0, 5.0)
    assert bootstrap.corrected_interval(0.0, np.zeros(9)) == (0.0, 0.0)


def coverage(means, reps=150, prompts=40, resamples=200):
    """Share of simulated experiments whose percentile, and whose corrected, interval holds that of `means`."""
    rng, reference = np.random.default_rng(0), np.zeros(2)
    weights = bootstrap.resamples(prompts, resamples)
    true, held = fronts.hypervolume(means, reference), np.zeros(2)
    for _ in range(reps):
        # noise of each response, and of the prompt for all points alike
        values = means + rng.normal(0, 0.25, (prompts, *means.shape)) + rng.normal(0, 0.05, (prompts, 1, 2))
        estimate = fronts.hypervolume(values.mean(0), reference)
        draws = fronts.hypervolumes(bootstrap.resampled_means(weights, values), reference)
        corrected = bootstrap.corrected_interval(estimate, draws)
        assert corrected[0] <= estimate <= corrected[1]
        held += [low <= true <= high for low, high in (bootstrap.interval(draws), corrected)]
    return held / reps


def test_the_corrected_interval_of_a_hypervolume_covers_the_truth_where_points_crowd():
    """Five equal points: the true hypervolume is that of one, .5 x .5, and the best of five noisy ones is larger."""
    percentile, corrected = coverage(np.full((5, 2), 0.5))
    assert percentile < 0.2
    assert corrected > 0.65


def test_it_does_no_harm_where_points_are_apart_or_worth_nothing():
    angle = np.linspace(0, np.pi / 2, 5)
    percentile, corrected = coverage(0.1 + 0.8 * np.stack([np.cos(angle), np.sin(angle)], 1))
    assert corrected > 0.88 and corrected > percentile - 0.05
    assert coverage(np.array([[0.01, 0.01], [0.02, 0.0], [0.0, 0.02]]))[1] > 0.88


def test_interval_of_columns():
    columns = np.stack([np.arange(1001.0), np.zeros(1001)], axis=1)
    low, high = bootstrap.interval(columns)
    assert low == pytest.approx([25, 0]) and high == pytest.approx([975, 0])
