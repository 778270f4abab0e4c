"""The embedded default's world: a seeded corpus of product reviews and their openings.

It is pure Python, with nothing to download. A text is an opening (the prompt) and a response of one to six sentences:

    prompt    'The battery of this phone'
    response  ' seems useful for the office. My sister finds it boring in June.'

The corpus exists for two objectives that conflict: the response's VADER sentiment and its conciseness. VADER's compound
is s / sqrt(s^2 + 15), s the sum of the words' valences. So a sentence carries at most one polar word, mostly mild; the
shortest responses are neutral or mild; a high compound takes several sentences, which conciseness punishes. Neither
depends on the opening; complaints outweigh praise, so longer texts are a little more negative. Evaluation prompts are
about items that no training text or prompt mentions.
"""

import argparse
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from moa.errors import MoaError
from moa.tasks import review_grammar as grammar

SLOT = re.compile(r"\{(\w+)\}")
SENTENCES = (1, 2, 3, 4, 5, 6)
# attitude of a text -> chances that a sentence is positive, neutral, negative
ATTITUDES = ((0.85, 0.15, 0.0), (0.5, 0.35, 0.15), (0.25, 0.5, 0.25), (0.15, 0.35, 0.5), (0.0, 0.15, 0.85))
# More complaints than praise: an untrained policy has sentiment to gain, and one that only shortens gains none.
ATTITUDE_CHANCES = (0.12, 0.13, 0.2, 0.2, 0.35)
SHORT_FIRST = 0.6  # share of first sentences that are one short clause
SHORT_NEUTRAL = 0.6  # share of those that stay neutral whatever the attitude
LEAD = 0.4  # share of the sentences that can start with an adverbial and do


@dataclass(frozen=True)
class Review:
    """One text: `prompt + response` is the whole; the response starts with a space."""

    prompt: str
    response: str
    sentences: int


@dataclass(frozen=True)
class Corpus:
    """What `generate` returns; all four lists hold distinct entries, in a seeded order."""

    texts: list[Review]
    heldout: list[Review]
    train_prompts: list[str]
    evaluation_prompts: list[str]


@dataclass(frozen=True)
class Opening:
    """A prompt, the parts of its item, and whether it ends in a quality ('the price') rather than a thing."""

    prompt: str
    parts: tuple[str, ...]
    quality: bool


def generate(texts: int, heldout: int, train_prompts: int, evaluation_prompts: int, seed: int) -> Corpus:
    """Return a corpus of the given sizes; the same arguments give the same corpus, on every machine.

    Raises:
        MoaError: more prompts are asked for than there are different openings.
    """
    rng = random.Random(f"reviews {seed}")
    seen, unseen = openings(evaluation=False), openings(evaluation=True)
    for name, asked, there in (
        ("train_prompts", train_prompts, len(seen)),
        ("evaluation_prompts", evaluation_prompts, len(unseen)),
    ):
        if asked > there:
            raise MoaError(
                f"data.{name}: {asked} asked for, the embedded corpus has {there} different openings; lower it to"
                f" {there} or less"
            )
    reviews = _reviews(rng, seen, texts + heldout)
    prompts = [o.prompt for o in rng.sample(seen, train_prompts)]
    return Corpus(
        reviews[heldout:], reviews[:heldout], prompts, [o.prompt for o in rng.sample(unseen, evaluation_prompts)]
    )


def openings(evaluation: bool) -> list[Opening]:
    """Return every opening about the items kept for evaluation, or about all others, each once."""
    made: dict[str, Opening] = {}
    for trained, kept, parts in grammar.CATEGORIES:
        subjects = (
            (grammar.ITEM_OPENINGS, ()),
            (grammar.PART_OPENINGS, parts),
            (grammar.PART_OPENINGS, grammar.QUALITIES),
        )
        for item, (forms, named) in product(kept if evaluation else trained, subjects):
            quality = named is grammar.QUALITIES
            for form in forms:
                for prompt in _expand(form, {**grammar.NEUTRAL, "item": (item,), "part": named}):
                    made[prompt] = Opening(prompt, parts, quality)
    return list(made.values())


def _expand(form: str, slots: dict[str, tuple[str, ...]]) -> list[str]:
    """Every filling of a form."""
    names = SLOT.findall(form)
    return [form.format(**dict(zip(names, values, strict=True))) for values in product(*(slots[n] for n in names))]


def _reviews(rng: random.Random, seen: list[Opening], wanted: int) -> list[Review]:
    """`wanted` different reviews; a repeated one is drawn again with the same number of sentences."""
    made: dict[str, Review] = {}
    while len(made) < wanted:
        length = SENTENCES[len(made) % len(SENTENCES)]
        opening = rng.choice(seen)
        review = Review(opening.prompt, _response(rng, opening, length), length)
        made.setdefault(review.prompt + review.response, review)
    reviews = list(made.values())
    rng.shuffle(reviews)
    return reviews


def _response(rng: random.Random, opening: Opening, length: int) -> str:
    chances = rng.choices(ATTITUDES, ATTITUDE_CHANCES)[0]
    writer = Writer(rng, opening)
    return "".join(
        f" {writer.sentence(polarity, first=i == 0)}."
        for i, polarity in enumerate(rng.choices((1, 0, -1), chances, k=length))
    )


