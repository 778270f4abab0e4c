"""Sampling and decoding: where a response ends, and that its text is exactly what was sampled."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, PreTrainedTokenizerFast

from moa.errors import MoaError
from moa.experiment.keys import Generation, Model
from moa.lm import models
from moa.lm.conditioning import continuation_rows
from moa.lm.generation import Decoding, Rollout, Sampler, decode, end_tokens, finish
from moa.lm.reader import PolicyReader
from tests import tiny_models

BYTES, PIECES = tiny_models.tokenizer(), tiny_models.sentencepiece()
SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", "<0x")


def rollout(
    model: torch.nn.Module, prompts: list[str], seed: int, decoding: Decoding = Decoding(12, 1.0, 1.0)
) -> Rollout:
    keys = [f"{seed} {i}" for i in range(len(prompts))]
    return Sampler(BYTES, decoding, 128).draw(PolicyReader(model), prompts, keys)


def ending(model: torch.nn.Module, token: str) -> torch.nn.Module:
    """The model with all its weight on one token, which is said as soon as it may be."""
    model.get_output_embeddings().weight.data.zero_()
    bias = torch.zeros(len(BYTES))
    bias[BYTES.convert_tokens_to_ids(token)] = 50.0
    model.lm_head.bias = torch.nn.Parameter(bias)
    return model


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([BYTES, PIECES]), st.text(min_size=1, max_size=30))
def test_decoding_changes_nothing(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    """A response decodes to itself, its first space and all white space included."""
    if any(token in text for token in SPECIAL) or "\u2581" in text:
        return
    # within a word, SentencePiece has no token that starts a response
    text = text if tokenizer is BYTES else " " + text
    ((_, tail),) = continuation_rows(["I like"], [text], tokenizer)
    assert decode([tail], tokenizer) == [text]


def test_decoding_skips_special_tokens_only() -> None:
    ids = [
        BYTES.bos_token_id,
        *BYTES(" a</ s>", add_special_tokens=False)["input_ids"],
        BYTES.pad_token_id,
        BYTES.eos_token_id,
    ]
    assert decode([ids], BYTES) == [" a</ s>"], "no stripping of character sets: '</ s>' is text"


def test_what_follows_the_end_token_is_padding() -> None:
    """Prompt of 1 token; responses 5 6 EOS 7, EOS EOS 8 9 and 5 6 7 8, with EOS = 1 and pad = 2."""
    full = torch.tensor([[0, 5, 6, 1, 7], [0, 1, 1, 8, 9], [0, 5, 6, 7, 8]])
    made = finish(full, torch.ones(3, 1, dtype=torch.long), [1], 2, BYTES)
    assert made.ids.tolist() == [[0, 5, 6, 1, 2], [0, 1, 2, 2, 2], [0, 5, 6, 7, 8]]
    assert made.response_mask.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert made.finished.tolist() == [True, True, False]
    assert made.texts[1] == ""


def test_width_is_that_of_the_longest_response() -> None:
    full = torch.tensor([[0, 5, 1, 2, 2], [0, 1, 2, 2, 2]])
    made = finish(full, torch.ones(2, 1, dtype=torch.long), [1], 2, BYTES)
    assert made.response == 2
    assert made.ids.shape == (2, 3)


def test_pad_may_be_the_end_token() -> None:
    """Only the first end token belongs to the response, the rest pads."""
    full = torch.tensor([[0, 5, 1, 1, 1]])
    made = finish(full, torch.ones(1, 1, dtype=torch.long), [1], 1, BYTES)
    assert made.response_mask.tolist() == [[1, 1]]


def test_the_seed_decides() -> None:
    model = tiny_models.model()
    first, again, other = (rollout(model, ["The lamp", "My"], seed).texts for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_end_token_never_comes_first() -> None:
    """A model that wants to end at once must say one token before it may."""
    model = ending(tiny_models.model(), BYTES.eos_token)
    made = rollout(model, ["The lamp"] * 8, seed=0)
    assert (made.response_mask.sum(1) == 2).all(), "one token, then the end"
    assert made.finished.all()


def test_padding_does_not_change_what_is_likely() -> None:
    """Sampling almost greedily, a prompt gets the same answer alone and beside a longer one."""
    model, greedy = tiny_models.model(), Decoding(8, 1e-4, 1.0)
    alone = rollout(model, ["My"], 0, greedy).texts[0]
    beside = rollout(model, ["My", "The battery of the old radio that we bought"], 0, greedy).texts[0]
    assert alone == beside


@pytest.mark.parametrize("top_p", [1.0, 1e-6])
def test_top_p(top_p: float) -> None:
    """With a tiny nucleus every draw is the most likely token, so all rows agree."""
    made = rollout(tiny_models.model(), ["The lamp"] * 6, 0, Decoding(6, 1.0, top_p))
    assert (len(set(made.texts)) == 1) == (top_p < 1)


def test_every_end_token_that_the_models_files_name_ends_a_response(tmp_path: Path) -> None:
    """As Gemma's and Llama 3's: the tokenizer ends documents, generation_config ends turns, too."""
    turn = BYTES.convert_tokens_to_ids("!")
    made = tiny_models.model()
    made.generation_config = GenerationConfig(eos_token_id=[BYTES.eos_token_id, turn], temperature=0.1, do_sample=True)
    made.save_pretrained(tmp_path)
    model = models.load_base(tmp_path, Model(source=str(tmp_path)))
    assert end_tokens(model, BYTES) == [BYTES.eos_token_id, turn]
    assert model.generation_config.temperature is None, "its sampling defaults do not count"
    drawn = rollout(ending(model, "!"), ["The lamp", "My"], 0)
    assert drawn.finished.all() and (drawn.response_mask.sum(1) == 2).all(), "not first, but then"
    assert not any("!" in text for text in drawn.texts), "an end token is no text"


def test_stop_names_more_end_tokens() -> None:
    model = ending(tiny_models.model(), "?")
    assert not rollout(model, ["My"], 0).finished.any()
    stopped = rollout(model, ["My"], 0, Decoding(12, 1.0, 1.0, ("?",)))
    assert stopped.finished.all() and stopped.response == 2
    with pytest.raises(MoaError, match=r"generation.stop: 'Human: it' is \d+ tokens of .*name single tokens"):
        rollout(model, ["My"], 0, Decoding(12, 1.0, 1.0, ("Human: it",)))
    assert Decoding.evaluation(Generation(stop=["?"])).stop == ("?",) == Decoding.training(Generation(stop=["?"])).stop


def test_end_tokens_beyond_the_vocabulary_are_none() -> None:
    model = tiny_models.model()
    model.generation_config.eos_token_id = [10**6, -1, BYTES.eos_token_id]
    assert end_tokens(model, BYTES) == [BYTES.eos_token_id]
