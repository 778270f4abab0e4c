"""Which rewards MOC clips.

Quantiles against targets on the whole scale, and nothing within the range that is achieved.
"""

import pytest
import torch

from moa.method import Scores
from moa.methods import catalogue, moc
from moa.rl.control import Scale

PREFERENCES = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
REWARDS = torch.tensor(
    [[1.2, 0.2], [1.6, 0.2], [0.4, 0.9]]
)  # means (1.4, 0.2) and (0.4, 0.9): the achieved range is 0.4 to 1.4 and 0.2 to 0.9


def make(**settings: object) -> moc.Method:
    method = catalogue.load("row", {"kind": "moc", "weights": "min_norm", **settings}, ["a", "b"])
    assert isinstance(method, moc.Method)
    return method


def scores(rewards: torch.Tensor) -> Scores:
    return Scores(rewards, rewards, rewards)


def test_within_the_achieved_range_nothing_is_clipped() -> None:
    """Targets of the corners are (1.4, 0.2) and (0.4, 0.9).

    Samples of the first miss by 0.2 either way, their squares' mean over objectives is 0.02.
    """
    method = make(control="sample", target="range")
    torch.testing.assert_close(
        method.extra_rewards(scores(REWARDS), PREFERENCES)[:, 0], torch.tensor([-0.02, -0.02, 0.0])
    )
    assert float(method.control_error(scores(REWARDS), PREFERENCES)) == pytest.approx((0.02 + 0.02) / 3)


def test_a_mean_within_the_achieved_range_is_not_clipped() -> None:
    """Both preferences' means are their targets, so the constraint's gradient is 0.

    Clipped at 1 the first would miss by 0.4.
    """
    found = make(control="mean", target="range").extra_rewards(scores(REWARDS), PREFERENCES)
    torch.testing.assert_close(found[:, 0], torch.zeros(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("scale", "missed"), [("quantile", [0.02, 0.02]), ("zscore", [0.04, 0.2])])
def test_quantiles_alone_are_clipped_against_the_whole_scale(scale: Scale, missed: list[float]) -> None:
    """Target (1, 0): quantiles 1.2 and 1.6 count as 1 and miss by (0, 0.2), z-scores by (0.2, 0.2) and (0.6, 0.2)."""
    method = make(control="sample", target="scaled", scale=scale)
    found = method.extra_rewards(scores(REWARDS[:2]), PREFERENCES[:2])
    torch.testing.assert_close(found[:, 0], -torch.tensor(missed))
    assert float(method.control_error(scores(REWARDS[:2]), PREFERENCES[:2])) == pytest.approx(sum(missed) / 2)
