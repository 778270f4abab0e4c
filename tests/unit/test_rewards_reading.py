"""What a reward model reads: the whole response, as text, whatever the length of the prompt."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from moa.errors import MoaError
from moa.experiment.rewards import Classifier
from moa.rewards import classifier, scoring
from moa.rewards.reading import Rows, encode
from tests import tiny_models, tiny_rewards

PIECES, BYTES = tiny_models.sentencepiece(), tiny_models.tokenizer()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_rewards.bert(tmp_path_factory.mktemp("reading") / "bert")


def spec(**keys: Any) -> Classifier:
    return Classifier.model_validate({"kind": "classifier", "source": "x", "template": "{prompt}{response}", **keys})


def read(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str, **keys: Any) -> tuple[str, Rows]:
    """One text's tokens as words, and what else is known of it."""
    made = encode("tiny", tokenizer, spec(**keys), [prompt], [response])
    return " ".join(tokenizer.convert_ids_to_tokens(made.encoded[0]["input_ids"])), made


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{prompt} {response}", "[CLS] plot was very dull [SEP]"),
        ("the {prompt} and {response} .", "[CLS] the and very dull . [SEP]"),
        ("{response} {prompt}", "[CLS] very dull plot was [SEP]"),  # the response comes first and stays all the same
        ("good {response} it {prompt} ends", "[CLS] good very dull it ends [SEP]"),
    ],
)
def test_the_prompt_is_cut_from_the_left_and_the_response_stays(
    bert: Path, side: str, template: str, expected: str
) -> None:
    """A window of 6 (7 for the second and fourth) tokens, [CLS] and [SEP] included; the prompt has four."""
    tokenizer = AutoTokenizer.from_pretrained(bert, truncation_side=side)
    limit = len(expected.split())
    words, made = read(tokenizer, "a film plot was", "very dull", template=template, max_length=limit)
    assert words == expected
    assert made.shortened == 1 and not made.truncated.any()


def test_a_pair_keeps_its_token_types(bert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bert)
    words, made = read(tokenizer, "a film plot was", "very dull", template="{prompt}", pair="{response}", max_length=7)
    assert words == "[CLS] plot was [SEP] very dull [SEP]"
    assert made.encoded[0]["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]


def test_a_response_that_does_not_fit_alone_keeps_its_end_and_is_flagged(bert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bert)
    words, made = read(tokenizer, "a film", "good bad very dull", template="{prompt} {response} .", max_length=5)
    assert words == "[CLS] very dull . [SEP]" and made.truncated.tolist() == [True]
    with pytest.raises(MoaError, match="reward tiny: the template alone takes 5 of max_length 5 tokens"):
        read(tokenizer, "a", "good", template="the plot . {response}", max_length=5)


def test_responses_to_a_long_prompt_get_scores_of_their_own(bert: Path) -> None:
    """What a window of the prompt alone made equal."""
    declared = {"kind": "classifier", "source": str(bert), "template": "{prompt} {response}", "max_length": 32}
    scorer = scoring.load("tiny", Classifier.model_validate(declared), [], "cpu")
    answers = ["good film", "very dull", "it ends well"]
    scores = scoring.score("tiny", scorer, ["the plot was " * 40] * 3, answers, floor=None)
    assert len(set(scores.values.tolist())) == 3 and not scores.truncated.any()


def test_more_than_half_of_the_responses_cut_is_an_error(bert: Path) -> None:
    declared = {"kind": "classifier", "source": str(bert), "max_length": 8}
    scorer = scoring.load("tiny", Classifier.model_validate(declared), [], "cpu")
    half = scoring.score("tiny", scorer, [""] * 4, ["good " * 7, "bad " * 7, "good", "bad"], floor=None)
    assert half.truncated.tolist() == [True, True, False, False]
    with pytest.raises(
        MoaError, match=r"reward tiny: 2 of 3 responses are longer .*at most 50 %.*rewards.tiny.max_len"
    ):
        scoring.score("tiny", scorer, [""] * 4, ["good " * 7, "bad " * 7, "good", " "], floor=None)


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
def test_only_the_templates_special_tokens_are_special(tokenizer: PreTrainedTokenizerBase) -> None:
    template = "{prompt}</s>{response}</s>"
    words, made = read(tokenizer, "Hi</s><s> there", " I hate you</s>", template=template)
    ids = made.encoded[0]["input_ids"]
    assert (ids.count(tokenizer.bos_token_id), ids.count(tokenizer.eos_token_id)) == (1, 2)
    assert ids[-1] == tokenizer.eos_token_id and ids[-2] != tokenizer.eos_token_id
    assert tokenizer.decode(ids).count("</s>") == 4, "and nothing is lost"


@pytest.mark.parametrize("mark", ["[SEP]", "[CLS]", "[PAD]", "<mask>", "<|im_end|>"])
def test_no_special_token_reaches_a_reward_from_a_text(bert: Path, mark: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bert)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<mask>", "<|im_end|>"]})
    marked = tokenizer.convert_tokens_to_ids(mark)
    assert marked in tokenizer(f"good {mark} film")["input_ids"], "by itself the tokenizer reads it"
    for prompt, response in ((f"good {mark} film", "bad"), ("good film", f"bad {mark}")):
        found = encode("tiny", tokenizer, spec(template="{prompt} {response}"), [prompt], [response]).encoded[0]
        plain = encode("tiny", tokenizer, spec(template="{prompt} {response}"), ["good film"], ["bad"]).encoded[0]
        assert found["input_ids"].count(marked) == plain["input_ids"].count(marked)


def test_a_normaliser_that_takes_marks_off_brings_no_special_token_back(bert: Path) -> None:
    """BERT's drops control characters; a special token that is looked for after it would be found again."""
    tokenizer = copy.deepcopy(AutoTokenizer.from_pretrained(bert))
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<stop>", normalized=True, special=True)])
    stop = tokenizer.convert_tokens_to_ids("<stop>")
    assert stop in tokenizer("good <stop>")["input_ids"]
    assert (
        stop
        not in encode("tiny", tokenizer, spec(template="{response}"), [""], ["good <stop>"]).encoded[0]["input_ids"]
    )


TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs", "Cn"]), st.sampled_from("</s>pad ")), max_size=40)


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, st.integers(12, 40))
def test_the_response_is_read_whole_or_flagged(prompt: str, response: str, limit: int) -> None:
    """Byte-level tokens decode to exactly their text, so that what is read can be compared with what was said."""
    made = encode("tiny", BYTES, spec(template="A: {prompt} B:{response}.", max_length=limit), [prompt], [response])
    ids = made.encoded[0]["input_ids"]
    whole = BYTES.decode(ids[1:])
    assert len(ids) <= limit and ids[0] == BYTES.bos_token_id
    if not made.shortened and not made.truncated[0]:
        assert whole == f"A: {prompt} B:{response}."
    elif not made.truncated[0]:
        assert whole.endswith(f" B:{response}.") and whole.startswith("A:")
    assert not np.isin(ids[1:], [0, 1, 2]).any()


def test_that_prompts_are_cut_is_said_once(bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    declared = {"kind": "classifier", "source": str(bert), "template": "{prompt} {response}", "max_length": 8}
    scorer = classifier.load("tiny", Classifier.model_validate(declared), [], "cpu")
    with caplog.at_level("INFO", "moa"):
        for _ in range(2):
            scorer.score(["the plot was " * 9, "a film"], ["good", "bad"])
    assert caplog.text.count("reward tiny: 1 of 2 prompts were cut from the left to max_length 8") == 1
