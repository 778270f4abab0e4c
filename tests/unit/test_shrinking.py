"""What MOC takes for a shortfall and what for noise, by hand.

Standard errors of running means, and the shrinking of what is missing.
"""

import pytest
import torch

from moa.method import Batch, Method, Scores
from moa.methods import catalogue
from moa.rl import control

A, B = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
BOTH = torch.cat([A, B])


def seen(*batches: tuple[torch.Tensor, list[float]]) -> control.Achieved:
    achieved = control.Achieved(even=True)
    for preference, rewards in batches:
        achieved.update(torch.tensor([rewards]), preference)
    return achieved


def means(achieved: control.Achieved) -> torch.Tensor:
    return torch.tensor([achieved.means["w1-0"], achieved.means["w0-1"]])


def shrunk(
    achieved: control.Achieved,
    target: control.Target,
    unit: control.Shortfall = "relative",
    rewards: torch.Tensor | None = None,
    preferences: torch.Tensor = BOTH,
) -> torch.Tensor:
    reached = means(achieved) if rewards is None else rewards
    return achieved.shortfall(reached, preferences, target, unit) * achieved.known(reached, preferences, target)


def test_squared_error_of_two_batches() -> None:
    """The first preference had 0.2 and 0.6 (weights 0.9 and 1), the second one batch.

    Variance over batches from the first alone.
    """
    achieved = seen((A, [0.2, 0.5]), (B, [0.4, 0.9]), (A, [0.6, 0.5]))
    # weighted mean 0.78 / 1.9, deviations' mean square 0.9 * 1 / 1.9^2 * 0.4^2 = 0.0398892; lost to the mean: 1.81 /
    # 1.9^2 = 0.501385 of it
    variance = 0.0398892 / (1 - 0.501385)
    assert variance == pytest.approx(0.08, abs=1e-6)  # (0.6 - 0.2)^2 / 2, as without weights
    # a mean of two such batches has 0.501385 of it, of one batch all
    torch.testing.assert_close(
        achieved.squared_error(BOTH), torch.tensor([[0.08 * 0.501385, 0.0], [0.08, 0.0]]), atol=1e-6, rtol=0
    )


def test_the_variance_is_pooled_over_preferences() -> None:
    """0.2, 0.6 and 0.1, 0.3 of the first objective: variances 0.08 and 0.02 of equally many batches, 0.05 together."""
    achieved = seen((A, [0.2, 0.0]), (A, [0.6, 0.0]), (B, [0.1, 0.0]), (B, [0.3, 0.0]))
    torch.testing.assert_close(
        achieved.squared_error(BOTH)[:, 0], torch.full((2,), 0.05 * 1.81 / 3.61), atol=1e-6, rtol=0
    )


def test_small_deviations_far_from_zero_are_kept() -> None:
    """1000.0 and 1000.2: variance 0.02, which squares of a million in single precision would lose."""
    achieved = seen((A, [1000.0, 0.0]), (A, [1000.2, 0.0]), (B, [1000.0, 0.0]))
    assert float(achieved.squared_error(A)[0, 0]) == pytest.approx(0.02 * 1.81 / 3.61, rel=1e-2)


def test_after_one_batch_nothing_is_known() -> None:
    achieved = seen((A, [0.2, 0.5]), (B, [0.4, 0.9]))
    assert torch.isinf(achieved.squared_error(BOTH)).all()
    assert torch.equal(shrunk(achieved, "plain"), torch.zeros(2, 2))


def test_what_is_missing_shrinks_by_its_noise() -> None:
    """Target p. The first preference's means miss (0.5, 0).

    Square 0.25 of which 0.38^2 / 2 * 0.501385 = 0.0362 are noise, so 1 - 0.145 of it is left. The second misses by (0,
    0.1): less than its noise, nothing is left.
    """
    achieved = seen((A, [0.3, 0.0]), (B, [0.0, 0.9]), (A, [0.68, 0.0]))  # 0.9 * 0.3 + 0.68 = 0.95 = 1.9 * 0.5
    noise = 0.38**2 / 2 * 1.81 / 3.61
    got = shrunk(achieved, "plain")
    torch.testing.assert_close(got, torch.tensor([[0.5 * (1 - noise / 0.25), 0.0], [0.0, 0.0]]), atol=1e-6, rtol=0)
    plain = achieved.shortfall(means(achieved), BOTH, "plain", "relative")
    torch.testing.assert_close(plain, torch.tensor([[0.5, 0.0], [0.0, 0.1]]), atol=1e-6, rtol=0)


def test_exact_means_shrink_nothing() -> None:
    """Batches that agree have no noise.

    What is missing is known, and nothing missing (0 / 0) stays nothing and counts as not known.
    """
    achieved = seen((A, [0.4, 0.0]), (A, [0.4, 0.0]), (B, [0.0, 1.0]), (B, [0.0, 1.0]))
    got = shrunk(achieved, "plain")
    torch.testing.assert_close(got, torch.tensor([[0.6, 0.0], [0.0, 0.0]]), atol=1e-6, rtol=0)
    assert achieved.known(means(achieved), BOTH, "plain").tolist() == [[1.0], [0.0]]


