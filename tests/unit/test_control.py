"""MOC's constraint by hand: scales, targets, running means, the achieved range."""

import pytest
import torch

from moa.method import Scores
from moa.rl import control

# Two samples, two objectives; every scale has numbers of its own.
SCORES = Scores(
    raw=torch.tensor([[10.0, 30.0], [5.0, 5.0]]),
    quantile=torch.tensor([[-0.5, 0.6], [1.7, 0.2]]),
    zscore=torch.tensor([[-2.0, 1.0], [3.0, 1.0]]),
)


def test_scales() -> None:
    assert torch.equal(control.on_scale(SCORES, "quantile", "plain"), SCORES.quantile)
    assert torch.equal(control.on_scale(SCORES, "zscore", "scaled"), SCORES.zscore)
    assert torch.equal(control.on_scale(SCORES, "raw", "range"), SCORES.raw)


def test_quantiles_are_clipped_where_the_target_is_not_within_the_achieved_range() -> None:
    for target in ("scaled", "plain", "simplex"):
        torch.testing.assert_close(
            control.bounded(SCORES.quantile, "quantile", target), torch.tensor([[0.0, 0.6], [1.0, 0.2]])
        )
        assert torch.equal(control.bounded(SCORES.zscore, "zscore", target), SCORES.zscore)
    for target in ("range", "arc"):
        assert torch.equal(control.bounded(SCORES.quantile, "quantile", target), SCORES.quantile)
    # shares are of clipped quantiles: -0.5 counts as 1e-6, 1.7 as 1
    torch.testing.assert_close(
        control.on_scale(SCORES, "quantile", "simplex"),
        torch.tensor([[0.0, 1.0], [1 / 1.2, 0.2 / 1.2]]),
        atol=2e-6,
        rtol=0,
    )


def test_shares_of_each_samples_own_sum() -> None:
    # 10 / 40 and 30 / 40; 5 / 10 twice
    assert control.on_scale(SCORES, "raw", "simplex").tolist() == [[0.25, 0.75], [0.5, 0.5]]
    # -2 counts as 1e-6, so its share is 1e-6 / (1 + 1e-6)
    torch.testing.assert_close(
        control.on_scale(SCORES, "zscore", "simplex"), torch.tensor([[1e-6, 1.0], [0.75, 0.25]]), atol=1e-7, rtol=1e-4
    )


def test_targets() -> None:
    preferences = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    for target in ("scaled", "range"):
        torch.testing.assert_close(control.targets(preferences, target), torch.tensor([[1.0, 1 / 3], [1.0, 1.0]]))
    # the length of (0.75, 0.25) is sqrt(0.625) = 0.790569
    torch.testing.assert_close(
        control.targets(preferences, "arc"), torch.tensor([[0.948683, 0.316228], [0.5**0.5, 0.5**0.5]])
    )
    for target in ("plain", "simplex"):
        assert torch.equal(control.targets(preferences, target), preferences)


def test_control_rewards_of_three_objectives() -> None:
    """The mean is over objectives: misses 0.3, 0, 0.6 give (0.09 + 0 + 0.36) / 3 = 0.15."""
    rewards, wanted = torch.tensor([[0.7, 0.5, 0.4]]), torch.tensor([[1.0, 0.5, 1.0]])
    torch.testing.assert_close(control.per_sample(rewards, wanted, 0.05), torch.tensor([-0.1]))
    # at running means 0.4, 0.9, 0.7 those miss by -0.6, 0.4, -0.3: -2 (0.18 + 0 + 0.18) / 3 = -0.24
    torch.testing.assert_close(
        control.on_mean(rewards, wanted, torch.tensor([[0.4, 0.9, 0.7]]), 0.0), torch.tensor([-0.24])
    )
    # their mean square is (0.36 + 0.16 + 0.09) / 3 = 0.2033: within a phi of 0.21 nothing is asked
    assert float(control.on_mean(rewards, wanted, torch.tensor([[0.4, 0.9, 0.7]]), 0.21)) == 0.0
    # beside it a sample whose preference has met its targets: each is judged by its own mean
    both = control.on_mean(
        rewards.expand(2, 3), wanted.expand(2, 3), torch.tensor([[0.4, 0.9, 0.7], [1.0, 0.5, 1.0]]), 0.15
    )
    torch.testing.assert_close(both, torch.tensor([-0.24, 0.0]))


