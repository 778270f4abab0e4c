"""The stage evaluate on tables small enough to do by hand; what it refuses is in test_evaluate_input.py."""

import json
import runpy
import sys

import numpy as np
import pytest

from moa.errors import MoaError
from moa.store import tables
from tests import synthetic
from tests.hand import CORNERS, GRID, Hand


@pytest.fixture
def hand(tmp_path):
    return Hand(tmp_path)


def metric(found, name, method="m", objective="all"):
    (row,) = [r for r in found["metrics"] if (r["method"], r["metric"], r["objective"]) == (method, name, objective)]
    return row


def test_means_average_samples_first_and_are_normalised(hand):
    scores = [[[2, 0.1], [4, 0.3]], [[10, 0.5], [10, 0.7]]]
    found = hand.row("m", [(None, scores)]).run()
    a, b = found["points"]
    # a: prompts 3 and 10, mean 6.5 of 10; b: prompts 0.2 and 0.6
    assert (a["objective"], a["mean"], a["normalised"], a["n"]) == ("a", pytest.approx(6.5), pytest.approx(0.65), 4)
    assert (b["mean"], b["normalised"]) == (pytest.approx(0.4), pytest.approx(0.4))
    # Of two prompts the resampled means are 3, 6.5 and 10; a quarter of the resamples has each end.
    assert (a["low"], a["high"]) == (pytest.approx(3), pytest.approx(10))
    assert metric(found, "hypervolume")["value"] == pytest.approx(0.65 * 0.4)


def test_metrics_of_a_front(hand):
    found = hand.row("m", [(GRID[0], (2, 0.9)), (GRID[1], (6, 0.5)), (GRID[2], (8, 0.1))]).run()
    # points (.2, .9), (.6, .5), (.8, .1): .2*.9 + .4*.5 + .2*.1 = .18 + .2 + .02
    volume = metric(found, "hypervolume")
    assert volume["value"] == pytest.approx(0.4)
    assert (volume["low"], volume["high"]) == (pytest.approx(0.4), pytest.approx(0.4))  # all prompts alike
    assert (volume["points"], volume["n"]) == (3, 2)
    assert metric(found, "tau")["value"] == metric(found, "tau", objective="a")["value"] == 1
    assert (
        metric(found, "order_rate")["value"]
        == metric(found, "tau_bound")["value"]
        == metric(found, "tau_bound", objective="b")["value"]
        == 1
    )
    # ((.2-0)^2 + (.9-1)^2)/2 = .025; (.1^2 + 0)/2 = .005; (.2^2 + .1^2)/2 = .025; mean .055/3
    assert metric(found, "control_error")["value"] == pytest.approx(0.055 / 3)
    assert metric(found, "non_dominated")["value"] == 3


def test_tau_of_both_objectives_and_their_mean(hand):
    found = hand.row("m", [(GRID[0], (2, 0.9)), (GRID[1], (2, 0.9)), (GRID[2], (2, 0.9))]).run()
    assert metric(found, "tau")["value"] == 0  # it ignores the preference
    found = Hand(hand.root / "x").row("m", [(GRID[0], (2, 0.5)), (GRID[1], (6, 0.5)), (GRID[2], (8, 0.5))]).run()
    assert [metric(found, "tau", objective=o)["value"] for o in ("a", "b", "all")] == [1, 0, 0.5]


def test_what_cannot_be_steered_has_no_tau(hand):
    found = hand.row("free", [(None, (5, 0.5))]).row("two", [(GRID[0], (1, 0.9)), (GRID[2], (9, 0.1))]).run()
    for method in ("free", "two"):
        for name in ("tau", "order_rate"):
            assert {
                (r["value"], r["low"]) for r in found["metrics"] if r["method"] == method and r["metric"] == name
            } == {(None, None)}
    assert metric(found, "control_error", "free")["value"] is None
    assert metric(found, "control_error", "two")["value"] == pytest.approx(0.01)
    assert (metric(found, "hypervolume", "free")["points"], metric(found, "hypervolume", "two")["points"]) == (1, 2)


def test_a_blank_policy_is_never_on_a_front(hand):
    points = [(GRID[0], (2, 0.9)), (GRID[1], (0, 0)), (GRID[2], (8, 0.1))]

    def blank_middle(generations, scores):
        return [{**g, "response": " \n", "nll": None} if g["point"] == 1 else g for g in generations], scores

    found = (
        hand.row("some", points, change=blank_middle)
        .row("all", [(GRID[i], (0, 0)) for i in range(3)], responses=["", "\t"])
        .run()
    )
    verdicts = {
        (q["method"], q["point"]): (q["non_dominated"], q["below_reference"], q["degenerate"]) for q in found["quality"]
    }
    assert verdicts["some", 1] == (False, True, True)
    assert verdicts["some", 0] == verdicts["some", 2] == (True, False, False)
    assert {verdicts["all", m] for m in range(3)} == {(False, True, True)}
    assert metric(found, "hypervolume", "some")["value"] == pytest.approx(0.2 * 0.9 + 0.6 * 0.1)
    assert metric(found, "hypervolume", "all")["value"] == 0
    assert found["quality"][-1]["nll"] is None and "100 % of responses are blank" in found["quality"][-1]["reason"]