def test_noise_along_the_ray_does_not_count() -> None:
    """p = (3/4, 1/4), u^2 = (0.9, 0.1).

    Of the noise in ranges (1 and 2) a tenth of the first objective's stands at right angles and nine tenths of the
    second's.
    Of the corners' noise all of the other objective's does, where they miss nothing."""
    some = torch.tensor([[0.75, 0.25]])
    everyone = torch.cat([A, B, some])
    achieved = seen((A, [1.0, 0.0]), (B, [0.0, 2.0]), (some, [0.2, 1.0]), (some, [0.4, 1.2]))
    reached = torch.tensor(list(achieved.means.values()))
    squared = achieved.squared_error(everyone)[2]
    torch.testing.assert_close(
        squared, torch.tensor([0.02, 0.02]) * 1.81 / 3.61
    )  # one variance per objective, (0.4 - 0.2)^2 / 2 and (1.2 - 1)^2 / 2
    noise = 0.1 * squared[0] + 0.9 * squared[1] / 4
    missing = achieved.shortfall(reached, everyone, "ray", "relative")[2]
    kept = 1 - noise / missing.square().sum()
    assert 0 < kept < 1
    got = shrunk(achieved, "ray", "relative", reached, everyone)
    torch.testing.assert_close(got[2], missing * kept)
    torch.testing.assert_close(got[:2], torch.zeros(2, 2))
    # not divided by the ranges it is the same in the rewards' own unit
    torch.testing.assert_close(
        shrunk(achieved, "ray", "absolute", reached, everyone)[2], missing * kept * torch.tensor([1.0, 2.0])
    )


def after(method: Method, *rewards: list[float]) -> list[torch.Tensor]:
    """Return the objectives' weights after each batch of one sample of p = (1/2, 1/2)."""
    found = []
    for reward in rewards:
        scores = Scores(*[torch.tensor([reward])] * 3)
        found.append(
            method.combine(Batch(torch.ones(2, 1, 1), torch.ones(1, 1), torch.tensor([[0.5, 0.5]]), scores)).weights
        )
    return found


def make(**settings: object) -> Method:
    return catalogue.load("row", {"kind": "moc", "target": "plain", "shrink": True, **settings}, ["a", "b"])


def test_a_row_that_asks_for_a_direction_shrinks_by_the_noise_across_it() -> None:
    """The batches of the test above through the method.

    P = (3/4, 1/4) reaches r = (0.305263, 1.105263 / 2) of the ranges, u = (0.948683, 0.316228).

    u . r = 0.464355, d = (0.440526, 0.146842) - r = (0.135263, -0.405790), square 0.182961; noise 0.1 e + 0.9 e / 4
    with e = 0.02 * 1.81 / 3.61: 0.003259.
    """
    method = make(target="ray")
    for preference, reward in (
        ([1.0, 0.0], [1.0, 0.0]),
        ([0.0, 1.0], [0.0, 2.0]),
        ([0.75, 0.25], [0.2, 1.0]),
        ([0.75, 0.25], [0.4, 1.2]),
    ):
        got = method.combine(
            Batch(
                torch.ones(2, 1, 1), torch.ones(1, 1), torch.tensor([preference]), Scores(*[torch.tensor([reward])] * 3)
            )
        )
    assert got.logged[0] == ("known_share", "control", pytest.approx(1 - 0.003259 / 0.182961, abs=1e-5))


def test_phi_is_compared_with_the_square_without_its_noise() -> None:
    """As in the test below the mean 0.105263 misses by 0.394737.

    Square 0.155817 / 2 over the objectives, 0.145789 / 2 = 0.072894 without the noise.
    """
    assert float(after(make(multiplier=2.0, phi=0.0728), [0.0, 0.5], [0.2, 0.5])[1][0]) > 1
    assert after(make(multiplier=2.0, phi=0.0730), [0.0, 0.5], [0.2, 0.5])[1].tolist() == [0.5, 0.5]


def test_exact_search_follows_p_until_a_violation_is_known() -> None:
    """What falls short is scaled to sum 1, so that shrinking only says from when on."""
    first, second = after(make(weights="exact"), [0.0, 0.4], [0.2, 0.4])
    assert first.tolist() == [0.5, 0.5]
    torch.testing.assert_close(second, torch.tensor([0.394737, 0.1]) / 0.494737, atol=1e-5, rtol=0)


def test_shrinking_takes_the_even_mean() -> None:
    """Rewards 0 and 0.2: evenly 0.2 / 1.9 = 0.105263.

    Where the first batch weighs nine times the second it would be 0.02.
    """
    method = make()
    after(method, [0.0, 0.5], [0.2, 0.5])
    assert method.state()["mean w0.5-0.5"][0] == pytest.approx(0.105263, abs=1e-6)
    kept = make(shrink=False)
    after(kept, [0.0, 0.5], [0.2, 0.5])
    assert kept.state()["mean w0.5-0.5"][0] == pytest.approx(0.02)


def test_a_row_follows_p_until_it_knows_better() -> None:
    """One sample of p = (1/2, 1/2) a batch, target p, multiplier 2: rewards 0 and then 0.2, twice."""
    method = catalogue.load("row", {"kind": "moc", "target": "plain", "multiplier": 2.0, "shrink": True}, ["a", "b"])
    found = []
    for reward in (0.0, 0.2):
        scores = Scores(*[torch.tensor([[reward, 0.5]])] * 3)
        got = method.combine(Batch(torch.ones(2, 1, 1), torch.ones(1, 1), torch.tensor([[0.5, 0.5]]), scores))
        found.append((float(got.weights[0]), got.logged[0]))
    # mean 0.2 / 1.9 = 0.105263 misses by 0.394737, square 0.155817, of which 0.02 * 1.81 / 3.61 = 0.010028 are noise
    known = 1 - 0.010028 / 0.155817
    assert found[0] == (0.5, ("known_share", "control", 0.0))
    assert found[1][0] == pytest.approx(0.5 + 2 * 0.394737 * known, abs=1e-5)
    assert found[1][1] == ("known_share", "control", pytest.approx(known, abs=1e-5))
