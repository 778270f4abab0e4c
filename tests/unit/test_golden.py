"""Numbers of independent implementations (tests/golden; source in the file's `about`): tolerance 1e-5."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moa.rl.advantages import gae, whiten
from moa.rl.losses import Tokens, approximate_kl, policy_loss, value_loss
from moa.rl.weights import min_norm

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "ppo_and_min_norm.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["ppo"], ids=range(len(GOLDEN["ppo"])))
def test_ppo_matches_trl(case: dict[str, Any]) -> None:
    x = {k: torch.tensor(v, dtype=torch.float32) for k, v in case["inputs"].items()}
    s, expected, mask = case["settings"], case["expected"], x["mask"]
    total = mask.sum()
    advantages, returns = gae(x["values"], x["rewards"], mask, s["gamma"], s["lam"])
    advantages = whiten(advantages, mask)
    torch.testing.assert_close(advantages * mask, torch.tensor(expected["advantages_whitened"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(returns, torch.tensor(expected["returns"]), atol=1e-5, rtol=0)
    loss, clipped = policy_loss(x["new_logprobs"], x["old_logprobs"], advantages, Tokens(mask, total), s["cliprange"])
    assert float(loss) == pytest.approx(expected["policy_loss"], abs=1e-5)
    assert float(clipped) == pytest.approx(expected["clip_fraction"], abs=1e-5)
    values = value_loss(
        x["new_values"][None], (x["values"] * mask)[None], returns[None], Tokens(mask, total), s["cliprange_value"]
    )
    assert s["vf_coef"] * float(values[0]) == pytest.approx(expected["value_loss_times_vf_coef"], abs=1e-5)
    assert float(approximate_kl(x["new_logprobs"], x["old_logprobs"], mask)) == pytest.approx(
        expected["approx_kl"], abs=1e-5
    )


@pytest.mark.parametrize("case", GOLDEN["min_norm"], ids=[len(c["gram"]) for c in GOLDEN["min_norm"]])
def test_min_norm_matches_slsqp(case: dict[str, Any]) -> None:
    gram = np.array(case["gram"])
    solution = min_norm(gram)
    np.testing.assert_allclose(solution.weights, case["weights"], atol=1e-6, rtol=0)
    assert float(solution.weights @ gram @ solution.weights) == pytest.approx(case["value"], abs=1e-6)


def plain_frank_wolfe(gram: np.ndarray, iterations: int = 250) -> np.ndarray:
    """Frank-Wolfe with exact line search and no away-steps, after the 250 iterations of Sener and Koltun's code."""
    c = np.full(len(gram), 1 / len(gram))
    for _ in range(iterations):
        g = gram @ c
        d = -c
        d[np.argmin(g)] += 1.0
        curvature = d @ gram @ d
        c = c + (min(1.0, max(0.0, -(g @ d) / curvature)) if curvature > 0 else 0.0) * d
    return c


def test_plain_frank_wolfe_misses_the_minimum() -> None:
    """After its 250 iterations the papers' solver is off by up to 0.04 for 4 to 12 objectives: hence away-steps."""
    large = [case for case in GOLDEN["min_norm"] if len(case["gram"]) >= 4]
    misses = [float(np.abs(plain_frank_wolfe(np.array(c["gram"])) - c["weights"]).max()) for c in large]
    assert 0.01 < max(misses) < 0.04
    assert max(float(np.abs(min_norm(np.array(c["gram"])).weights - c["weights"]).max()) for c in large) < 1e-6