def test_running_means_keep_nine_tenths() -> None:
    achieved = control.Achieved()
    first, second = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    got = achieved.update(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), first)
    torch.testing.assert_close(got, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))  # the first batch is all there is
    # both samples: mean (6, 1); 0.9 * 3 + 0.1 * 6 = 3.3 and 0.9 * 4 + 0.1 * 1 = 3.7; the preference that is absent
    # keeps its own
    got = achieved.update(torch.tensor([[5.0, 0.0], [7.0, 2.0]]), second)
    torch.testing.assert_close(got, torch.tensor([[3.3, 3.7], [3.3, 3.7]]))
    assert achieved.means["w1-0"] == pytest.approx([1.0, 2.0]) and achieved.means["w0.5-0.5"] == pytest.approx(
        [3.3, 3.7]
    )
    # so the first batch weighs 9 and the second 1
    assert achieved.sizes["w0.5-0.5"] == pytest.approx([9 + 1, 81 + 1])


def test_evenly_a_batch_counts_nine_tenths_of_the_next() -> None:
    achieved = control.Achieved(even=True)
    first, second = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    got = achieved.update(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), first)
    torch.testing.assert_close(got, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))  # the first batch is all there is
    # both samples: mean (6, 1); (0.9 * 3 + 6) / 1.9 = 4.578947 and (0.9 * 4 + 1) / 1.9 = 2.421053; the preference that
    # is absent keeps its own
    got = achieved.update(torch.tensor([[5.0, 0.0], [7.0, 2.0]]), second)
    torch.testing.assert_close(got, torch.tensor([[4.578947, 2.421053], [4.578947, 2.421053]]))
    assert achieved.means["w1-0"] == pytest.approx([1.0, 2.0]) and achieved.means["w0.5-0.5"] == pytest.approx(
        [4.578947, 2.421053]
    )
    # its squares (0.9 * 9 + 36) / 1.9 and (0.9 * 16 + 1) / 1.9; weights 0.9 + 1, squared 0.81 + 1
    assert achieved.squares["w0.5-0.5"] == pytest.approx([44.1 / 1.9, 15.4 / 1.9]) and achieved.sizes[
        "w0.5-0.5"
    ] == pytest.approx([1.9, 1.81])
    # a third batch (0, 0): (0.81 * 3 + 0.9 * 6) / 2.71
    achieved.update(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]]))
    assert achieved.means["w0.5-0.5"][0] == pytest.approx(7.83 / 2.71)


def test_means_of_another_number_of_objectives_are_refused() -> None:
    achieved = control.Achieved()
    achieved.means = {"w1-0": [0.5]}
    with pytest.raises(ValueError, match="argument"):
        achieved.update(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]]))


def test_a_narrow_range_counts_as_a_twentieth() -> None:
    achieved = control.Achieved()
    preferences = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    means = achieved.update(torch.tensor([[0.5, 0.2], [0.51, 1.2]]), preferences)
    low, width = achieved.range(means)
    torch.testing.assert_close(torch.stack([low, width]), torch.tensor([[0.5, 0.2], [0.05, 1.0]]))
    # wanted: (0.5 + 0.05 * 1, 0.2 + 1 * 0) and (0.55, 1.2); missing (0.05, 0) and (0.04, 0), over the widths (1, 0) and
    # (0.8, 0)
    torch.testing.assert_close(
        achieved.shortfall(means, preferences, "range", "relative"),
        torch.tensor([[1.0, 0.0], [0.8, 0.0]]),
        atol=1e-5,
        rtol=0,
    )
    # on the arc (0.5 + 0.05 * 0.707107) - 0.51 = 0.0253553 and (0.2 + 0.707107) - 1.2 = -0.292893 for the second
    torch.testing.assert_close(
        achieved.shortfall(means, preferences, "arc", "relative"),
        torch.tensor([[1.0, 0.0], [0.507107, -0.292893]]),
        atol=1e-5,
        rtol=0,
    )
    # 'scaled' knows no range: (1, 0) - (0.5, 0.2) and (1, 1) - (0.51, 1.2)
    torch.testing.assert_close(
        achieved.shortfall(means, preferences, "scaled", "relative"), torch.tensor([[0.5, -0.2], [0.49, -0.2]])
    )
    # and without the division the narrow range counts as what it is
    torch.testing.assert_close(
        achieved.shortfall(means, preferences, "range", "absolute"),
        torch.tensor([[0.05, 0.0], [0.04, 0.0]]),
        atol=1e-6,
        rtol=0,
    )
