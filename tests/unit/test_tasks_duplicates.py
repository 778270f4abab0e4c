"""The near-duplicate rule, by hand and against the definition."""

from hypothesis import given
from hypothesis import strategies as st

from moa.tasks.duplicates import SIMILARITY, Near, common, normalise, similarity

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


def test_what_many_texts_share_does_not_count() -> None:
    """94 words before each of 40 prompts of six; another last word makes 3 of 4 word triples equal, 3 / 5."""
    instruction = " ".join(f"rule{n}" for n in range(94))
    prompts = [f"{instruction} {' '.join(f'p{n}w{k}' for k in range(6))}" for n in range(40)]
    assert Near(prompts[:1]).matches(prompts[1]), "92 of 104 triples are the instruction's"
    shared = common(prompts)
    assert len(shared) == 92
    near = Near(prompts[:1], shared)
    assert near.matches(prompts[0].upper())
    assert not any(map(near.matches, prompts[1:]))
    # 12 words: 10 triples and 2 over the seam; the last word is in one of them: 11 / 13
    assert Near([f"{instruction} {LONG}"], shared).matches(f"{instruction} {LONG}".replace("twelve", "zwölf"))


def test_common_is_more_than_a_twentieth_of_the_texts_and_more_than_ten() -> None:
    assert common(["the same five words here", *(f"text {n} of my own" for n in range(9))]) == frozenset()
    for count, found in ((10, 0), (11, 2)):
        assert len(common(["one two three four"] * count)) == found
    texts = [*["one two three four"] * 101, *(f"a{n} b{n} c{n}" for n in range(1899))]
    assert len(common(texts)) == 2 and not common(texts[1:] + ["x y z"]), "101 and 100 of 2 000"
