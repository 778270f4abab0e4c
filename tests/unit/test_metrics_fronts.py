"""Hypervolume and fronts against worked examples, a 2-D sweep and inclusion-exclusion, and by their invariants."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.metrics import fronts

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "hypervolume.json").read_text(encoding="utf-8"))["cases"]


def sweep(points, reference):
    """Return the area above the reference point.

    Walk the points from the largest x down, and add what rises above the highest y so far.
    """
    area, highest = 0.0, reference[1]
    for x, y in sorted(map(tuple, points), reverse=True):
        if x > reference[0] and y > highest:
            area += (x - reference[0]) * (y - highest)
            highest = y
    return area


def inclusion_exclusion(points, reference):
    """Return the volume of a union of boxes.

    It is the sum over all subsets of (-1)^(size + 1) times the volume of their intersection.
    """
    boxes = np.maximum(np.asarray(points) - reference, 0)
    total = 0.0
    for size in range(1, len(boxes) + 1):
        for subset in combinations(range(len(boxes)), size):
            total += (-1) ** (size + 1) * boxes[list(subset)].min(0).prod()
    return total


@pytest.mark.parametrize("case", GOLDEN, ids=[str(i) for i in range(len(GOLDEN))])
def test_golden(case):
    sign = -1.0 if case["minimise"] else 1.0
    points, reference = sign * np.array(case["points"], float), sign * np.array(case["reference"], float)
    assert fronts.hypervolume(points, reference) == pytest.approx(case["hypervolume"], abs=1e-12), case["why"]


def test_two_objectives_agree_with_a_sweep():
    rng = np.random.default_rng(1)
    for _ in range(500):
        points = rng.normal(size=(rng.integers(1, 12), 2))
        reference = rng.normal(size=2) - 1
        assert fronts.hypervolume(points, reference) == pytest.approx(sweep(points, reference), abs=1e-12)


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_agrees_with_inclusion_exclusion(objectives):
    rng = np.random.default_rng(objectives)
    for _ in range(60):
        points = rng.uniform(size=(rng.integers(1, 9), objectives))
        if rng.random() < 0.5:
            points = points.round(1)  # ties
        reference = np.full(objectives, rng.choice([0.0, 0.2, -0.5]))
        assert fronts.hypervolume(points, reference) == pytest.approx(inclusion_exclusion(points, reference), abs=1e-12)


POINTS = st.lists(st.lists(st.floats(-1, 2, allow_nan=False, width=32), min_size=3, max_size=3), min_size=1, max_size=8)
REFERENCE = np.zeros(3)


@settings(max_examples=60, deadline=None)
@given(POINTS, st.randoms(use_true_random=False), st.floats(0, 1))
def test_invariants(drawn, random, step):
    points = np.array(drawn)
    volume = fronts.hypervolume(points, REFERENCE)
    shuffled = list(range(len(points)))
    random.shuffle(shuffled)
    assert fronts.hypervolume(points[shuffled], REFERENCE) == pytest.approx(volume, abs=1e-12), "order of points"
    assert fronts.hypervolume(points[:, ::-1].copy(), REFERENCE) == pytest.approx(volume, abs=1e-12), (
        "order of objectives"
    )
    assert fronts.hypervolume(np.vstack([points, points]), REFERENCE) == pytest.approx(volume, abs=1e-12), "duplicates"
    assert fronts.hypervolume(points[:-1], REFERENCE) <= volume + 1e-12, "a point never takes away"
    better = points.copy()
    better[0] += step
    assert fronts.hypervolume(better, REFERENCE) >= volume - 1e-12, "a better point never takes away"
    scale = np.array([2.0, 0.5, 3.0])
    assert fronts.hypervolume(points * scale, REFERENCE) == pytest.approx(3 * volume, abs=1e-9), (
        "scaling by 2 * 0.5 * 3"
    )
    front = points[fronts.on_front(points, REFERENCE)]
    assert fronts.hypervolume(front, REFERENCE) == pytest.approx(volume, abs=1e-12), "only the front counts"


def test_inputs_are_not_changed():
    points, reference = np.random.default_rng(0).uniform(size=(6, 3)), np.zeros(3)
    points.flags.writeable = reference.flags.writeable = False
    fronts.hypervolume(points, reference)
    fronts.hypervolumes(points[None], reference)
    fronts.on_front(points, reference)


def test_hypervolumes_of_resamples_are_each_exact():
    drawn = np.random.default_rng(5).normal(0.5, 0.5, size=(40, 5, 3))
    expected = [fronts.hypervolume(points, REFERENCE) for points in drawn]
    assert fronts.hypervolumes(drawn, REFERENCE) == pytest.approx(expected, abs=1e-15)


def test_no_points():
    assert fronts.hypervolume(np.zeros((0, 2)), np.zeros(2)) == 0
    assert fronts.hypervolumes(np.zeros((3, 0, 2)), np.zeros(2)).tolist() == [0, 0, 0]
    assert fronts.on_front(np.zeros((0, 2)), np.zeros(2)).tolist() == []


def test_front_is_strict_pareto_dominance():
    points = np.array([[1, 3], [2, 2], [2, 1], [3, 0.5], [3, 0.5]], float)
    # (2, 1) is as good as (2, 2) on the first objective and worse on the second: dominated. Equal points stay.
    assert fronts.on_front(points, np.zeros(2)).tolist() == [True, True, False, True, True]
    assert fronts.above(points, np.zeros(2)).tolist() == [True] * 5


def test_points_at_or_below_the_reference():
    points = np.array([[0, 0], [-1, -2], [5, -1], [0, 6], [1, 1]], float)
    # The reference point and what it dominates are on no front; an end of the front beside the box is, but adds no
    # volume.
    assert fronts.on_front(points, np.zeros(2)).tolist() == [False, False, True, True, True]
    assert fronts.above(points, np.zeros(2)).tolist() == [False, False, False, False, True]
    assert fronts.hypervolume(points, np.zeros(2)) == 1.0
    assert fronts.on_front(np.zeros((3, 2)), np.zeros(2)).tolist() == [False] * 3
