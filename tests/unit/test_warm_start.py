"""Preferences that a text's own rewards speak for, by hand."""

import numpy as np
import pytest

from moa.experiment.keys import WarmStart
from moa.lm.warm_start import draw, hundredths, implied, quantiles

SCORES = np.array([[0.0, 9.0], [1.0, 5.0], [1.0, 5.0], [3.0, 1.0]])


def test_quantiles_are_mid_ranks() -> None:
    """Column 1: ranks 1, 2.5, 2.5, 4 of 4, so u = (rank - 1/2) / 4 = .125, .5, .5, .875; column 2 is reversed."""
    assert quantiles(SCORES).tolist() == [[0.125, 0.875], [0.5, 0.5], [0.5, 0.5], [0.875, 0.125]]


def test_implied_preference() -> None:
    """u = (.9, .3): s = 1 gives .9 / 1.2 = .75; s = 3 gives .729 / (.729 + .027) = .9643."""
    u = np.array([[0.9, 0.3]])
    assert implied(u, 1.0) == pytest.approx(np.array([[0.75, 0.25]]))
    assert implied(u, 3.0) == pytest.approx(np.array([[0.729 / 0.756, 0.027 / 0.756]]))


def test_a_large_sharpness_gives_a_corner() -> None:
    assert implied(np.array([[1e-3, 2e-3]]), 1e6).tolist() == [[0.0, 1.0]]


def test_hundredths_sum_to_one() -> None:
    """1/3 each: 33 + 33 + 33 = 99, and the missing one goes to the first of the equal remainders.

    For .125 and .875 it is 12 + 87, with equal remainders.
    """
    assert hundredths(np.array([[1 / 3, 1 / 3, 1 / 3], [0.125, 0.875, 0.0]])).tolist() == [
        [0.34, 0.33, 0.33],
        [0.13, 0.87, 0.0],
    ]


def test_hundredths_of_random_preferences() -> None:
    p = np.random.default_rng(0).dirichlet([0.3] * 4, 500)
    rounded = hundredths(p)
    assert np.rint(rounded.sum(1) * 100).tolist() == [100] * 500
    assert np.abs(rounded - p).max() < 0.01
    assert np.allclose(rounded * 100, np.rint(rounded * 100))


def test_implied_labels_keep_the_texts_of_highest_utility() -> None:
    """u as above, s = 1: p_1 = (.125, .875), U_1 = .125^2 + .875^2 = .78; p_2 = (.5, .5), U_2 = .5.

    So keep = .5 keeps texts 0 and 3.
    """
    drawn = draw(SCORES, WarmStart(keep=0.5, sharpness=1.0), 4, seed=0)
    assert sorted(drawn.texts.tolist()) == [0, 0, 3, 3], "each of the two kept ones, before either repeats"
    for text, preference in zip(drawn.texts, drawn.preferences.tolist(), strict=True):
        assert preference == {0: [0.13, 0.87], 3: [0.88, 0.12]}[text]


def test_the_seed_decides() -> None:
    scores = np.random.default_rng(0).normal(size=(200, 2))
    warm = WarmStart()
    first, again, other = (draw(scores, warm, 60, seed) for seed in (1, 1, 2))
    assert first.texts.tolist() == again.texts.tolist()
    assert first.texts.tolist() != other.texts.tolist()
