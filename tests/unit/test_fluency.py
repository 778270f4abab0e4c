"""NLL per token of a response, against the arithmetic done token by token."""

import math

import numpy as np
import pytest
import torch

from moa.errors import MoaError
from moa.lm import fluency
from tests import tiny_models

BYTES = tiny_models.tokenizer()


def by_hand(model: torch.nn.Module, prompt: str, response: str) -> float:
    """-(1/T) sum_t log p(y_t | x, y_<t), one forward pass per token."""
    ids = BYTES(prompt)["input_ids"]
    terms = []
    for token in BYTES(response, add_special_tokens=False)["input_ids"]:
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        terms.append(-torch.log_softmax(logits, -1)[token].item())
        ids = [*ids, token]
    return sum(terms) / len(terms)


def test_against_one_token_at_a_time() -> None:
    model = tiny_models.model()
    prompts, responses = ["The lamp", "My sister bought", "It"], [" is good", " a useful old thing", "?"]
    read = fluency.measure(model, BYTES, prompts, responses, 128)
    assert read.nll == pytest.approx([by_hand(model, p, r) for p, r in zip(prompts, responses, strict=True)], abs=1e-4)
    assert read.tokens == sum(len(BYTES(p + r)["input_ids"]) for p, r in zip(prompts, responses, strict=True))


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    reviews = tiny_models.texts()[:12]
    arguments = (tiny_models.model(), BYTES, [r.prompt for r in reviews], [r.response[:40] for r in reviews], 128)
    together = fluency.measure(*arguments)
    monkeypatch.setattr(fluency, "LOGITS", 1)  # one row at a time
    assert fluency.measure(*arguments).nll == pytest.approx(together.nll, abs=1e-4)


def test_too_little_memory_halves_the_rows_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reviews = tiny_models.texts()[:12]
    arguments = (tiny_models.model(), BYTES, [r.prompt for r in reviews], [r.response[:40] for r in reviews], 128)
    expected = fluency.measure(*arguments)
    run = fluency._chunk
    sizes: list[int] = []

    def limited(model: torch.nn.Module, pairs: list[tuple[list[int], list[int]]], pad: int) -> torch.Tensor:
        sizes.append(len(pairs))
        if len(pairs) > 2:
            raise torch.OutOfMemoryError("a limit of two rows")
        return run(model, pairs, pad)

    monkeypatch.setattr(fluency, "_chunk", limited)
    assert fluency.measure(*arguments).nll == pytest.approx(expected.nll, abs=1e-4)
    assert sizes == [12, 6, 3, 1, *[1] * 11]
    monkeypatch.setattr(fluency, "_chunk", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(MoaError, match=r"out of memory reading one response of \d+ tokens"):
        fluency.measure(*arguments)


def test_a_uniform_model_costs_log_v() -> None:
    """All logits 0: every token has probability 1/V, so the NLL is log V whatever the text."""
    model = tiny_models.model()
    model.get_output_embeddings().weight.data.zero_()
    read = fluency.measure(model, BYTES, ["The lamp", "My"], [" is good", " thing"], 128)
    assert read.nll == pytest.approx([math.log(len(BYTES))] * 2, abs=1e-5)


def test_an_empty_response_has_no_nll() -> None:
    assert fluency.measure(tiny_models.model(), BYTES, ["The lamp", "My"], ["", " thing"], 128).nll[0] is None


def test_only_what_fits_the_context_is_read() -> None:
    """A context of 6 tokens holds BOS, 'a', 'b' and 3 of the response's tokens."""
    model = tiny_models.model()
    cut = fluency.measure(model, BYTES, ["ab"], ["cdefgh"], 6)
    assert cut.tokens == 6
    assert cut.nll == pytest.approx([by_hand(model, "ab", "cde")], abs=1e-4)
    assert fluency.measure(model, BYTES, ["ab"], ["c"], 3).nll == [None], "no room at all"


def test_the_band_narrows_with_the_length_by_hand() -> None:
    """Losses 1 3 and 5 1 3: means 1 5 after one token, 2 3 after two and after three, where the first text is whole."""
    texts = [np.array(row, np.float32) for row in ([1, 3], [5, 1, 3], [])]
    assert fluency.band(texts, (0.0, 0.5, 1.0)).tolist() == [[1, 3, 5], [2, 2.5, 3], [2, 2.5, 3]]


def test_short_held_out_text_spreads_more_than_long() -> None:
    """2000 texts of independent losses: the standard deviation of a mean over t tokens is 1 / sqrt(t)."""
    drawn = np.random.default_rng(0).normal(3.0, 1.0, size=(2000, 48)).astype(np.float32)
    bounds = fluency.band(list(drawn), (0.01, 0.99))
    for tokens in (1, 4, 16, 48):
        assert bounds[tokens - 1] == pytest.approx(
            3.0 + np.array([-2.326, 2.326]) / tokens**0.5, abs=0.25 / tokens**0.5
        )
