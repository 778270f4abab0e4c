"""The embedded corpus: deterministic, clean splits, and statistics that make the two objectives conflict."""

import hashlib
import re
from itertools import chain

import numpy as np
import pytest
from vaderSentiment.vaderSentiment import BOOSTER_DICT, NEGATE, SentimentIntensityAnalyzer

from moa.errors import MoaError
from moa.tasks import review_grammar as grammar
from moa.tasks.duplicates import Near
from moa.tasks.reviews import Corpus, article, generate, openings, statistics

VADER = SentimentIntensityAnalyzer()
POLAR = {w for tiers in grammar.ADJECTIVES.values() for tier in tiers for w in tier} | {
    w for words in (grammar.VERBS, grammar.LIKES, grammar.NOUNS) for side in words.values() for w in side
}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate(20_000, 400, 4_000, 200, seed=0)


@pytest.fixture(scope="module")
def compound(corpus: Corpus) -> np.ndarray:
    return np.array([VADER.polarity_scores(review.response)["compound"] for review in corpus.texts])


@pytest.fixture(scope="module")
def characters(corpus: Corpus) -> np.ndarray:
    return np.array([len(review.response) for review in corpus.texts])


def test_the_same_arguments_give_the_same_corpus_everywhere() -> None:
    made = generate(300, 20, 50, 10, seed=7)
    assert made == generate(300, 20, 50, 10, seed=7)
    assert made.texts != generate(300, 20, 50, 10, seed=8).texts
    # Changes with the grammar only; written down to catch a dependence on the machine or the version of Python.
    assert hashlib.sha256(repr(made).encode()).hexdigest()[:12] == "a8e707d6add2"


def test_sizes_and_distinctness(corpus: Corpus) -> None:
    whole = [r.prompt + r.response for r in corpus.texts + corpus.heldout]
    assert (len(corpus.texts), len(corpus.heldout), len(set(whole))) == (20_000, 400, 20_400)
    assert (len(set(corpus.train_prompts)), len(set(corpus.evaluation_prompts))) == (4_000, 200)


def test_no_training_text_or_prompt_mentions_an_item_of_the_evaluation(corpus: Corpus) -> None:
    kept = [item for _, items, _ in grammar.CATEGORIES for item in items]
    pattern = re.compile(r"\b(" + "|".join(kept) + r")\b", re.IGNORECASE)
    trained = [r.prompt + r.response for r in corpus.texts + corpus.heldout] + corpus.train_prompts
    assert [text for text in trained if pattern.search(text)] == []
    assert all(pattern.search(prompt) for prompt in corpus.evaluation_prompts)


def test_train_prompts_are_no_near_duplicates_of_evaluation_prompts() -> None:
    near = Near(opening.prompt for opening in openings(evaluation=True))
    assert [opening.prompt for opening in openings(evaluation=False) if near.matches(opening.prompt)] == []


def test_a_text_is_opening_and_sentences(corpus: Corpus) -> None:
    for review in corpus.texts[:2000]:
        assert review.response.startswith(" ") and review.response.endswith(".") and "  " not in review.response
        assert review.response.count(".") == review.sentences and 1 <= review.sentences <= 6
        assert not re.search(r"[{}]", review.prompt + review.response)


def test_any_predicate_continues_any_opening() -> None:
    # A singular subject at the end of each opening, a verb in the third person singular at the start of each predicate.
    assert {form.rsplit(" ", 1)[-1] for form in grammar.PART_OPENINGS + grammar.ITEM_OPENINGS} <= {
        "{item}",
        "{part}",
        "it",
        "one",
        "ordered",
        "shop",
    }
    predicates = (
        grammar.SHORT_NEUTRAL,
        grammar.SHORT_NEUTRAL_QUALITY,
        grammar.SHORT_POLAR,
        grammar.NEUTRAL_PREDICATES,
        grammar.NEUTRAL_PREDICATES_QUALITY,
        grammar.POLAR_PREDICATES,
    )
    verbs = {form.split(" ", 1)[0] for form in chain(*predicates)}
    present = {"is", "seems", "looks", "feels", "has", "stays", "stands", "comes", "belongs", "{verb}"}
    past = {"came", "arrived", "was", "took", "turned", "became"}
    assert verbs <= present | past


