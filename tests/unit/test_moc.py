"""MOC's equations by hand: control rewards, targets, streams, weights, state."""

import pytest
import torch

from moa.errors import MoaError
from moa.method import Batch, Scores
from moa.methods import catalogue, moc
from moa.rl import control

NAMES = ["a", "b"]
MIN_NORM = {"streams": "literal", "control": "sample", "target": "scaled", "weights": "min_norm"}  # the paper's reading


def make(**settings: object) -> moc.Method:
    method = catalogue.load("row", {"kind": "moc", **settings}, NAMES)
    assert isinstance(method, moc.Method)
    return method


def scored(quantile: list[list[float]]) -> Scores:
    nothing = torch.zeros(len(quantile), 2)
    return Scores(nothing, torch.tensor(quantile), nothing)


def batch(advantages: torch.Tensor, preferences: torch.Tensor, quantile: list[list[float]] | None = None) -> Batch:
    rewards = scored(quantile or [[0.0, 0.0]] * len(preferences))
    return Batch(advantages, torch.ones(advantages.shape[1:]), preferences, rewards)


def test_control_rewards_by_hand() -> None:
    rewards, preferences = torch.tensor([[0.9, 0.2]]), torch.tensor([[0.75, 0.25]])
    wanted = control.targets(preferences, "scaled")
    torch.testing.assert_close(wanted, torch.tensor([[1.0, 1 / 3]]))
    # ((0.9 - 1)^2 + (0.2 - 1/3)^2) / 2 = (0.01 + 0.017778) / 2 = 0.013889
    torch.testing.assert_close(control.per_sample(rewards, wanted, 0.0), torch.tensor([-0.0138889]))
    assert float(control.per_sample(rewards, wanted, 0.1)) == 0.0  # satisfied: below phi
    # -(2/2) [ (0.5 - 1)(0.9 - 1) + (0.4 - 1/3)(0.2 - 1/3) ] = -(0.05 - 0.0088889)
    torch.testing.assert_close(
        control.on_mean(rewards, wanted, torch.tensor([[0.5, 0.4]]), 0.0), torch.tensor([-0.0411111])
    )


def test_the_control_reward_is_a_setting() -> None:
    """Two samples of p = (0.75, 0.25), target (1, 1/3): misses (-0.1, -0.133333) and (-0.5, 0.666667)."""
    scores, preferences = scored([[0.9, 0.2], [0.5, 1.0]]), torch.tensor([[0.75, 0.25], [0.75, 0.25]])
    # (0.01 + 0.0177778) / 2 = 0.0138889, within phi; (0.25 + 0.444444) / 2 = 0.347222, 0.247222 beyond
    got = make(control="sample", target="scaled", phi=0.1).extra_rewards(scores, preferences)
    torch.testing.assert_close(got, torch.tensor([[0.0], [-0.2472222]]))
    # the means (0.7, 0.6) miss by (-0.3, 0.266667): -(0.03 - 0.0355556) and -(0.15 + 0.1777778)
    got = make(control="mean", target="scaled").extra_rewards(scores, preferences)
    torch.testing.assert_close(got, torch.tensor([[0.0055556], [-0.3277778]]), atol=1e-6, rtol=0)
    # feedback has no head of its own
    assert make(control="feedback").extra_rewards(scores, preferences).shape == (2, 0)
    # shares 0.9 / 1.1 - 0.75 = 0.0681818, and 0.5 / 1.5 - 0.75 = -0.4166667
    got = make(control="sample", target="simplex").extra_rewards(scores, preferences)
    torch.testing.assert_close(got, torch.tensor([[-(0.0681818**2)], [-(0.4166667**2)]]))


