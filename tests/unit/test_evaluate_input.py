"""What the stage evaluate refuses: responses, scores or scales that are incomplete or belong to another run."""

import pytest

from moa.errors import MoaError
from moa.store import tables
from tests.hand import CORNERS, GRID, Hand


@pytest.fixture
def hand(tmp_path):
    return Hand(tmp_path)


def drop_prompt(generations, scores):
    return [g for g in generations if g["prompt_id"] != "p1"], [s for s in scores if s["prompt_id"] != "p1"]


def drop_one_point_of_a_prompt(generations, scores):
    return [g for g in generations if (g["prompt_id"], g["point"]) != ("p1", 2)], scores


def foreign_prompt(generations, scores):
    return [{**g, "prompt_id": g["prompt_id"].replace("p1", "zz")} for g in generations], scores


def drop_scores(generations, scores):
    return generations, [s for s in scores if s["objective"] == "a" or s["prompt_id"] == "p0"]


def foreign_objective(generations, scores):
    return generations, [{**s, "objective": "bb"} if s["objective"] == "b" else s for s in scores]


def foreign_point(generations, scores):
    return generations, [{**s, "point": 7} if s["point"] == 2 else s for s in scores]


def foreign_score_prompt(generations, scores):
    return generations, [{**s, "prompt_id": "zz"} if s["prompt_id"] == "p1" else s for s in scores]


def three_weights(generations, scores):
    return [{**g, "preference": (0.2, 0.3, 0.5)} for g in generations], scores


def gap_in_points(generations, scores):
    return [{**g, "point": g["point"] + 1} for g in generations], scores


def two_preferences_at_a_point(generations, scores):
    return [{**g, "preference": CORNERS[0]} if g["prompt_id"] == "p1" else g for g in generations], scores


def two_seeds(generations, scores):
    return [{**g, "seed": int(g["prompt_id"] == "p1")} for g in generations], scores


def other_task(generations, scores):
    return [{**g, "task": "imdb"} for g in generations], scores


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_prompt, "row 'm', seed 0: 1 of 2 evaluation prompts lack responses"),
        (drop_one_point_of_a_prompt, "row 'm', seed 0: 1 of 2 evaluation prompts lack responses"),
        (foreign_prompt, "3 responses to prompts that are not evaluation prompts of this task (zz)"),
        (drop_scores, "row 'm': 3 of 'b as reward' are missing among 2 prompts x 3 points"),
        (
            foreign_objective,
            "scores of 'bb as reward', which this experiment does not have. Did you mean 'b as reward'?",
        ),
        (foreign_point, "scores of point 7, but its responses have points 0 to 2"),
        (foreign_score_prompt, "6 scores of prompts that are not evaluation prompts of this task (zz)"),
        (three_weights, "do not fit 2 objectives"),
        (gap_in_points, "points must be numbered from 0"),
        (two_preferences_at_a_point, "each with one preference"),
        (two_seeds, "seeds [0, 1], expected one of each"),
        (other_task, "holds tasks ['imdb'], expected 'hand'"),
    ],
)
def test_incomplete_or_foreign_input(hand, change, message):
    hand.row("m", [(p, (5, 0.5)) for p in GRID], change=change)
    with pytest.raises(MoaError) as caught:
        hand.run()
    assert message in str(caught.value)
    assert str(hand.root) in str(caught.value)  # names the file


def test_missing_and_surplus_rows(hand):
    hand.row("m", [(None, (5, 0.5))])
    with pytest.raises(MoaError, match="row 'moc', seed 0: no responses given"):
        hand.run(methods=["m", "moc"])
    with pytest.raises(MoaError, match="row 'm', seed 0 is not part of this run. Did you mean 'mm'?"):
        hand.run(methods=["mm"])
    with pytest.raises(MoaError, match="row 'm', seed 1: no responses given"):
        hand.run(seeds=[0, 1])
    scores, hand.scores = hand.scores, []
    with pytest.raises(MoaError, match="row 'm', seed 0: responses without scores"):
        hand.run()
    hand.scores = scores * 2
    with pytest.raises(MoaError, match="give each file once"):
        hand.run()


def test_a_scale_that_does_not_fit(hand):
    hand.row("m", [(None, (5, 0.5))])
    path = hand.root / "normaliser.parquet"
    rows = tables.read(tables.NORMALISER, path).to_pylist()
    tables.write(tables.NORMALISER, [{**r, "high": r["low"]} for r in rows], path)
    with pytest.raises(MoaError, match=r"objective 'a' has the scale \[0, 0\]"):
        hand.run()
    tables.write(tables.NORMALISER, rows[:1], path)
    with pytest.raises(MoaError, match=r"normaliser.parquet: no row for objective 'b' \(it has a\)"):
        hand.run()


def test_no_evaluation_prompts(hand):
    hand.row("m", [(None, (5, 0.5))])
    tables.write(tables.PROMPTS, [], hand.root / "prompts.parquet")
    with pytest.raises(MoaError, match="no evaluation prompts"):
        hand.run()
