"""Rewards that are formulas: the arithmetic by hand."""

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from moa.experiment.rewards import Reward
from moa.rewards import conciseness, length, readability, scoring

SPEC = TypeAdapter(Reward)


def scores(spec: dict, responses: list[str], floor: float | None = None) -> list[float]:
    scorer = scoring.load("r", SPEC.validate_python(spec), [])
    return scoring.score("r", scorer, ["p"] * len(responses), responses, floor).values.tolist()


def test_length_is_clipped_to_pamas_bounds() -> None:
    # 140 / 140 = 1; 10 / 140 = 0.07 is raised to 70 / 140 = 0.5; 400 / 140 = 2.86 is cut to 210 / 140 = 1.5; 105 / 140
    # = 0.75
    assert scores({"kind": "length"}, ["x" * 140, "x" * 10, "x" * 400, "x" * 105]) == [1.0, 0.5, 1.5, 0.75]


def test_length_in_tokens_counts_words_and_punctuation_marks() -> None:
    assert length.TOKEN.findall("It's fine, really.") == ["It's", "fine", ",", "really", "."]
    # 5 tokens / 4 = 1.25, within [0, 2]; 12 tokens / 4 = 3, cut to 2
    spec = {"kind": "length", "unit": "tokens", "divisor": 4, "low": 0, "high": 2}
    assert scores(spec, ["It's fine, really.", "so " * 12]) == [1.25, 2.0]


def test_length_counts_code_points_not_bytes() -> None:
    assert length.measure("naïve 😀", "characters") == 7


def test_conciseness_falls_linearly_between_full_and_zero() -> None:
    # full 20, zero 200: (200 - 20) / 180 = 1; (200 - 110) / 180 = 0.5; (200 - 155) / 180 = 0.25; from 200 on 0; 5
    # characters: 1
    assert [conciseness.reward(n, 20, 200) for n in (20, 110, 155, 200, 500, 5)] == [1.0, 0.5, 0.25, 0.0, 0.0, 1.0]
    assert scores({"kind": "conciseness"}, ["x" * 110, "   \n", ""]) == [0.5, 0.0, 0.0]


def test_ari_of_counted_sentences() -> None:
    # 'The cat sat.': 9 letters, 3 words, 1 sentence: 4.71 * 9/3 + 0.5 * 3/1 - 21.43 = 14.13 + 1.5 - 21.43 = -5.8
    assert readability.grade("The cat sat.", "ari") == pytest.approx(-5.8)
    # 'Considerable deliberation preceded it. Why?': 12 + 12 + 8 + 2 + 3 = 37 letters, 5 words, 2 sentences:
    # 4.71 * 37/5 + 0.5 * 5/2 - 21.43 = 34.854 + 1.25 - 21.43 = 14.674
    assert readability.grade("Considerable deliberation preceded it. Why?", "ari") == pytest.approx(14.674)


def test_coleman_liau_of_counted_sentences() -> None:
    # 'The cat sat.': L = 100 * 9/3 = 300, S = 100 * 1/3: 0.0588 * 300 - 0.296 * 33.333 - 15.8 = 17.64 - 9.8667 - 15.8 =
    # -8.0267
    assert readability.grade("The cat sat.", "coleman_liau") == pytest.approx(-8.02667, abs=1e-5)
    # A digit is a character for ARI, but no letter: 'It is 42.' has 4 letters, 6 characters, 3 words, 1 sentence.
    assert readability.grade("It is 42.", "ari") == pytest.approx(4.71 * 2 + 1.5 - 21.43)
    assert readability.grade("It is 42.", "coleman_liau") == pytest.approx(0.0588 * 400 / 3 - 29.6 / 3 - 15.8)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("no end at all", 1),
        ("One. Two", 2),
        ("He said: 'Go!' Then he went.", 2),
        ("Wait... what?! Yes.", 3),
        ("version 3.11 is out.", 1),
        ("... . !", 1),
        ("Eins。", 1),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert readability.sentences(text) == count


def test_readability_maps_grades_to_the_unit_interval() -> None:
    easy, hard = -5.8, 14.674  # the two grades from above
    texts = ["The cat sat.", "Considerable deliberation preceded it. Why?", "!!! ...", "internationalisation " * 30]
    spec = {"kind": "readability", "easy": easy, "hard": hard}
    assert scores(spec, texts) == pytest.approx([1.0, 0.0, 0.0, 0.0], abs=1e-6)
    # 'It is 42.' has ARI 9.42 + 1.5 - 21.43 = -10.51, 'It was a fine day.' 13 letters, 5 words:
    # 12.246 + 2.5 - 21.43 = -6.684; with easy -10, hard 0: -6.684 gives 6.684 / 10
    assert scores({"kind": "readability", "easy": -10, "hard": 0}, ["It was a fine day."]) == pytest.approx([0.6684])


def test_vader_is_the_published_compound_score() -> None:
    # Two examples of the package's own documentation (vaderSentiment README, "Code Examples" and "Demo").
    texts = ["VADER is smart, handsome, and funny.", "Today SUX!", " "]
    assert scores({"kind": "vader"}, texts) == pytest.approx([0.8316, -0.5461, -1.0], abs=1e-6)


def test_bounds_are_those_of_the_formula() -> None:
    expected = {
        '{"kind": "vader"}': (-1.0, 1.0),
        '{"kind": "length"}': (0.5, 1.5),
        '{"kind": "conciseness"}': (0.0, 1.0),
        '{"kind": "readability"}': (0.0, 1.0),
        '{"kind": "python", "function": "a:b", "low": 0, "high": 2}': (0.0, 2.0),
        '{"kind": "python", "function": "a:b"}': (None, None),
        '{"kind": "classifier", "source": "x"}': (None, None),
        '{"kind": "linear", "data": {"source": "x", "label": "y"}}': (None, None),
    }
    assert {text: scoring.bounds(SPEC.validate_json(text)) for text in expected} == expected


@pytest.mark.parametrize("kind", ["vader", "length", "conciseness", "readability"])
def test_no_text_leaves_the_bounds(kind: str) -> None:
    spec = SPEC.validate_python({"kind": kind})
    texts = ["good " * 300, "bad!", "é", "\u200b", "1", "a.b.c", "?", "word " * 999, "Great!!! " * 50]
    low, high = scoring.bounds(spec)
    values = np.array(scores({"kind": kind}, texts))
    assert low is not None and high is not None
    assert (values >= low).all() and (values <= high).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "length", "low": 2, "high": 1}, "must be above low"),
        ({"kind": "readability", "easy": 5, "hard": 5}, "must be above easy"),
        ({"kind": "conciseness", "full": 9, "zero": 3}, "must be above full"),
        ({"kind": "python", "function": "a:b", "low": 1, "high": 0}, "must be above low"),
        ({"kind": "classifier", "source": "x", "template": "{prompt}"}, "must hold {response}"),
        ({"kind": "linear", "data": {"source": "x", "label": "y"}, "template": "{respnse}"}, "must hold {response}"),
        ({"kind": "transformer", "source": "x", "data": {"source": "x"}}, "give exactly one of: label; target; chosen"),
        (
            {"kind": "linear", "data": {"source": "x", "label": "y", "part": [0.5, 0.5]}},
            "part must be two numbers that rise within 0 and 1",
        ),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(spec: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SPEC.validate_python(spec)