def test_the_control_error_uses_the_rows_scale_and_target() -> None:
    scores = Scores(torch.tensor([[3.0, 1.0]]), torch.tensor([[0.9, 0.2]]), torch.tensor([[2.0, -1.0]]))
    preferences = torch.tensor([[0.75, 0.25]])
    # quantile and p: 0.15^2 and 0.05^2; z-scores and p / max p: 1^2 and (4/3)^2; shares 3/4 and 1/4 meet p exactly
    expected = {
        ("quantile", "plain"): (0.0225 + 0.0025) / 2,
        ("zscore", "scaled"): (1 + 16 / 9) / 2,
        ("raw", "simplex"): 0.0,
    }
    for (scale, target), error in expected.items():
        torch.testing.assert_close(
            make(control="sample", scale=scale, target=target).control_error(scores, preferences), torch.tensor(error)
        )


def test_a_row_has_a_head_for_control_and_names_its_streams() -> None:
    method = make(control="sample", weights="uniform")
    assert (method.row, method.extra_heads) == ("row", ("control",))
    got = method.combine(batch(torch.ones(3, 1, 1), torch.tensor([[0.75, 0.25]])))
    assert got.logged == (
        ("stream_weight", "utility", 0.5),
        ("stream_weight", "control", 0.5),
        ("duality_gap", "all", 0.0),
    )


def test_padding_has_no_part_in_the_gram_matrix() -> None:
    # streams (1, 2) and (3, 0) on two tokens, 9 on padding: [[1 + 4, 3], [3, 9]] / 2
    got = moc.gram(torch.tensor([[[1.0, 2.0, 9.0]], [[3.0, 0.0, 9.0]]]), torch.tensor([[1.0, 1.0, 0.0]]))
    assert got.tolist() == [[2.5, 1.5], [1.5, 4.5]]


def test_simplex_target_compares_shares() -> None:
    torch.testing.assert_close(
        control.on_scale(scored([[0.6, 0.2]]), "quantile", "simplex"), torch.tensor([[0.75, 0.25]])
    )
    with pytest.raises(MoaError, match="feedback needs a target that is linear"):
        make(control="feedback", target="simplex")


