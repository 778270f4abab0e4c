"""Words and sentence forms of the embedded review corpus (moa/tasks/reviews.py).

Slots of a form: {item} the product, {part} one of its parts or qualities, {adj} an adjective of the sentence's
polarity, {an} the same with its article, {verb}, {like} and {noun} likewise; the rest are neutral fillers, named as the
lists below. Every opening ends in a singular subject and every predicate starts with a verb in the third person
singular, so that any predicate continues any opening. Only the POLAR words have an entry in VADER's lexicon (a test
checks the others).
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# items seen in training; items kept for evaluation (new words, and new pairs of known words); parts
CATEGORIES: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (
        (
            "phone",
            "laptop",
            "tablet",
            "camera",
            "radio",
            "printer",
            "clock",
            "watch",
            "keyboard",
            "headset",
            "desk lamp",
        ),
        ("speaker", "scanner", "wall clock"),
        _words("battery screen cable button switch display plug lens cover case"),
    ),
    (
        (
            "kettle",
            "toaster",
            "blender",
            "pan",
            "pot",
            "oven",
            "fridge",
            "grill",
            "coffee machine",
            "tea pot",
            "bread knife",
        ),
        ("mixer", "coffee pot", "bread machine"),
        _words("handle lid cord rim base timer dial motor filter surface"),
    ),
    (
        ("chair", "desk", "table", "shelf", "sofa", "bed", "mirror", "stool", "lamp", "garden bench", "coffee table"),
        ("cabinet", "garden table", "wardrobe"),
        _words("seat frame leg drawer door back wood edge base surface"),
    ),
    (
        ("jacket", "coat", "bag", "boot", "hat", "shirt", "scarf", "wallet", "suitcase", "school bag", "rain coat"),
        ("backpack", "glove", "rain hat"),
        _words("zip fabric strap lining sole pocket seam sleeve collar button"),
    ),
    (
        ("drill", "hammer", "tent", "bike", "ladder", "hose", "saw", "pump", "helmet", "garden fork", "wood saw"),
        ("mower", "rake", "garden saw"),
        _words("grip pole wheel valve chain cover handle frame hook lock"),
    ),
    (
        ("doll", "puzzle", "kite", "ball", "robot", "drum", "board game", "train set", "paint box", "toy car"),
        ("puppet", "card game", "toy robot"),
        _words("string box cord body head cover base wheel board lid"),
    ),
)
QUALITIES = _words("price colour size weight design shape manual delivery")

ITEM_OPENINGS = (
    "This {item}",
    "My new {item}",
    "The {item} that we ordered",
    "The {item} from this shop",
    "I think this {item}",
    "In my view this {item}",
    "After {number} months this {item}",
    "I bought this {item} in {spring} and it",
    "We use this {item} {indoors} and it",
    "Next to my old {item} this one",
    "My {giver} gave me this {item} and it",
)
PART_OPENINGS = (
    "The {part} of this {item}",
    "The {part} of my {item}",
    "The {part} of the new {item}",
    "I bought this {item} and the {part}",
    "We ordered the {item} and the {part}",
    "My {giver} gave me this {item} and the {part}",
    "After a week the {part} of my {item}",
    "I think the {part} of this {item}",
    "To me the {part} of this {item}",
    "Last week I got this {item} and the {part}",
    "For this price the {part} of the {item}",
    "In my view the {part} of this {item}",
)

# Predicates: short ones carry a neutral or a mild word. A quality (a price, a delivery) has neutral predicates of its
# own.
SHORT_NEUTRAL = (
    "is {colour}",
    "is {plain}",
    "looks {plain}",
    "came on {day}",
    "arrived on {day}",
    "arrived in {month}",
    "is made of {material}",
    "came with a {extra}",
    "has a {colour} {extra}",
    "is {plain} and {colour}",
    "is the {plain} type",
    "is the same as before",
    "was sent in {month}",
    "stays {where}",
)
SHORT_NEUTRAL_QUALITY = (
    "is {usual}",
    "seems {usual}",
    "is {usual} {now}",
    "is as {usual} as before",
    "is the same as before",
    "was {usual} {past}",
    "seems {usual} to me",
    "stays the same",
)
SHORT_POLAR = (
    "is {adj} {now}",
    "seems {adj} {now}",
    "looks {adj} {now}",
    "feels {adj} {now}",
    "is {degree} {adj}",
    "seems {degree} {adj}",
    "is {adj}",
    "is {adj} to me",
)
NEUTRAL_PREDICATES = (
    "came in a {colour} box {past}",
    "was sent to us {past}",
    "is made of {material} and looks {plain}",
    "is about as {size} as the old one",
    "stands {where} {when}",
    "is the same as in the picture",
    "has a {extra} made of {material}",
    "comes with a {colour} {extra}",
    "took {number} days to arrive",
    "belongs to my {who} {now}",
)
NEUTRAL_PREDICATES_QUALITY = (
    "is the same as in the picture",
    "is about the same as last year",
    "is as {usual} as in the shop",
    "seems {usual} for this type",
    "is {usual} {use}",
    "was {usual} when it came {past}",
    "is the {usual} one for my {who}",
)
POLAR_PREDICATES = (
    "is {adj} {use}",
    "is {adj} {when}",
    "is {degree} {adj} {use}",
    "seems {adj} {when}",
    "seems {degree} {adj} {use}",
    "looks {adj} {where}",
    "looks {adj} {when}",
    "feels {adj} when I use it {where}",
    "feels {degree} {adj} {when}",
    "turned out {adj} {use}",
    "has been {adj} since {month}",
    "has been {adj} since the first day",
    "is {an} {thing} {use}",
    "became {adj} {past}",
    "was {degree} {adj} {past}",
    "{verb} me {when}",
    "{verb} my {who} {when}",
    "was a {noun} {use}",
    "stays {adj} {when}",
    "looks {adj} and {colour} {when}",
)

# Later sentences: a subject with a predicate, or one of these.
SUBJECTS = ("It", "It", "It", "The {part}", "The {part}", "Its {part}", "The whole {part}", "This one")
NEUTRAL_SENTENCES = (
    "It came in a {colour} box {past}",
    "The {part} is made of {material}",
    "I keep it {where} {when}",
    "My {who} uses it {where}",
    "My {who} has the {colour} one",
    "We ordered it on a {day}",
    "The shop sent it in {month}",
    "It weighs about {number} kilos",
    "The {part} has the same {quality} as before",
    "It stands {where} {when}",
    "I use it {where} {when}",
    "The {part} is {plain} and {colour}",
    "There is a {extra} on the {part}",
    "It took {number} days to arrive",
    "The manual has {number} pages",
    "We carry it {where} {when}",
    "I bought it {use}",
    "My {who} bought one {past}",
    "The {part} sits next to the {part}",
    "The old one was {plain} and {colour}",
    "It has a {colour} {extra} on the {part}",
    "We put it {where} {past}",
    "I showed it to my {who} {past}",
    "It comes in {colour} and {colour}",
    "The {quality} is about the same as before",
    "The {quality} seems {usual} for this type",
)
POLAR_SENTENCES = (
    "I find it {adj} {use}",
    "I find the {part} {adj} {when}",
    "I found it {degree} {adj} {past}",
    "My {who} finds it {adj} {when}",
    "My {who} finds the {part} {degree} {adj}",
    "My {who} calls the {part} {adj}",
    "We call it {adj} {where}",
    "We use it {where} and it is {adj}",
    "We use it {when} and it seems {adj}",
    "I {like} the {part} {when}",
    "I {like} it when we are {where}",
    "I {like} the {quality} of the {part}",
    "To me the {part} seems {degree} {adj}",
    "To my {who} it is {an} {thing}",
    "The {part} is {adj} and the {part} is {colour}",
    "The {part} is {colour} and the {quality} is {adj}",
    "The {quality} of the {part} is {adj}",
    "The {quality} is {adj} {use}",
    "It is {an} {thing} {use}",
    "It is {an} {thing} with a {colour} {part}",
    "I would call it {an} {thing} {use}",
    "I would call the {part} {degree} {adj}",
    "It was a {noun} when it came {past}",
    "For us the {part} was a {noun}",
    "The {part} was a {noun} {use}",
    "The {part} {verb} me {when}",
    "It {verb} my {who} {when}",
    "It {verb} us when we use it {where}",
    "All of us find the {part} {adj}",
    "It still looks {adj} {where}",
    "It still feels {adj} {when}",
    "The {part} turned out {adj} {use}",
)
# Adverbials before a sentence that starts with one of LED and says nothing about time itself.
LEADS = (
    "At home",
    "By now",
    "In daily use",
    "At this price",
    "In the end",
    "In my view",
    "Once again",
    "As a rule",
    "In fact",
    "With time",
)
LED = ("It ", "The ", "My ", "We ", "I ")
TIMED = ("{when}", "{past}", "{now}", "since", "old one")

# POLAR words by strength: |valence| up to 1.4, up to 2.1, above. Counts are equal on both sides.
ADJECTIVES: dict[int, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    1: (
        _words("fine okay solid adequate fair acceptable stable fresh cool calm secure robust"),
        _words(
            "clear smart clean nice helpful good useful safe easy bright neat clever cute elegant enjoyable interesting"
            " efficient lively"
        ),
        _words("pleasant comfortable strong lovely great perfect"),
    ),
    -1: (
        _words("awkward weird noisy strange shaky gloomy risky hard limited odd boring unimpressive"),
        _words(
            "loose faulty dreary messy unstable difficult uncomfortable dull inferior annoying lame useless weak dirty"
            " harsh poor wrong broken"
        ),
        _words("ugly bad unpleasant disappointing terrible horrible"),
    ),
}
STRENGTHS = (0.35, 0.55, 0.10)
VERBS = {
    1: _words("helps pleases supports relaxes satisfies amuses impresses comforts"),
    -1: _words("annoys bothers disappoints irritates confuses bores worries frustrates"),
}
LIKES = {
    1: _words("like like enjoy trust appreciate welcome recommend love"),
    -1: _words("dislike dislike regret doubt distrust avoid blame hate"),
}
NOUNS = {
    1: _words("bargain surprise benefit gift comfort treat relief pleasure"),
    -1: _words("problem mistake risk waste mess fault burden disappointment"),
}

NEUTRAL: dict[str, tuple[str, ...]] = {
    "quality": QUALITIES,
    "number": _words("two three four five six ten"),
    "day": _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "spring": ("March", "April", "June"),
    "giver": ("sister", "father", "uncle"),
    "indoors": ("at home", "at work", "at school"),
    "usual": _words("standard average normal ordinary basic typical simple modern"),
    "month": _words("January March April June July August October"),
    "colour": _words("blue black white green brown red yellow silver"),
    "material": _words("plastic wood steel cotton leather glass rubber paper"),
    "plain": _words(
        "plain new small large simple standard average normal ordinary basic typical modern light heavy round square"
        " flat thin"
    ),
    "size": _words("small large big wide long heavy thin tall"),
    "extra": _words("label note card bag cloth stand hook lock sticker picture"),
    "thing": _words("choice tool piece thing purchase item addition"),
    "degree": ("rather", "quite", "very", "really", "fairly", "a bit", "somewhat"),
    "now": ("now", "today", "these days", "at home", "at work"),
    "who": _words("sister brother mother father wife husband son daughter aunt uncle cousin teacher neighbour"),
    "when": (
        "in the morning",
        "in the evening",
        "on a {day}",
        "in {month}",
        "each day",
        "at night",
        "in the winter",
        "in the summer",
        "on days with rain",
        "at the weekend",
        "by the end of the day",
        "when guests come",
        "after an hour of use",
        "before work",
        "after a long day",
        "when it is cold",
    ),
    "past": (
        "last week",
        "last month",
        "after a week",
        "after {number} months",
        "in {month}",
        "on {day}",
        "on the first day",
        "in the first week",
        "before the summer",
    ),
    "where": (
        "at home",
        "at work",
        "in the kitchen",
        "in the office",
        "in the garage",
        "in the garden",
        "in our hall",
        "at school",
        "on the train",
        "by the window",
        "on the road",
        "near the door",
        "at the beach",
        "in the bedroom",
        "next to the old one",
    ),
    "use": (
        "for daily use",
        "for a small kitchen",
        "for a large family",
        "for the office",
        "for a long trip",
        "for two people",
        "for the children",
        "for my {who}",
        "for a beginner",
        "for the weekend",
        "for a student",
        "for people at work",
        "for the garden",
        "for short trips",
        "for old people",
        "at this price",
    ),
}
