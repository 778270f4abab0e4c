"""What constraints compare, by hand: targets, running means, the achieved range."""

import pytest
import torch

from moa.rl.control import Achieved, scaled


def test_the_largest_weight_asks_for_everything() -> None:
    torch.testing.assert_close(
        scaled(torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]])),
        torch.tensor([[1.0, 1 / 3], [1.0, 1.0], [0.0, 1.0]]),
    )


def test_running_means_keep_nine_tenths() -> None:
    achieved = Achieved()
    first, second = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    got = achieved.update(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), first)
    torch.testing.assert_close(got, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))  # the first batch is all there is
    # both samples: mean (6, 1); 0.9 * 3 + 0.1 * 6 = 3.3 and 0.9 * 4 + 0.1 * 1 = 3.7; the absent one keeps its own
    got = achieved.update(torch.tensor([[5.0, 0.0], [7.0, 2.0]]), second)
    torch.testing.assert_close(got, torch.tensor([[3.3, 3.7], [3.3, 3.7]]))
    assert achieved.means["w1-0"] == pytest.approx([1.0, 2.0])
    assert achieved.means["w0.5-0.5"] == pytest.approx([3.3, 3.7])


def test_means_of_another_number_of_objectives_are_refused() -> None:
    achieved = Achieved()
    achieved.restore({"w1-0": [0.5]})
    with pytest.raises(ValueError, match="argument"):
        achieved.update(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]]))


def test_a_narrow_range_counts_as_a_twentieth() -> None:
    achieved = Achieved()
    means = achieved.update(torch.tensor([[0.5, 0.2], [0.51, 1.2]]), torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    low, width = achieved.range(means)
    torch.testing.assert_close(torch.stack([low, width]), torch.tensor([[0.5, 0.2], [0.05, 1.0]]))


def test_what_is_kept_does_not_change_with_later_batches() -> None:
    achieved, p = Achieved(), torch.tensor([[0.5, 0.5]])
    achieved.update(torch.tensor([[1.0, 2.0]]), p)
    kept = achieved.state()
    achieved.update(torch.tensor([[9.0, 9.0]]), p)
    assert kept == {"w0.5-0.5": [1.0, 2.0]}