def test_weights_solve_the_gram_matrix() -> None:
    # streams: A^1 = (1, 0), A^2 = (0, 2), control (1, 1)
    advantages = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]], [[1.0, 1.0]]])
    torch.testing.assert_close(
        moc.gram(advantages, torch.ones(1, 2)).float(),
        torch.tensor([[0.5, 0.0, 0.5], [0.0, 2.0, 1.0], [0.5, 1.0, 1.0]]),
    )
    got = make(**MIN_NORM).combine(batch(advantages, torch.tensor([[0.5, 0.5]])))
    # min over c of |(c1 + c3, 2 c2 + c3)|^2: c3 = 0 gives c1^2 + 4 c2^2 -> c = (0.8, 0.2, 0)
    torch.testing.assert_close(got.weights, torch.tensor([0.8, 0.2, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(got.advantages, torch.tensor([[0.8, 0.4]]), atol=1e-5, rtol=0)
    assert [name for quantity, name, _ in got.logged if quantity == "stream_weight"] == ["a", "b", "control"]
    ((_, _, gap),) = [entry for entry in got.logged if entry[:2] == ("duality_gap", "all")]
    assert gap < 1e-12


def test_per_preference_solves_each_group_alone() -> None:
    advantages = torch.tensor([[[1.0], [2.0]], [[2.0], [1.0]], [[9.0], [9.0]]])  # (H, B, T) = (3, 2, 1)
    got = make(**MIN_NORM, granularity="preference").combine(batch(advantages, torch.eye(2)))
    # one token per group, all positive: weight on the smallest stream, the first for the first sample, the second for
    # the other
    torch.testing.assert_close(got.advantages, torch.ones(2, 1))
    torch.testing.assert_close(got.weights, torch.tensor([0.5, 0.5, 0.0]))


def test_groups_of_different_sizes() -> None:
    """Samples 0 and 2 share a preference, 1 and 3 have their own.

    In each group one stream is the smallest at every token.
    """
    advantages = torch.tensor(
        [[[1.0], [2.0], [1.0], [5.0]], [[2.0], [1.0], [3.0], [5.0]], [[9.0], [9.0], [9.0], [4.0]]]
    )
    preferences = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    got = make(**MIN_NORM, granularity="preference").combine(batch(advantages, preferences))
    torch.testing.assert_close(got.advantages, torch.tensor([[1.0], [1.0], [1.0], [4.0]]))
    # the first stream has all the weight in 2 of 4 samples, the second and control in 1 each
    assert [entry[:2] for entry in got.logged[:3]] == [
        ("stream_weight", "a"),
        ("stream_weight", "b"),
        ("stream_weight", "control"),
    ]
    assert [entry[2] for entry in got.logged[:3]] == pytest.approx([0.5, 0.25, 0.25], abs=1e-6)
    # one matrix for all: corner preferences belong to it as well, so every sample has the same weights
    together = make(**{**MIN_NORM, "weights": "uniform"}).combine(batch(advantages, preferences))
    torch.testing.assert_close(together.advantages, torch.tensor([[4.0], [4.0], [13 / 3], [14 / 3]]))


def test_every_preference_of_a_batch_has_its_group() -> None:
    """Three one-token samples of (1, 0), (1, 0), (1/2, 1/2).

    The objectives in the other order would be other preferences.
    """
    preferences = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    found = make(**MIN_NORM, granularity="preference")._groups(preferences)
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "w1-0": [True, True, False],
        "w0.5-0.5": [False, False, True],
    }


def test_streams_by_hand() -> None:
    advantages, preferences = torch.tensor([[[2.0]], [[4.0]], [[10.0]]]), torch.tensor([[0.75, 0.25]])
    uniform = {"control": "sample", "target": "scaled", "weights": "uniform"}
    # literal: (2 + 4 + 10) / 3; weighted: (1.5 + 1 + 10) / 3; utility: ((1.5 + 1) + 10) / 2
    for streams, expected in (("literal", 16 / 3), ("weighted", 12.5 / 3), ("utility", 6.25)):
        got = make(streams=streams, **uniform).combine(batch(advantages, preferences))
        torch.testing.assert_close(got.advantages, torch.tensor([[expected]]))


def test_feedback_adds_what_is_missing() -> None:
    # target p / max p = (1, 1/3); reached (0.5, 0.8): missing (0.5, -0.466667), times 2 / N = 1
    method = make(control="feedback", target="scaled", weights="lagrangian", multiplier=2.0, objective_weights="signed")
    assert method.extra_heads == ()
    got = method.combine(batch(torch.tensor([[[1.0]], [[1.0]]]), torch.tensor([[0.75, 0.25]]), [[0.5, 0.8]]))
    # head weights: 0.75 + 2 * 0.5 = 1.75 and 0.25 - 2 * 0.466667 = -0.683333
    torch.testing.assert_close(got.weights, torch.tensor([1.75, -0.683333]), atol=1e-5, rtol=0)
    torch.testing.assert_close(got.advantages, torch.tensor([[1.066667]]), atol=1e-5, rtol=0)


def test_what_exceeds_its_target_is_pushed_down_only_where_weights_may_be_negative() -> None:
    # as above: head weights 1.75 and -0.683333; the second stops at 0, and the first alone is left
    given = batch(torch.tensor([[[1.0]], [[1.0]]]), torch.tensor([[0.75, 0.25]]), [[0.5, 0.8]])
    got = make(
        control="feedback", target="scaled", weights="lagrangian", multiplier=2.0, objective_weights="nonnegative"
    ).combine(given)
    torch.testing.assert_close(got.weights, torch.tensor([1.75, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(got.advantages, torch.tensor([[1.75]]), atol=1e-5, rtol=0)


def test_weights_on_the_simplex_keep_their_sum() -> None:
    """p = (.5, .5) that reached (.9, .95) of (.5, .5): .5 - 1.5 * .4 = -.1 and .5 - 1.5 * .45 = -.175.

    At 0 it stops training; .6375 on both is 1 again.
    """
    given = batch(torch.tensor([[[1.0]], [[10.0]]]), torch.tensor([[0.5, 0.5]]), [[0.9, 0.95]])
    options = {"control": "feedback", "target": "plain", "multiplier": 1.5}
    for chosen in ({}, {"objective_weights": "nonnegative"}):  # the default
        torch.testing.assert_close(
            make(**options, **chosen).combine(given).weights, torch.tensor([0.0, 0.0]), atol=1e-6, rtol=0
        )
    torch.testing.assert_close(
        make(**options, objective_weights="simplex").combine(given).weights,
        torch.tensor([0.5375, 0.4625]),
        atol=1e-6,
        rtol=0,
    )
    with pytest.raises(MoaError, match="objective_weights: simplex goes with control: feedback"):
        make(control="sample", objective_weights="simplex")


@pytest.mark.parametrize(
    ("weights", "setting", "value"),
    [
        ("lagrangian", "smoothing", 0.5),
        ("lagrangian", "solver", "plain"),
        ("min_norm", "multiplier", 2.0),
        ("uniform", "multiplier", 2.0),
        ("exact", "objective_weights", "signed"),
        ("lagrangian", "granularity", "preference"),
        ("uniform", "granularity", "preference"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(weights: str, setting: str, value: object) -> None:
    with pytest.raises(MoaError, match=f"{setting} is not read with weights: {weights}; leave it out"):
        make(weights=weights, **{setting: value})


@pytest.mark.parametrize("weights", ["min_norm", "uniform"])
def test_weights_of_whole_streams_need_signed_objectives(weights: str) -> None:
    with pytest.raises(MoaError, match=f"weights: {weights} weighs whole streams.*add objective_weights: signed"):
        make(weights=weights)
    with pytest.raises(MoaError, match="objective_weights: signed goes with control: feedback"):
        make(control="mean", weights=weights, objective_weights="signed")
    make(weights=weights, objective_weights="signed")
    with pytest.raises(MoaError, match="shrink: true goes with control: feedback and weights: lagrangian or exact"):
        make(weights=weights, objective_weights="signed", shrink=True)


def test_exact_search_balances_while_violated_and_follows_p_when_met() -> None:
    """Targets p. Misses: of (.5, .5) that reached (.2, .4) (.3, .1), mean square .05.

    Of (.8, .2) that reached (.7, .3) (.1, -.1), .01, within phi; of (.2, .8) that reached (.6, .9) nothing.
    """
    method = make(weights="exact", target="plain", phi=0.02)
    given = batch(
        torch.tensor([[[1.0], [1.0], [1.0]], [[10.0], [10.0], [10.0]]]),
        torch.tensor([[0.5, 0.5], [0.8, 0.2], [0.2, 0.8]]),
        [[0.2, 0.4], [0.7, 0.3], [0.6, 0.9]],
    )
    got = method.combine(given)
    # .3 / .4 * 1 + .1 / .4 * 10 = 3.25;  .8 + 2 = 2.8;  what exceeds all its targets ascends: .2 + 8 = 8.2
    torch.testing.assert_close(got.advantages, torch.tensor([[3.25], [2.8], [8.2]]))
    torch.testing.assert_close(got.weights, torch.tensor([(0.75 + 0.8 + 0.2) / 3, (0.25 + 0.2 + 0.8) / 3]))
    (first, share), (second, balanced) = [(name, value) for _, name, value in got.logged[1:]]
    assert [quantity for quantity, _, _ in got.logged] == ["known_share", "stream_weight", "stream_weight"]
    assert (first, second) == ("utility", "control") and (share, balanced) == (
        pytest.approx(2 / 3),
        pytest.approx(1 / 3),
    )
    for wrong in ({"control": "mean"}, {"streams": "literal"}):
        with pytest.raises(MoaError, match="weights: exact goes with control: feedback and streams: utility"):
            make(weights="exact", **wrong)


def test_feedback_has_the_last_stream_to_itself() -> None:
    # as above with both objectives' streams: 0.75 * 1 and 0.25 * 1, control 1 * (0.5, -0.466667) times the multiplier 3
    method = make(
        streams="weighted",
        control="feedback",
        target="scaled",
        weights="lagrangian",
        multiplier=3.0,
        objective_weights="signed",
    )
    got = method.combine(batch(torch.tensor([[[1.0]], [[1.0]]]), torch.tensor([[0.75, 0.25]]), [[0.5, 0.8]]))
    torch.testing.assert_close(got.weights, torch.tensor([0.75 + 1.5, 0.25 - 1.4]))
    # one batch: nothing of it is known yet
    assert got.logged == (
        ("known_share", "control", 0.0),
        ("stream_weight", "a", 1.0),
        ("stream_weight", "b", 1.0),
        ("stream_weight", "control", 3.0),
        ("duality_gap", "all", 0.0),
    )


def test_feedback_is_the_gradient_of_the_constraint() -> None:
    """On a bandit with exact expectations, the control stream's policy gradient is -d/dtheta mean_i (E R^i - p~_i)^2."""
    rewards = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.1, 0.8]])  # three arms, two objectives
    theta = torch.tensor([0.5, 0.25, 0.25]).log().requires_grad_()
    arms = torch.tensor([0, 0, 1, 2])  # every sample once: the batch's mean is the expectation
    wanted = torch.tensor([0.5, 0.5])
    exact = torch.autograd.grad(-((torch.softmax(theta, 0) @ rewards - wanted) ** 2).mean(), theta)[0]
    advantages = (rewards[arms] - rewards[arms].mean(0)).T[..., None]  # (K, B, 1)
    options = {"control": "feedback", "target": "plain", "objective_weights": "signed"}

    def gradient(multiplier: float) -> torch.Tensor:
        got = make(**options, multiplier=multiplier).combine(
            batch(advantages, wanted.expand(4, -1), rewards[arms].tolist())
        )
        return torch.autograd.grad((got.advantages[:, 0] * torch.log_softmax(theta, 0)[arms]).mean(), theta)[0]

    # What the multiplier adds to utility's own gradient.
    torch.testing.assert_close(gradient(1.0) - gradient(0.0), exact)
    torch.testing.assert_close(gradient(4.0) - gradient(0.0), 4 * exact)


def test_range_target_lies_between_what_preferences_achieve() -> None:
    achieved = control.Achieved()
    preferences = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    means = achieved.update(torch.tensor([[0.9, 0.2], [0.3, 1.0], [0.7, 0.6]]), preferences)
    # ranges: first objective 0.3 to 0.9, second 0.2 to 1.0; the middle asks for both ends: (0.9, 1.0)
    torch.testing.assert_close(
        achieved.wanted(preferences, "range"), torch.tensor([[0.9, 0.2], [0.3, 1.0], [0.9, 1.0]])
    )
    # on the arc the middle asks for sqrt(1/2) of each range: 0.3 + 0.7071 * 0.6 and 0.2 + 0.7071 * 0.8
    torch.testing.assert_close(
        achieved.wanted(preferences, "arc"), torch.tensor([[0.9, 0.2], [0.3, 1.0], [0.72426, 0.76569]])
    )
    # the middle has come (0.4 / 0.6, 0.4 / 0.8) = (2/3, 1/2) of the ranges, 7 / 12 of both along the ray: 0.3 + 0.35
    # and 0.2 + 0.466667
    torch.testing.assert_close(
        achieved.wanted(preferences, "ray"), torch.tensor([[0.9, 0.2], [0.3, 1.0], [0.65, 2 / 3]])
    )
    # what is missing, in ranges: the corners nothing; the middle 0.2 / 0.6 and 0.4 / 0.8
    torch.testing.assert_close(
        achieved.shortfall(means, preferences, "range", "relative"),
        torch.tensor([[0.0, 0.0], [0.0, 0.0], [1 / 3, 0.5]]),
    )
    # at right angles to the ray: 7/12 - 2/3 and 7/12 - 1/2
    torch.testing.assert_close(
        achieved.shortfall(means, preferences, "ray", "relative")[2], torch.tensor([-1 / 12, 1 / 12])
    )


def test_the_ray_goes_through_the_preference_itself() -> None:
    """p = (3/4, 1/4) at the corners' ranges 0 to 1 reached (0.6, 0.7): the nearest point of the ray is (p .

    R) / |p|^2 = (0.45 + 0.175) / 0.625 = 1 times p.
    """
    achieved = control.Achieved()
    preferences = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.75, 0.25]])
    achieved.update(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.7]]), preferences)
    torch.testing.assert_close(achieved.wanted(preferences, "ray"), preferences)


