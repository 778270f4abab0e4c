"""Each method's equations by hand."""

import numpy as np
import pytest
import torch

from moa.errors import MoaError
from moa.experiment.preferences import lattice
from moa.method import Batch, Method, Scores, weighted
from moa.methods import catalogue, mgda_ub, pama
from moa.rl.losses import sensitivity

NAMES = ["a", "b"]
ONES = torch.ones(2, 3)


def make(kind: str, **settings: object):  # type: ignore[no-untyped-def]
    return catalogue.load("row", {"kind": kind, **settings}, NAMES)


def batch(advantages: torch.Tensor, mask: torch.Tensor, preferences: torch.Tensor) -> Batch:
    nothing = torch.zeros_like(preferences)
    return Batch(advantages, mask, preferences, Scores(nothing, nothing))


@pytest.mark.parametrize("kind", ["linear", "morlhf", "single_objective"])
def test_linear_sums_with_each_samples_preference(kind: str) -> None:
    advantages = torch.tensor([[[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]], [[10.0, 20.0, 30.0], [5.0, 5.0, 5.0]]])  # (2, 2, 3)
    preferences = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    got = make(kind).combine(batch(advantages, ONES, preferences))
    # second sample: 0.25 * 1 + 0.75 * 5 = 4
    torch.testing.assert_close(got.advantages, torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]]))
    torch.testing.assert_close(got.weights, torch.tensor([0.625, 0.375]))


