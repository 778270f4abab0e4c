"""What the benchmark scripts return, at tiny sizes: the numbers' meaning, never their speed."""

import numpy as np
import pytest
import torch

from benchmarks import pama_cost
from moa.config_keys import Lora, Scratch

SCRATCH = Scratch(vocabulary=64, hidden=16, layers=1, heads=2, feed_forward=16, context=32)


@pytest.fixture(scope="module")
def work() -> pama_cost.Work:
    return pama_cost.work(SCRATCH, Lora(rank=2, alpha=4, dropout=0.0, targets="all-linear"), batch=3, prompt=4, response=5)


def test_slope_is_the_exponent() -> None:
    assert pama_cost.slope([1, 10, 100], [3, 300, 30_000]) == pytest.approx(2)


@pytest.mark.parametrize("way", pama_cost.WAYS)
def test_every_way_returns_the_gradient_of_its_weights(way: str, work: pama_cost.Work) -> None:
    """At ratio 1 the loss is linear in the advantages, so the gradient is the weighted sum of the objectives' gradients."""
    advantages = torch.randn(3, 3, 5)
    gradient, c = pama_cost.WAYS[way](work, advantages)
    assert c.min() >= 0 and float(c.sum()) == pytest.approx(1)
    alone = torch.stack([pama_cost.flat_gradient(work, pama_cost.logprobs(work), a, keep=False) for a in advantages])
    torch.testing.assert_close(gradient, c @ alone, atol=1e-6, rtol=1e-4)
    assert float(gradient.norm()) > 0


def test_mgda_has_the_shortest_gradient(work: pama_cost.Work) -> None:
    advantages = torch.randn(4, 3, 5)
    shortest = float(pama_cost.by_gradients(work, advantages)[0].norm())
    assert all(shortest <= float(other(work, advantages)[0].norm()) + 1e-6 for other in (pama_cost.by_advantages, pama_cost.by_closed_form))


def test_rows_and_page(work: pama_cost.Work) -> None:
    rows = pama_cost.closed_form_rows([4, 8], 2) + pama_cost.min_norm_rows([3, 5], 2) + pama_cost.step_rows(work, [2, 4], 2)
    assert len(rows) == 2 + 2 * 4 + 2 * 3
    assert all(0 < r["fastest"] <= r["median"] <= r["slowest"] and r["repeats"] == 2 for r in rows)
    d = sum(p.numel() for p in pama_cost.trainable(work))
    stored = {(r["way"][:4], r["n"]): r["floats"] for r in rows if r["part"] == "step"}
    assert stored["MGDA", 4] == 4 * d and stored["PAMA", 4] == d
    assert all(np.isfinite(r["median"]) for r in rows)
    page = pama_cost.page(rows, "python x.py", "a machine")
    assert page.count("MGDA: n backward passes") == 3  # two sizes and a slope