def test_a_centred_shortfall_moves_weight_between_preferences_and_never_between_objectives() -> None:
    """Ranges as above; without the division the corners miss nothing and the middle (0.2, 0.4).

    Over the batch 0.2 / 3 and 0.4 / 3.
    """
    given = batch(
        torch.ones(2, 3, 1), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]), [[0.9, 0.2], [0.3, 1.0], [0.7, 0.6]]
    )
    options = {"target": "range", "shortfall": "centred", "multiplier": 3.0}  # times 2 / N = 1
    # (1 - 0.2) - 0.4;  (0 - 0.2) + (1 - 0.4);  (0.5 + 0.6 - 0.2) + (0.5 + 1.2 - 0.4)
    got = make(**options, objective_weights="signed").combine(given)
    torch.testing.assert_close(got.advantages[:, 0], torch.tensor([0.4, 0.4, 2.2]))
    # 0.8, -0.2 and 0.9 are half on average, as the preferences' own weights are; so are -0.4, 0.6 and 1.3
    torch.testing.assert_close(got.weights, torch.tensor([0.5, 0.5]))
    # on the simplex (0.8, -0.4), (-0.2, 0.6) and (0.9, 1.3) are (1, 0), (0.1, 0.9) and (0.3, 0.7)
    torch.testing.assert_close(
        make(**options, objective_weights="simplex").combine(given).weights, torch.tensor([1.4 / 3, 1.6 / 3])
    )
    # neither divided nor centred: the corners keep 1, and the middle has 0.5 + 0.6 and 0.5 + 1.2; in units of the
    # ranges 0.6 and 0.8 1.5 and 2
    for shortfall, middle in (("absolute", 2.8), ("relative", 3.5)):
        got = make(**{**options, "shortfall": shortfall}, objective_weights="signed").combine(given)
        torch.testing.assert_close(got.advantages[:, 0], torch.tensor([1.0, 1.0, middle]))
    # within phi nothing is missing: mean squares 0, 0 and (0.04 + 0.16) / 2
    torch.testing.assert_close(make(**options, phi=0.1).combine(given).weights, torch.tensor([0.5, 0.5]))


