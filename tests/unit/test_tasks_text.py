"""Cleaning, sentences and openings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.tasks.text import clean, encodable, first_sentences, first_turn, split_after, split_opening


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("It is good. It is bad.", 1, "It is good."),
        ("It is good. It is bad.", 2, "It is good. It is bad."),
        ("It is good. It is bad.", 9, "It is good. It is bad."),
        ("no full stop at all", 1, "no full stop at all"),
        ("Mr. T. Jones met Dr. Who. Then he left.", 1, "Mr. T. Jones met Dr. Who."),
        ("It costs 3.5 dollars. Really?! Yes.", 2, "It costs 3.5 dollars. Really?!"),
        ("Well... it was fine... The end was not.", 1, "Well... it was fine..."),
        ('He said "stop." Then (yes!) he left.', 1, 'He said "stop."'),
        ("i liked it. i hated it. meh", 2, "i liked it. i hated it."),
        ("Cars, bikes, etc. are shown. Good.", 1, "Cars, bikes, etc. are shown."),
        ("Cars, bikes, etc. The rest is fine.", 1, "Cars, bikes, etc."),
        ("e.g. Alien vs. Predator is fun. Watch it.", 1, "e.g. Alien vs. Predator is fun."),
        ("It was me and I. She left.", 1, "It was me and I."),
        ("最高。また見たい。", 1, "最高。"),
        ("", 1, ""),
    ],
)
def test_first_sentences(text: str, count: int, expected: str) -> None:
    assert first_sentences(text, count) == expected


def test_clean() -> None:
    assert clean("  Good.<br /><br />Very\tgood.<BR>\u00a0Done.\n") == "Good. Very good. Done."
    assert clean("1 < 2 > 0 &amp; <b>") == "1 < 2 > 0 &amp; <b>", "nothing else is touched"


def test_what_no_file_can_hold_becomes_a_question_mark() -> None:
    assert encodable("a\ud800b") == "a?b"
    assert encodable("a\U0001f600b") == "a\U0001f600b"


@given(st.text())
def test_sentences_are_a_beginning_and_grow_with_their_number(text: str) -> None:
    cut = [first_sentences(text, n) for n in (1, 2, 3)]
    assert all(text.startswith(part) for part in cut)
    assert len(cut[0]) <= len(cut[1]) <= len(cut[2])


@given(st.text(), st.integers(1, 4), st.integers(0, 3))
def test_an_opening_and_its_rest_are_the_text(text: str, least: int, more: int) -> None:
    text = clean(text)
    parts = split_opening(text, least, least + more)
    words = len(text.split(" "))
    assert (parts is None) == (words <= least)
    if parts:
        assert parts[0] + parts[1] == text
        assert parts[1].startswith(" ") and parts[1].strip()
        assert least <= len(parts[0].split(" ")) <= min(least + more, words - 1)
        assert split_opening(text, least, least + more) == parts


def test_openings_use_every_allowed_length() -> None:
    lengths = {len(split_opening(f"text number {n} has eight words in all", 2, 5)[0].split()) for n in range(60)}
    assert lengths == {2, 3, 4, 5}


@pytest.mark.parametrize("talk", ["", "Q: a", "A: b", "A: b Q: a", "Q: A: b", "Q: a A: ", "Q: a A: Q: c A: d"])
def test_a_first_turn_without_prompt_or_response_is_none(talk: str) -> None:
    assert first_turn(talk, "Q:", "A:") is None


def test_a_dialogue_is_split_after_the_last_mark() -> None:
    talk = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: So long."
    assert split_after(talk, "\n\nAssistant:") == (
        "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:",
        " So long.",
    )
    assert split_after("\n\nHuman: Hi\n\nAssistant: ", "\n\nAssistant:") is None, "nothing follows"
    assert split_after("Hi", "\n\nAssistant:") is None
