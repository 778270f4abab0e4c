"""The near-duplicate rule, by hand and against the definition."""

from hypothesis import given
from hypothesis import strategies as st

from moa.tasks.duplicates import SIMILARITY, Near, normalise, similarity

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=14).map(" ".join)
LONG = "one two three four five six seven eight nine ten eleven twelve"


def test_normalise() -> None:
    assert normalise("  Don’t  SHOUT, please! ") == "dont shout please"
    assert normalise("Straße ﬁne") == "strasse fine"
    assert normalise("?!") == "?!", "without words the text stands for itself"


def test_similarity_by_hand() -> None:
    # 12 words have 10 three-word runs; another last word changes one of them: 9 shared of 11
    assert similarity(LONG, LONG.replace("twelve", "zwölf")) == 9 / 11
    # 11 words have 9; 8 shared of 10
    assert similarity(LONG.removesuffix(" twelve"), LONG.replace("eleven twelve", "elf")) == 8 / 10
    assert similarity("too short", "too short") == 0.0, "no three words: only equality counts"


def test_the_border_counts_as_a_near_duplicate() -> None:
    near = Near([LONG.removesuffix(" twelve")])
    assert near.matches(LONG.replace("eleven twelve", "elf")), "0.8"
    # 10 words have 8; 7 shared of 9 = 0.78
    assert not Near([LONG.removesuffix(" eleven twelve")]).matches(LONG.replace("ten eleven twelve", "zehn"))


def test_case_and_punctuation_do_not_count() -> None:
    near = Near(["What's new?"])
    assert near.matches("whats new") and near.matches("WHAT’S, NEW") and not near.matches("what is new")


def test_openings_that_differ_in_a_word_are_no_duplicates() -> None:
    assert not Near(["The battery of this phone"]).matches("The battery of this lamp")


@given(st.lists(WORDS, max_size=6), WORDS)
def test_the_index_agrees_with_the_definition(texts: list[str], text: str) -> None:
    expected = any(normalise(text) == normalise(other) or similarity(text, other) >= SIMILARITY for other in texts)
    assert Near(texts).matches(text) == expected


@given(st.text(), st.text())
def test_similarity_is_symmetric_and_everything_resembles_itself(first: str, second: str) -> None:
    assert similarity(first, second) == similarity(second, first)
    assert 0.0 <= similarity(first, second) <= 1.0
    assert Near([first]).matches(first)


@given(WORDS, WORDS)
def test_matching_is_symmetric(first: str, second: str) -> None:
    assert Near([first]).matches(second) == Near([second]).matches(first)
