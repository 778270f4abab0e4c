"""Which estimator and which whitening the settings choose, and what of it the method sees, by hand."""

import pytest
import torch
from torch import Tensor

from moa.experiment.keys import Ppo
from moa.method import Method
from moa.methods import catalogue
from moa.rl.estimation import estimate, shape_advantages

MASK = torch.tensor([[1.0, 0.0]] * 4)  # the second token is padding


def make(kind: str) -> Method:
    return catalogue.load("row", {"kind": kind}, ["a", "b"])


def shaped(kind: str, whiten: str) -> list[float]:
    """Return what becomes of one stream: 1, 10, 3, 14."""
    advantages = torch.tensor([[[1.0, 99.0], [10.0, 99.0], [3.0, 99.0], [14.0, 99.0]]])
    found: Tensor = shape_advantages(make(kind), Ppo(whiten=whiten), advantages * MASK, MASK)
    return (found * MASK)[0, :, 0].tolist()


def test_whitening_over_the_batch() -> None:
    """Mean 7, squares 36, 9, 16, 49: variance 110 / 3."""
    assert shaped("linear", "batch") == pytest.approx([x / (110 / 3) ** 0.5 for x in (-6, 3, -4, 7)], abs=1e-4)


def test_streams_stay_on_their_scale_otherwise() -> None:
    assert shaped("linear", "combined") == [1, 10, 3, 14]


def test_the_method_transforms_what_is_whitened() -> None:
    """PAMA's Noon drops what is negative after whitening; before it nothing is."""
    assert shaped("pama", "batch") == pytest.approx([x / (110 / 3) ** 0.5 for x in (0, 3, 0, 7)], abs=1e-4)


def test_gae_takes_the_settings_gamma_and_lambda() -> None:
    """delta_1 = 1 - 0.25 = 0.75; delta_0 = 0.5 * 0.25 - 0.5 = -0.375; A_0 = -0.375 + 0.5 * 0.8 * 0.75 = -0.075."""
    values, rewards = torch.tensor([[[0.5, 0.25, 9.0]]]), torch.tensor([[[0.0, 1.0, 7.0]]])
    advantages, returns = estimate(
        Ppo(advantages="gae", group_size=1, gamma=0.5, lam=0.8), values, rewards, torch.tensor([[1.0, 1.0, 0.0]])
    )
    torch.testing.assert_close(advantages, torch.tensor([[[-0.075, 0.75, 0.0]]]))
    torch.testing.assert_close(returns, torch.tensor([[[0.425, 1.0, 0.0]]]))