def test_blank_responses_gain_nothing_from_a_reference_point_below_their_floor(tmp_path):
    hand = Hand(tmp_path, reference_point=(-10.0, -1.0))  # a user's own choice: raw 0 is far above it
    found = hand.row("blank", [(None, (0, 0))], responses=["", ""]).row("m", [(None, (5, 0.5))]).run()
    assert metric(found, "hypervolume", "blank")["value"] == 0
    assert metric(found, "hypervolume")["value"] == pytest.approx(1.5 * 1.5)
    assert [q["non_dominated"] for q in found["quality"]] == [False, True]


@pytest.mark.parametrize(
    ("responses", "nll", "expected"),
    [
        (["one two", "three"], 2.0, None),
        (
            ["one two", "three"],
            3.5,
            "mean NLL 3.50 nats per token, the central 98 % of held-out text of the same length has 1.00 to 3.00",
        ),
        (["one two", "three"], 0.5, "mean NLL 0.50 nats"),
        (
            ["great " * 6, "three"],
            2.0,
            "50 % of responses repeat a word 4-gram at least three times, or a word three times in a row (limit 10 %)",
        ),
        (["", "three"], 2.0, None),  # half of them is allowed
        (["", ""], 2.0, "100 % of responses are blank (limit 50 %)"),
        (
            ["great " * 6, "great " * 6],
            0.5,
            (
                "0.50 nats per token, the central 98 % of held-out text of the same length has 1.00 to 3.00; 100 % of"
                " responses repeat"
            ),
        ),
    ],
)
def test_degenerate_by_rule(hand, responses, nll, expected):
    found = hand.row("m", [(None, (5, 0.5))], responses=responses, nll=nll).run()
    (quality,) = found["quality"]
    assert quality["degenerate"] is (expected is not None)
    assert quality["reason"] is None if expected is None else expected in quality["reason"]
    assert metric(found, "hypervolume_readable")["value"] == pytest.approx(0.25 if expected is None else 0)
    assert metric(found, "hypervolume_readable")["points"] == (1 if expected is None else 0)
    assert metric(found, "degenerate")["value"] == (0 if expected is None else 1)


def of_lengths(*lengths):
    """The responses of each prompt in turn have these numbers of tokens."""
    return lambda generations, scores: ([{**g, "tokens": lengths[i]} for i, g in enumerate(generations)], scores)


@pytest.mark.parametrize(
    ("lengths", "nll", "expected"),
    [
        (
            (3, 3),
            4.0,
            "mean NLL 4.00 nats per token, the central 98 % of held-out text of the same length has 1.00 to 3.00",
        ),
        ((2, 2), 4.0, None),  # 6 is allowed at two tokens: few tokens spread more
        ((2, 3), 4.0, None),  # to (6 + 3) / 2
        ((2, 3), 4.6, "0.75 to 4.50"),
        ((2, 3), 0.7, "0.75 to 4.50"),
        ((40, 3), 4.0, "1.00 to 3.00"),  # longer than every held-out text: as whole ones
        ((0, 1), 8.0, None),  # only special tokens, but text: as one token
    ],
)
def test_nll_is_compared_at_the_length_of_the_responses(hand, lengths, nll, expected):
    found = hand.row("m", [(None, (5, 0.5))], nll=nll, change=of_lengths(*lengths)).run()
    (quality,) = found["quality"]
    assert quality["degenerate"] is (expected is not None)
    assert expected is None or expected in quality["reason"]


def test_short_repeated_text_is_caught_whatever_its_nll(hand):
    found = hand.row("m", [(None, (5, 0.5))], responses=["great great great", "Great, great, great!"]).run()
    assert "100 % of responses repeat" in found["quality"][0]["reason"]


def test_a_table_of_fluency_with_a_gap(hand):
    path = hand.root / "fluency.parquet"
    rows = tables.read(tables.FLUENCY, path).to_pylist()
    tables.write(tables.FLUENCY, [rows[0], rows[2]], path)
    with pytest.raises(MoaError, match="2 rows, expected one for every length from 1 token"):
        hand.row("m", [(None, (5, 0.5))]).run()


def test_ten_percent_of_repeats_are_allowed_and_more_are_not(tmp_path):
    for repeating, degenerate in ((1, False), (2, True)):
        hand = Hand(tmp_path / str(repeating), prompts=10)
        found = hand.row("m", [(None, (5, 0.5))], responses=["so " * 6] * repeating + ["fine"] * (10 - repeating)).run()
        assert found["quality"][0]["degenerate"] is degenerate