def test_only_polar_words_carry_valence(corpus: Corpus) -> None:
    vocabulary = set(chain.from_iterable(words(r.prompt + r.response) for r in corpus.texts)) | set(
        chain.from_iterable(words(p) for p in corpus.evaluation_prompts)
    )
    degrees = set(chain.from_iterable(d.split() for d in grammar.NEUTRAL["degree"]))
    assert {w for w in vocabulary - POLAR if w in VADER.lexicon or w in NEGATE} == set()
    assert {w for w in vocabulary if w in BOOSTER_DICT} <= degrees
    assert 400 <= len(vocabulary) <= 600


def test_polar_words_have_the_sign_and_strength_of_their_list() -> None:
    bounds = ((0.4, 1.4), (1.3, 2.1), (2.1, 3.1))
    for sign, tiers in grammar.ADJECTIVES.items():
        for (low, high), tier in zip(bounds, tiers, strict=True):
            assert {w for w in tier if not low <= sign * VADER.lexicon[w] <= high} == set()
    for lists in (grammar.VERBS, grammar.LIKES, grammar.NOUNS):
        assert all(sign * VADER.lexicon[w] > 0 for sign, side in lists.items() for w in side)
    assert [len(t) for t in grammar.ADJECTIVES[1]] == [len(t) for t in grammar.ADJECTIVES[-1]]


def test_a_sentence_carries_at_most_one_polar_word(corpus: Corpus) -> None:
    for review in corpus.texts[:3000]:
        assert max(sum(w in POLAR for w in words(part)) for part in review.response.split(".")) <= 1


def test_sentiment_depends_little_on_length_and_not_on_the_opening(
    corpus: Corpus, compound: np.ndarray, characters: np.ndarray
) -> None:
    # Complaints outweigh praise, and more sentences hold more of them: longer texts are a little more negative.
    assert -0.15 < np.corrcoef(compound, characters)[0, 1] < -0.09
    first = np.array([r.prompt.split()[0] for r in corpus.texts])
    for word in ("The", "I", "My", "This", "Next", "We"):
        chosen = compound[first == word]
        assert abs(chosen.mean() - compound.mean()) < 4 * compound.std() / np.sqrt(len(chosen)), word


def test_short_texts_are_mild_and_a_high_compound_takes_several_sentences(
    corpus: Corpus, compound: np.ndarray, characters: np.ndarray
) -> None:
    sentences = np.array([r.sentences for r in corpus.texts])
    # One mild word: praise of 1.8 gives 1.8 / sqrt(1.8^2 + 15) = 0.42, a complaint of 2.1 gives -0.48
    assert compound[characters < 20].max() <= 0.43
    assert compound[characters < 20].min() >= -0.48
    assert 0.4 <= np.mean(compound[sentences == 1] == 0) <= 0.7
    assert 0.3 <= np.quantile(compound[sentences == 1], 0.95) <= 0.5
    # Six words of valence 1.6: 9.6 / sqrt(9.6^2 + 15) = 0.93
    assert np.quantile(compound[sentences == 6], 0.95) >= 0.9
    assert compound[characters < 60].max() < 0.85


def test_lengths_span_the_range_of_conciseness(corpus: Corpus, characters: np.ndarray) -> None:
    sentences = np.array([r.sentences for r in corpus.texts])
    assert np.median(characters[sentences == 1]) < 30
    assert np.quantile(characters[sentences == 6], 0.05) > 180
    assert np.bincount(sentences)[1:].min() > 3300, "every number of sentences is as frequent"


def test_more_prompts_than_openings_is_an_error() -> None:
    there = len(openings(evaluation=True))
    with pytest.raises(MoaError, match=rf"evaluation_prompts: {there + 1} asked for, the embedded corpus has {there}"):
        generate(10, 1, 1, there + 1, seed=0)


def test_article() -> None:
    assert [article(w) for w in ("odd", "useful", "easy", "nice", "useless", "unstable")] == [
        "an odd",
        "a useful",
        "an easy",
        "a nice",
        "a useless",
        "an unstable",
    ]


def test_the_table_of_the_documentation() -> None:
    table = statistics(generate(120, 0, 0, 0, seed=0))
    assert table.startswith("120 texts") and table.count("\n| ") >= 6 + 2