@pytest.mark.parametrize(
    ("values", "weights"),
    [
        ([2.0, 3.0, 1.0], [0.0, 0.0, 1.0]),  # all positive: the smallest
        ([-2.0, -3.0, -1.0], [0.0, 0.0, 1.0]),  # all negative: the largest
        ([3.0, -1.0, 0.5], [0.25, 0.75, 0.0]),  # mixed: c_max = 1/4, c_min = 3/4, s = 3/4 - 3/4 = 0
        ([0.0, 2.0, 3.0], [1.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
    ],
)
def test_theorem_1_weights(values: list[float], weights: list[float]) -> None:
    torch.testing.assert_close(pama.closed_form(torch.tensor(values)), torch.tensor(weights))


def test_closed_form_is_the_projection_of_zero() -> None:
    a = torch.from_numpy(np.random.default_rng(0).normal(0.5, 1.0, size=(4, 5_000)))
    c = pama.closed_form(a)
    s = (c * a).sum(0)
    expected = torch.where(a.min(0).values > 0, a.min(0).values, torch.where(a.max(0).values < 0, a.max(0).values, 0.0))
    torch.testing.assert_close(s, expected, atol=1e-12, rtol=0)
    assert c.min() >= 0 and torch.allclose(c.sum(0), torch.ones(5_000, dtype=torch.float64))
    assert (s * a >= s.square() - 1e-12).all()  # the KKT certificate


def test_noon_keeps_what_is_good() -> None:
    advantages = torch.tensor([[[1.0, -2.0]]])
    assert make("pama").transform(advantages).tolist() == [[[1.0, 0.0]]]
    assert make("linear").transform(advantages).tolist() == [[[1.0, -2.0]]]


def test_pama_keeps_credit_per_token() -> None:
    advantages = torch.tensor([[[4.0, 0.0]], [[1.0, 2.0]]])  # means 2 and 1.5: all weight on the second
    got = make("pama").combine(batch(advantages, torch.ones(1, 2), torch.full((1, 2), 0.5)))
    assert got.advantages.tolist() == [[1.0, 2.0]]


def test_pama_weighs_means_over_the_batchs_tokens() -> None:
    """Five tokens: 7 / 5 and 11 / 5, all weight on the first. Padding does not count: with its 9 it would be 16 / 6."""
    advantages = torch.tensor([[[4.0, 0.0, 9.0], [1.0, 1.0, 1.0]], [[1.0, 1.0, 0.0], [2.0, 2.0, 5.0]]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    got = make("pama").combine(batch(advantages, mask, torch.full((2, 2), 0.5)))
    assert got.advantages.tolist() == [[4.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    torch.testing.assert_close(got.weights, torch.tensor([1.0, 0.0]))


def test_weighted_reports_mean_weights() -> None:
    got = weighted(torch.ones(2, 2, 1), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert got.weights.tolist() == [0.5, 0.5]


def test_policies_are_shared_not_trained_twice() -> None:
    grid = lattice(2, 4)
    soup = make("rewarded_soups").policies(grid)
    assert [p.row for p in soup] == ["single_objective", "single_objective"]
    scalarised = make("morlhf").policies(grid)
    assert [(p.row, p.name) for p in scalarised] == [
        ("single_objective", "b"),
        ("row", "w0.25-0.75"),
        ("row", "w0.5-0.5"),
        ("row", "w0.75-0.25"),
        ("single_objective", "a"),
    ]
    shown = make("morlhf", prompts="preference")
    assert shown.conditioned and not make("morlhf").conditioned
    assert shown.borrows() is None and make("morlhf").borrows() == ("corners", "single_objective")
    # a plain prompt's corner would be another policy
    names = ["w0-1", "w0.25-0.75", "w0.5-0.5", "w0.75-0.25", "w1-0"]
    assert [(p.row, p.name, p.weights) for p in shown.policies(grid)] == [
        ("row", name, w) for name, w in zip(names, grid, strict=True)
    ]


def test_single_objective_trains_and_answers_at_the_corners_alone() -> None:
    method = make("single_objective")
    assert [(p.row, p.name, p.weights) for p in method.policies(lattice(2, 4))] == [
        ("row", "a", (1.0, 0.0)),
        ("row", "b", (0.0, 1.0)),
    ]
    assert method.evaluation_preferences(lattice(2, 4)) == [(1.0, 0.0), (0.0, 1.0)]


def test_unknown_method_and_key_name_the_nearest() -> None:
    with pytest.raises(MoaError, match="no method 'mocc'. Did you mean 'moc'"):
        catalogue.load("mocc", {}, NAMES)
    with pytest.raises(MoaError, match="unknown key 'steams'. Did you mean 'streams'"):
        catalogue.load("moc", {"steams": "literal"}, NAMES)
    with pytest.raises(MoaError, match=r"methods.x.adapter|exactly one of: adapter"):
        catalogue.load("x", {"kind": "external"}, NAMES)


def test_mgda_ub_weighs_tokens_by_their_sensitivity() -> None:
    # A^1 = (1, 0), A^2 = (0, 1), s = (4, 1): M = diag(4, 1) / 2, so c = (1, 4) / 5
    advantages, mask, preferences = (
        torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]),
        torch.ones(1, 2),
        torch.full((1, 2), 0.5),
    )
    seen = Batch(advantages, mask, preferences, Scores(*torch.zeros(2, 1, 2)), sensitivity=torch.tensor([[4.0, 1.0]]))
    got = make("mgda_ub").combine(seen)
    torch.testing.assert_close(got.weights, torch.tensor([0.2, 0.8]), atol=1e-6, rtol=0)
    torch.testing.assert_close(got.advantages, torch.tensor([[0.2, 0.8]]), atol=1e-6, rtol=0)


def test_mgda_ub_is_the_min_norm_of_real_gradients_at_the_hidden_state() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 3, 4, generator=generator, requires_grad=True)
    output, tokens = torch.randn(6, 4, generator=generator), torch.tensor([[0, 5, 2], [1, 1, 3]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    advantages = torch.randn(3, 2, 3, generator=generator) * mask
    logprobs = torch.log_softmax(hidden @ output.T, -1).gather(-1, tokens[..., None])[..., 0]
    gradients = torch.stack(
        [torch.autograd.grad((logprobs * a).sum(), hidden, retain_graph=True)[0].flatten() for a in advantages]
    )
    found = mgda_ub.gram(advantages, sensitivity((hidden @ output.T).detach(), tokens, output, 1.0), mask)
    torch.testing.assert_close(found.float() * mask.sum(), gradients @ gradients.T, atol=1e-4, rtol=1e-4)


def test_mse_only_trains_on_the_control_stream_alone() -> None:
    method = make("mse_only")
    scores = Scores(torch.zeros(1, 2), torch.tensor([[0.9, 0.2]]))
    preferences = torch.tensor([[0.75, 0.25]])
    # target (1, 1/3): -((0.9 - 1)^2 + (0.2 - 1/3)^2) / 2 = -0.0138889
    torch.testing.assert_close(method.extra_rewards(scores, preferences), torch.tensor([[-0.0138889]]))
    # on the curve with the other sign; a second sample at (0, 1/3) misses by (1, 0): the mean of 0.0138889 and 1 / 2
    both = Scores(torch.zeros(2, 2), torch.tensor([[0.9, 0.2], [0.0, 1 / 3]]))
    torch.testing.assert_close(method.control_error(both, preferences.expand(2, 2)), torch.tensor(0.2569444))
    # a quantile of 1.4 counts as 1, so that the first misses by nothing: -(1/3 - 0.2)^2 / 2
    beyond = torch.tensor([[1.4, 0.2]])
    torch.testing.assert_close(method.extra_rewards(Scores(beyond, beyond), preferences), torch.tensor([[-0.0088889]]))
    got = method.combine(batch(torch.tensor([[[1.0]], [[2.0]], [[3.0]]]), torch.ones(1, 1), preferences))
    assert got.advantages.tolist() == [[3.0]] and got.weights.tolist() == [0.0, 0.0, 1.0]


def test_control_error_is_against_p_over_max_p_on_clipped_quantiles() -> None:
    """Targets are (1, 1/4) and (1, 1).

    Rewards are (0.5, -3 -> 0) and (7 -> 1, 0.25), so squares are 0.25, 0.0625, 0, 0.5625 and their mean 0.21875.
    """
    quantile = torch.tensor([[0.5, -3.0], [7.0, 0.25]])
    found = make("linear").control_error(Scores(quantile, quantile), torch.tensor([[0.8, 0.2], [0.5, 0.5]]))
    assert float(found) == pytest.approx(0.875 / 4)


def test_a_row_without_preferences_is_evaluated_once() -> None:
    assert make("pama").evaluation_preferences([(1.0, 0.0), (0.0, 1.0)]) == [None]
    assert make("linear").evaluation_preferences([(1.0, 0.0), (0.0, 1.0)]) == [(1.0, 0.0), (0.0, 1.0)]


def test_a_row_that_does_not_train_says_so() -> None:
    with pytest.raises(NotImplementedError, match="^Method does not train$"):
        Method.combine(make("reference"), None)
