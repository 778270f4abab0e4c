"""When the report says that one method is above another."""

import pytest

from moa.report.data import Answer, Row, Task
from moa.report.words import figure, headline, rivals


def row(method: str, values: list[float], low: float, high: float) -> Row:
    by_seed = [{"seed": seed, "value": value} for seed, value in enumerate(values)]
    mean = sum(values) / len(values)
    return {
        "method": method,
        "readable": mean,
        "readable_low": low,
        "readable_high": high,
        "readable_points": 5,
        "seeds": len(values),
        "by_seed": by_seed,
    }


def task(*rows: Row) -> Task:
    answers = {"leaderboard": Answer(list(rows), ""), "metrics": Answer([], "")}
    return Task("t", ["a", "b"], {"config": "{}"}, answers, [r["method"] for r in rows], [])


def test_paired_seeds_tell_methods_apart_whose_ranges_overlap() -> None:
    """Differences 0.02, 0.03, 0.04: mean 0.03, s 0.01, t(0.975, 2) = 4.303: 0.03 -+ 0.0248.

    The ranges 0.50 to 0.60 and 0.48 to 0.56 overlap.
    """
    best, other = row("best", [0.50, 0.55, 0.60], 0.54, 0.56), row("other", [0.48, 0.52, 0.56], 0.51, 0.53)
    assert rivals(task(best, other)) == []


def test_unpaired_seeds_do_not() -> None:
    """Differences 0.12, 0.03, -0.06: the same means, and an interval of 0.03 -+ 0.22."""
    best, other = row("best", [0.60, 0.55, 0.50], 0.54, 0.56), row("other", [0.48, 0.52, 0.56], 0.51, 0.53)
    assert rivals(task(best, other)) == ["other"]


def test_intervals_over_prompts_that_overlap_leave_methods_together() -> None:
    best, other = row("best", [0.50, 0.55, 0.60], 0.52, 0.58), row("other", [0.48, 0.52, 0.56], 0.51, 0.53)
    assert rivals(task(best, other)) == ["other"]


@pytest.mark.parametrize(("high", "close"), [(0.53, []), (0.55, ["other"])])
def test_one_seed_has_prompts_alone(high: float, close: list[str]) -> None:
    assert rivals(task(row("best", [0.55], 0.54, 0.56), row("other", [0.52], 0.51, high))) == close


def test_a_row_without_a_common_seed_cannot_be_told_apart() -> None:
    best, other = row("best", [0.50, 0.55, 0.60], 0.54, 0.56), row("other", [0.5], 0.49, 0.51)
    assert rivals(task(best, other)) == ["other"]
    assert "1 of the 1 other method cannot be told apart from it (other)" in headline(task(best, other))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.8304, "0.830"),
        (0.0123, "0.012"),
        (0.00456, "0.0046"),
        (0.0000123, "1.2e\N{MINUS SIGN}05"),
        (0.0, "0.000"),
        (None, "\N{EN DASH}"),
    ],
)
def test_small_volumes_keep_two_digits(value: float | None, shown: str) -> None:
    assert figure(value) == shown
