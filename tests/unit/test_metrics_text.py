"""Text statistics by counting on the fingers."""

import pytest

from moa.metrics import text


def test_words():
    assert text.words("Don't STOP, it\u2019s 5 o'clock!") == ["don't", "stop", "it\u2019s", "5", "o'clock"]
    assert text.words("...!?") == []


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("great great great great great great", True),  # six words: the same 4-gram at 0, 1 and 2
        ("great great great", True),  # too short for a 4-gram, but three in a row
        ("great, very great, very great, very great", False),  # each 4-gram twice
        ("Great, great... GREAT! great great great", True),  # punctuation and case do not hide it
        ("a b c d x a b c d y a b c d", True),
        ("a b c d x a b c d y a b c", False),
        ("", False),
        ("one two three", False),
    ],
)
def test_repeats(response, expected):
    assert text.repeats(text.words(response)) is expected


def test_distinct():
    # words a b a / b c: 3 distinct of 5; pairs ab ba / bc: 3 of 3 (no pair runs from one response into the next)
    two = [text.words("a b a"), text.words("B c")]
    assert text.distinct(two, 1) == 3 / 5
    assert text.distinct(two, 2) == 1.0
    assert text.distinct([["a"] * 4], 2) == pytest.approx(1 / 3)
    assert text.distinct([text.words(""), text.words("!")], 1) == 0.0
