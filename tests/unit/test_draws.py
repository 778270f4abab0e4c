"""Random numbers of sampling: keyed by the response, and turned into tokens with the right probabilities."""

import pytest
import torch

from moa.lm.draws import nucleus, pick, uniforms

LOGITS = torch.tensor([[6.0, 3.0, 1.0]]).log()  # probabilities .6, .3, .1


def test_a_response_has_the_same_numbers_in_every_batch() -> None:
    whole = uniforms(["a", "b", "c"], 5)
    assert torch.equal(uniforms(["c", "a"], 5), whole[[2, 0]])
    assert torch.equal(uniforms(["b"], 3)[0], whole[1, :3]), "and a longer limit of tokens changes no earlier one"
    assert len(set(whole.flatten().tolist())) == 15
    assert float(whole.min()) >= 0 and float(whole.max()) < 1


def test_they_are_uniform() -> None:
    """Mean 1/2 and variance 1/12 of 20 000 numbers, within five standard errors: 5 * .289 / 141 and 5 * .0745 / 141."""
    numbers = uniforms([str(i) for i in range(1000)], 20)
    assert float(numbers.mean()) == pytest.approx(0.5, abs=0.0103)
    assert float(numbers.var()) == pytest.approx(1 / 12, abs=0.0027)


@pytest.mark.parametrize(("number", "token"), [(0.0, 0), (0.59, 0), (0.61, 1), (0.89, 1), (0.91, 2), (1 - 2**-53, 2)])
def test_a_number_picks_the_first_token_whose_cumulative_probability_passes_it(number: float, token: int) -> None:
    """Cumulative: .6, .9, 1."""
    assert pick(LOGITS, torch.tensor([number], dtype=torch.float64), 1.0, 1.0).tolist() == [token]


def test_what_cannot_be_drawn_is_never_picked() -> None:
    banned = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    numbers = torch.tensor([0.0, 0.4999, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert pick(banned.expand(4, -1), numbers, 1.0, 1.0).tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (1.0, 1.0, [0.6, 0.3, 0.1]),
        (0.5, 1.0, [36 / 46, 9 / 46, 1 / 46]),  # squared
        (1.0, 0.85, [2 / 3, 1 / 3, 0.0]),  # .6 < .85 <= .9: two tokens
        (1.0, 0.6, [1.0, 0.0, 0.0]),  # the first token is the nucleus by itself
        (1.0, 1e-6, [1.0, 0.0, 0.0]),
    ],
)
def test_temperature_and_nucleus(temperature: float, top_p: float, expected: list[float]) -> None:
    found = nucleus(LOGITS, temperature, top_p)[0]
    torch.testing.assert_close(found / found.sum(), torch.tensor(expected))


def test_a_nucleus_of_more_tokens_than_are_sorted_first() -> None:
    """1 000 equal tokens and top_p .9: all are ties with the last of it, so all stay; and 500 of 1 000 at two levels.

    First 500 with 3 parts each, then 500 with 1: the first hold .75, so at .7 none of the others is in.
    """
    assert int((nucleus(torch.zeros(1, 1000), 1.0, 0.9) > 0).sum()) == 1000
    levels = torch.cat([torch.full((500,), 3.0), torch.ones(500)]).log()[None]
    assert (nucleus(levels, 1.0, 0.7) > 0).sum() == 500