class Writer:
    """Writes the sentences of one review; it uses no form and no polar word twice."""

    def __init__(self, rng: random.Random, opening: Opening) -> None:
        self.rng = rng
        self.opening = opening
        self.used: set[str] = set()

    def sentence(self, polarity: int, first: bool) -> str:
        """Return a sentence without its full stop; the first one is a predicate that continues the opening."""
        if first:
            return self.fill(self.new(self.first_forms(polarity)), polarity)
        form = self.new(grammar.POLAR_SENTENCES if polarity else grammar.NEUTRAL_SENTENCES)
        if self.rng.random() < 0.4:
            form = (
                self.rng.choice(grammar.SUBJECTS)
                + " "
                + self.new(grammar.POLAR_PREDICATES if polarity else grammar.NEUTRAL_PREDICATES)
            )
        if form.startswith(grammar.LED) and not any(t in form for t in grammar.TIMED) and self.rng.random() < LEAD:
            form = self.new(grammar.LEADS) + " " + (form if form.startswith("I ") else form[0].lower() + form[1:])
        return self.fill(form, polarity)

    def first_forms(self, polarity: int) -> Sequence[str]:
        """Forms that may continue the opening; a short one is often neutral, whatever the polarity."""
        short, neutral = self.rng.random() < SHORT_FIRST, self.rng.random() < SHORT_NEUTRAL
        if polarity and not (short and neutral):
            return grammar.SHORT_POLAR if short else grammar.POLAR_PREDICATES
        if self.opening.quality:
            return grammar.SHORT_NEUTRAL_QUALITY if short else grammar.NEUTRAL_PREDICATES_QUALITY
        return grammar.SHORT_NEUTRAL if short else grammar.NEUTRAL_PREDICATES

    def new(self, choices: Sequence[str]) -> str:
        """A choice that this review has not used yet (every list is longer than a review)."""
        chosen = self.rng.choice([c for c in choices if c not in self.used] or choices)
        self.used.add(chosen)
        return chosen

    def fill(self, form: str, polarity: int) -> str:
        """Replace the slots, those inside fillers too."""
        short = form in grammar.SHORT_POLAR
        while SLOT.search(form):
            form = SLOT.sub(lambda match: self.word(match[1], polarity, short), form)
        return form

    def word(self, slot: str, polarity: int, short: bool) -> str:
        if slot in ("adj", "an"):
            tiers = grammar.ADJECTIVES[polarity]
            word = self.new(tiers[0] if short else self.rng.choices(tiers, grammar.STRENGTHS)[0])
            return word if slot == "adj" else article(word)
        if slot == "part":
            return self.new(self.opening.parts)
        by_polarity = {"verb": grammar.VERBS, "like": grammar.LIKES, "noun": grammar.NOUNS}
        return self.new(by_polarity[slot][polarity]) if slot in by_polarity else self.rng.choice(grammar.NEUTRAL[slot])


def article(word: str) -> str:
    """Return 'an odd', 'a useful': the word with its indefinite article."""
    return ("an " if word[0] in "aeiou" and not word.startswith("use") else "a ") + word


def statistics(corpus: Corpus) -> str:
    """Return Markdown tables: compound and characters by number of sentences, and what is reachable at which length."""
    import numpy as np
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # reads its lexicon on import

    vader = SentimentIntensityAnalyzer()
    compound = np.array([vader.polarity_scores(r.response)["compound"] for r in corpus.texts])
    characters = np.array([len(r.response) for r in corpus.texts])
    count = np.array([r.sentences for r in corpus.texts])
    words = {w for r in corpus.texts for w in re.findall(r"[a-z]+", (r.prompt + r.response).lower())}
    lines = [
        (
            f"{len(corpus.texts)} texts, {len({r.prompt for r in corpus.texts})} openings, {len(words)} words; "
            f"correlation of compound and characters {np.corrcoef(compound, characters)[0, 1]:+.3f}"
        ),
        "",
        "| sentences | texts | characters 5 / 50 / 95 % | compound 5 / 25 / 50 / 75 / 95 % | share of compound 0 |",
        "|---|---|---|---|---|",
    ]
    for n in SENTENCES:
        c, s = characters[count == n], compound[count == n]
        quantiles = " / ".join(f"{q:+.2f}" for q in np.quantile(s, (0.05, 0.25, 0.5, 0.75, 0.95)))
        lines.append(
            f"| {n} | {len(c)} | {' / '.join(f'{q:.0f}' for q in np.quantile(c, (0.05, 0.5, 0.95)))} | {quantiles} |"
            f" {np.mean(s == 0):.2f} |"
        )
    lines += ["", "| characters | texts | mean compound | 95 % | 99 % | largest |", "|---|---|---|---|---|---|"]
    edges = (0, 20, 40, 60, 80, 120, 160, 200, 400)
    for low, high in zip(edges, edges[1:], strict=False):
        s = compound[(characters >= low) & (characters < high)]
        if len(s):
            lines.append(
                f"| {low}..{high - 1} | {len(s)} | {s.mean():+.2f} | {np.quantile(s, 0.95):+.2f} |"
                f" {np.quantile(s, 0.99):+.2f} | {s.max():+.2f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Print statistics, or examples."""
    arguments = argparse.ArgumentParser(description="The embedded review corpus.")
    arguments.add_argument(
        "--statistics", action="store_true", help="print the tables of docs/data.md (otherwise examples)"
    )
    arguments.add_argument("--texts", type=int, default=20_000)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    corpus = generate(given.texts, 0, 0, 0, given.seed)
    print(
        statistics(corpus) if given.statistics else "\n".join(r.prompt + " |" + r.response for r in corpus.texts[:20])
    )


if __name__ == "__main__":
    main()
