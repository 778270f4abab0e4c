"""MOC, multi-objective control: one preference-conditioned policy (He et al. 2026, arXiv 2604.04497).

    max (J^1, ..., J^N)  s.t.  E[(1/N) sum_i (R~^i - p~_i)^2] <= phi

N reward streams and one control stream with reward r_{N+1}; the weights c solve  min c' M c  over the simplex, where
M_kl = mean_t A^k_t A^l_t is the Gram matrix of the advantages (the paper's upper bound, eq. 12: no backward pass);
one clipped PPO step on  A_t = sum_k c_k A^k_t.

Where the paper is silent or we had to choose (papers.md 1.2, 1.3; every choice is a switch):
1. Control reward: -max(0, mean_i (R~^i - p~_i)^2 - phi) per sample, or its gradient at the running mean reward of the
   preference (`control: mean`), because the constraint is on an expectation and the square also punishes variance.
2. Scale of R: quantiles of the reference policy's scores to [0, 1], clipped, or z-scores, or raw.
3. Target p~: p / max p (asks the middle preference for everything), p, or p against R normalised to sum 1.
4. Granularity of M: the whole batch, or one M per preference vector.
5. Solver: the paper's Frank-Wolfe misses the minimum by up to 0.04; away-steps are the default, `plain` keeps it.
6. Streams: the literal reading takes A^1..A^N, which ask for the same whatever p is, so that only the control stream
   carries the preference. `weighted` takes p_k A^k; see docs/methods/moc.md for what each does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from moa.methods import base
from moa.rl.weights import min_norm

if TYPE_CHECKING:
    from torch import Tensor

MEMORY = 0.9  # of the running mean reward per preference


class Settings(base.Settings):
    streams: Literal["literal", "weighted"] = "weighted"
    control: Literal["sample", "mean"] = "sample"
    scale: Literal["quantile", "zscore", "raw"] = "quantile"
    target: Literal["scaled", "plain", "simplex"] = "scaled"
    phi: float = Field(0.0, ge=0)
    granularity: Literal["batch", "preference"] = "batch"
    solver: Literal["away", "plain"] = "away"


def targets(preferences: Tensor, target: str) -> Tensor:
    """Return p~ (B, K): p / max p ('scaled'), else p."""
    return preferences / preferences.amax(1, keepdim=True) if target == "scaled" else preferences


def on_scale(scores: base.Scores, scale: str, target: str) -> Tensor:
    """Return R~ (B, K) on the switch's scale; 'simplex' divides the positive part by its sum."""
    scaled = {"quantile": scores.quantile.clamp(0, 1), "zscore": scores.zscore, "raw": scores.raw}[scale]
    if target != "simplex":
        return scaled
    positive = scaled.clamp(min=1e-6)
    return positive / positive.sum(1, keepdim=True)


def control_per_sample(rewards: Tensor, wanted: Tensor, phi: float) -> Tensor:
    """Return -max(0, (1/N) sum_i (R~^i - p~_i)^2 - phi), (B,), from two (B, N)."""
    return -((rewards - wanted).square().mean(1) - phi).clamp(min=0)


def control_on_mean(rewards: Tensor, wanted: Tensor, mean: Tensor) -> Tensor:
    """Return -(2/N) sum_i (Rbar^i_p - p~_i)(R~^i - p~_i), (B,); `mean` (B, N) is each sample's preference's mean reward."""
    return -2.0 * ((mean - wanted) * (rewards - wanted)).mean(1)


def gram(advantages: Tensor, mask: Tensor) -> Tensor:
    """Return M (H, H) = mean_t A^k_t A^l_t over the mask's tokens, from (H, B, T)."""
    flat = (advantages * mask).flatten(1).double()
    return flat @ flat.T / mask.sum()


class Method(base.Method):
    """One preference-conditioned policy with a control stream."""

    schema = Settings
    settings: Settings
    conditioned = True
    extra_heads = ("control",)

    def __init__(self, row: str, settings: Settings, objectives: list[str]) -> None:
        super().__init__(row, settings, objectives)
        self.means: dict[str, list[float]] = {}

    def extra_rewards(self, scores: base.Scores, preferences: Tensor) -> Tensor:
        wanted = targets(preferences, self.settings.target)
        rewards = on_scale(scores, self.settings.scale, self.settings.target)
        if self.settings.control == "sample":
            return control_per_sample(rewards, wanted, self.settings.phi)[:, None]
        return control_on_mean(rewards, wanted, self._running_means(rewards, preferences))[:, None]

    def control_error(self, scores: base.Scores, preferences: Tensor) -> Tensor:
        wanted = targets(preferences, self.settings.target)
        return (on_scale(scores, self.settings.scale, self.settings.target) - wanted).square().mean()

    def _running_means(self, rewards: Tensor, preferences: Tensor) -> Tensor:
        means = rewards.clone()
        for preference in preferences.unique(dim=0):
            rows = (preferences == preference).all(1)
            key, now = base.label(preference.tolist()), rewards[rows].mean(0).tolist()
            before = self.means.get(key, now)
            self.means[key] = [MEMORY * b + (1 - MEMORY) * n for b, n in zip(before, now, strict=True)]
            means[rows] = rewards.new_tensor(self.means[key])
        return means

    def combine(self, batch: base.Batch) -> base.Combination:
        advantages, mask, preferences = batch.advantages, batch.mask, batch.preferences
        streams = advantages
        if self.settings.streams == "weighted":
            share = preferences.new_ones(preferences.shape[0], advantages.shape[0])
            share[:, : preferences.shape[1]] = preferences
            streams = advantages * share.T[:, :, None]
        weights = preferences.new_zeros(preferences.shape[0], advantages.shape[0])
        for rows in self._groups(preferences):
            c = min_norm(gram(streams[:, rows], mask[rows]).cpu().numpy(), away=self.settings.solver == "away", limit=5_000 if self.settings.solver == "away" else 250).weights
            weights[rows] = weights.new_tensor(c)
        return base.weighted(streams, weights)

    def _groups(self, preferences: Tensor) -> list[Tensor]:
        if self.settings.granularity == "batch":
            return [preferences[:, 0] >= 0]
        return [(preferences == p).all(1) for p in preferences.unique(dim=0)]

    def state(self) -> dict[str, list[float]]:
        return self.means

    def restore(self, state: dict[str, list[float]]) -> None:
        self.means = state