def test_a_shortfall_is_of_feedback() -> None:
    with pytest.raises(MoaError, match="shortfall: centred goes with control: feedback"):
        make(control="sample", shortfall="centred")
    with pytest.raises(MoaError, match="shrink: true goes with control: feedback"):
        make(control="mean", shrink=True)
    with pytest.raises(MoaError, match="shortfall is not read with weights: exact"):
        make(weights="exact", shortfall="absolute")


def test_preferences_keep_their_order_beyond_the_scales_end() -> None:
    """(1, 0) reached (1.6, 0.2) and (0, 1) reached (1.2, 0.8).

    The ends of ranges from 1.2 to 1.6 and from 0.2 to 0.8, just what they ask for.
    """
    given = batch(torch.tensor([[[1.0], [1.0]], [[10.0], [10.0]]]), torch.eye(2), [[1.6, 0.2], [1.2, 0.8]])
    got = make(target="range").combine(given)
    torch.testing.assert_close(got.advantages, torch.tensor([[1.0], [10.0]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("reached", "missing"), [((1.4, 0.4), 0.1), ((1.4, 1.2), 0.0)])
def test_the_mean_is_clipped_and_not_what_it_is_taken_of(reached: tuple[float, float], missing: float) -> None:
    """p = (1, 0) asks the first objective for 1.

    Responses of 1.4 and 0.4 have the mean 0.9 (clipped first it would be 0.7); a mean of 1.3 counts as 1.
    """
    given = batch(torch.ones(2, 2, 1), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), [[reached[0], 0.0], [reached[1], 0.0]])
    got = make(target="scaled", multiplier=3.0, objective_weights="nonnegative").combine(given)
    torch.testing.assert_close(got.weights, torch.tensor([1 + 3 * missing, 0.0]), atol=1e-5, rtol=0)
    scores = Scores(torch.zeros(2, 2), torch.tensor([[reached[0], 0.0], [reached[1], 0.0]]), torch.zeros(2, 2))
    # -(2/2) (mean - 1)(R - 1) with the mean's miss -0.1 or 0, and R itself as it is
    rewards = make(control="mean", target="scaled").extra_rewards(scores, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(rewards[:, 0], missing * (torch.tensor(reached) - 1))


def test_a_met_constraint_asks_for_nothing() -> None:
    method = make(phi=0.3, control="feedback", target="scaled", weights="lagrangian")
    # missing (0.5, -0.4667): mean square 0.2339 is within phi
    got = method.combine(batch(torch.tensor([[[1.0]], [[1.0]]]), torch.tensor([[0.75, 0.25]]), [[0.5, 0.8]]))
    torch.testing.assert_close(got.weights, torch.tensor([0.75, 0.25]))


def test_each_preference_meets_its_own_constraint() -> None:
    method = make(
        phi=0.25, control="feedback", target="scaled", weights="lagrangian", multiplier=1.0, objective_weights="signed"
    )
    # p = (1/2, 1/2) asks for (1, 1): missing (0.5, 0.5), mean square 0.25, just within phi;
    # p = (1, 0) asks for (1, 0): missing (1, -1), mean square 1, beyond. Times 2 / N = 1, on top of p itself.
    got = method.combine(
        batch(
            torch.tensor([[[1.0], [1.0]], [[1.0], [10.0]]]),
            torch.tensor([[0.5, 0.5], [1.0, 0.0]]),
            [[0.5, 0.5], [0.0, 1.0]],
        )
    )
    # 0.5 * 1 + 0.5 * 1 = 1;  (1 + 1) * 1 + (0 - 1) * 10 = -8
    torch.testing.assert_close(got.advantages, torch.tensor([[1.0], [-8.0]]))


def test_a_fixed_target_per_sample_keeps_no_means() -> None:
    scores, preferences = scored([[0.9, 0.2]]), torch.tensor([[0.75, 0.25]])
    for settings, kept in (
        ({"control": "sample", "target": "scaled"}, 0),
        ({"control": "sample", "target": "range"}, 1),
        ({"control": "mean", "target": "scaled"}, 1),
    ):
        method = make(**settings)
        method.extra_rewards(scores, preferences)
        assert len([name for name in method.state() if name.startswith("mean ")]) == kept


def test_running_means_and_smoothed_gram_survive_a_checkpoint() -> None:
    settings = {**MIN_NORM, "control": "mean", "smoothing": 0.5}
    method = make(**settings)
    preferences = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    scores = scored([[0.2, 0.4], [0.6, 0.0]])
    method.extra_rewards(scores, preferences)
    method.combine(batch(torch.tensor([[[1.0], [0.0]], [[0.0], [2.0]], [[1.0], [1.0]]]), preferences))
    assert method.state()["mean w0.5-0.5"] == pytest.approx([0.4, 0.2])
    assert method.state()["gram batch"] == pytest.approx([0.5, 0.0, 0.5, 0.0, 2.0, 1.0, 0.5, 1.0, 1.0])
    other = make(**settings)
    other.restore(method.state())
    assert other.state() == method.state()
    torch.testing.assert_close(other.extra_rewards(scores, preferences), method.extra_rewards(scores, preferences))
    # the next batch's matrix is diag(2, 0, 0); half of it and half of the past: M = [[1.25, 0, .25], [0, 1, .5], [.25,
    # .5, .5]]
    got = other.combine(batch(torch.tensor([[[2.0], [0.0]], [[0.0], [0.0]], [[0.0], [0.0]]]), preferences))
    # c = (2, 1, 6) / 9: M c = (4, 4, 4) / 9, equal for all streams, so no exchange of weight lowers c' M c
    assert got.weights.tolist() == pytest.approx([2 / 9, 1 / 9, 6 / 9], abs=1e-6)