def test_payoff(hand):
    hand.row("single", [(CORNERS[0], (9, 0.2)), (CORNERS[1], (3, 0.8))]).row("sft", [(None, (5, 0.4))])
    found = hand.run(payoff_row="single", reference_row="sft")["payoff"]
    losses = {(r["policy"], r["objective"]): r["loss"] for r in found}
    # a: 0.9 against 0.3 and 0.5; b: 0.8 against 0.2 and 0.4
    expected = {
        ("a", "a"): 0,
        ("a", "b"): 0.6,
        ("b", "a"): 0.6,
        ("b", "b"): 0,
        ("reference", "a"): 0.4,
        ("reference", "b"): 0.4,
    }
    assert losses == pytest.approx(expected)
    assert hand.run()["payoff"] == []
    with pytest.raises(MoaError, match="row 'sft', seed 0: no responses at the preference for 'a' alone"):
        hand.run(payoff_row="sft")


def test_the_name_of_a_row_does_not_matter(tmp_path):
    """The same responses under ten names give ten times the same numbers."""
    hand = Hand(tmp_path, prompts=5)
    rng = np.random.default_rng(0)
    points = [(p, rng.uniform(0, 1, size=(5, 2, 2)) * (10, 1)) for p in GRID]
    names = ["reference", "morlhf", "ppo", "moc", "pama", "rewarded_soups", "single_objective", "z", "A", "m"]
    for name in names:
        hand.row(name, points)
    found = hand.run()
    for table in ("points", "quality", "metrics"):
        per_row = [[{**r, "method": ""} for r in found[table] if r["method"] == name] for name in names]
        assert per_row[0] and all(rows == per_row[0] for rows in per_row)


def test_the_order_of_files_and_rows_does_not_matter(tmp_path):
    first, second = Hand(tmp_path / "1", prompts=4), Hand(tmp_path / "2", prompts=4)
    points = [(p, np.random.default_rng(1).uniform(0, 1, size=(4, 1, 2))) for p in GRID]
    first.row("m", points).row("n", points)
    second.row("n", points).row("m", points, change=lambda g, s: (g[::-1], s[::-1]))
    path = second.root / "prompts.parquet"
    tables.write(tables.PROMPTS, tables.read(tables.PROMPTS, path).to_pylist()[::-1], path)
    assert first.run(methods=["m", "n"]) == second.run(methods=["m", "n"])


def test_judges_are_points_without_a_scale(tmp_path):
    folder = synthetic.build(tmp_path)
    points = tables.read(tables.POINTS, folder / "evaluation/points.parquet").to_pylist()
    judges = [p for p in points if p["role"] == "judge"]
    assert {p["objective"] for p in judges} == {"sentiment"} and len(judges) == len(
        [p for p in points if p["objective"] == "conciseness"]
    )
    assert all(p["normalised"] is None and p["low"] <= p["mean"] <= p["high"] for p in judges)


@pytest.mark.parametrize("objectives", [("x", "y"), ("x", "y", "z"), ("w", "x", "y", "z")])
def test_the_command_writes_the_four_tables(tmp_path, monkeypatch, objectives):
    folder = synthetic.build(tmp_path, objectives, seeds=(0, 3))
    world = synthetic.World(tmp_path, objectives, (0, 3))
    made = synthetic.experiment(world)
    section = {
        "task": made.task,
        "methods": list(synthetic.SKILL),
        "seeds": [0, 3],
        "payoff_row": "single_objective",
        "reference_row": "reference",
    }
    section |= {
        "objectives": {k: o.model_dump() for k, o in made.objectives.items()},
        "evaluation": made.evaluation.model_dump(),
    }
    arguments = ["evaluate", "--section", json.dumps(section)]
    arguments += [f"--{name}={folder}/{name}.parquet" for name in ("normaliser", "fluency", "prompts")]
    for name in ("generations", "scores"):
        arguments += ["--" + name, *map(str, sorted(folder.glob(f"{name}/*/*.parquet")))]
    arguments += [f"--{name}={tmp_path}/{name}.parquet" for name in ("points", "quality", "metrics", "payoff")]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.delitem(sys.modules, "moa.stages.evaluate")
    runpy.run_module("moa.stages.evaluate", run_name="__main__")
    for table in (tables.POINTS, tables.QUALITY, tables.METRICS, tables.PAYOFF):
        again = tables.read(table, tmp_path / f"{table.name}.parquet")
        assert again.equals(tables.read(table, folder / f"evaluation/{table.name}.parquet"))
        assert (tmp_path / f"{table.name}.parquet").read_bytes() == (
            folder / f"evaluation/{table.name}.parquet"
        ).read_bytes()
        assert again.num_rows > 0


def test_responses_that_a_reward_could_not_read_whole_are_told(tmp_path):
    """Objective a's reward has cut 3 of row m's 12 scores (2 prompts x 3 points x 2 samples); 3 / 12."""
    made = Hand(tmp_path)

    def cut(generations, scores):
        of_a = [score for score in scores if score["objective"] == "a"]
        for score in of_a[:3]:
            score["truncated"] = True
        return generations, scores

    points = [(p, np.full((2, 2, 2), 0.5)) for p in GRID]
    found = made.row("m", points, change=cut).row("n", points).run()
    told = [r for r in found["metrics"] if r["metric"].startswith("truncated")]
    assert [(r["method"], r["metric"], r["objective"], r["value"]) for r in told] == [("m", "truncated", "a", 0.25)]
