"""MOC, multi-objective control: one preference-conditioned policy (He et al. 2026, arXiv 2604.04497).

    max (J^1, ..., J^N)   s.t.   E[(1/N) sum_i (R~^i - p~_i)^2] <= phi
    r_{N+1} = -max(0, (1/N) sum_i (R~^i - p~_i)^2 - phi)                        the control stream's reward
    c* = argmin over the simplex of c' M c,     M_kl = mean_t S^k_t S^l_t       eq. 10 and 12: no backward pass
    A_t = sum_k c*_k S^k_t                                                      eq. 7: one clipped PPO step

S are the advantages of the reward streams and of the control stream. The preference p stands in the prompt.

What the paper leaves open (docs/papers.md 1.2, 1.3) and is a setting:
1. `streams`: `literal` takes A^1..A^N, which ask for the same whatever p is; `utility` takes sum_i p_i A^i.
2. `target` p~: p / max p (`scaled`), or that within the range of mean rewards achieved so far (`range`).
3. `phi`: the threshold; the paper's value is unknown.
Choices that were measured (studies/moc): R~ is on the quantile scale; the square is each response's own; one M a batch.
Streams are brought to unit size first (`whiten: batch`): on one reward scale control is the smallest, and least norm
gives it all the weight.
Frank-Wolfe takes away-steps: plain Frank-Wolfe misses the minimum by up to 0.04 (tests/unit/test_golden.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from moa import method
from moa.errors import MoaError
from moa.experiment.keys import Whiten
from moa.rl.control import Achieved, scaled
from moa.rl.weights import gram, min_norm

if TYPE_CHECKING:
    from torch import Tensor

    from moa.experiment.keys import Ppo


class Settings(method.LoopSettings):
    whiten: Whiten | None = "batch"
    """This row's ppo.whiten: every stream at unit size before it is weighed; null takes the run's. On one reward scale
    control is the smallest stream, and min-norm gives it all the weight. Source: one seed: studies/one_reward_scale."""
    streams: Literal["literal", "utility"] = "utility"
    """What min-norm weighs against control: sum_i p_i A^i (`utility`), or every A^i by itself (`literal`).
    Source: measured: studies/moc."""
    target: Literal["scaled", "range"] = "range"
    """What a preference asks for: p / max p, of the whole scale (`scaled`) or of the range that the preferences achieve
    so far. Source: measured: studies/moc."""
    phi: float = Field(0.0, ge=0)
    """Mean squared distance between rewards and target that the constraint allows."""


class Method(method.Method):
    """One preference-conditioned policy with a control stream."""

    schema = Settings
    settings: Settings
    conditioned = True
    extra_heads = ("control",)

    def __init__(self, row: str, settings: Settings, objectives: list[str]) -> None:
        super().__init__(row, settings, objectives)
        self.achieved = Achieved()

    def check(self, ppo: Ppo, dirichlet: float | None) -> None:
        if dirichlet is not None and self.settings.target == "range":
            raise MoaError(
                f"methods.{self.row}: target: range keeps a running mean reward per training preference, but "
                f"preferences.dirichlet ({dirichlet:g}) draws every one anew; set it to null to train on the lattice "
                "of preferences.training, or choose target: scaled"
            )

    def extra_rewards(self, scores: method.Scores, preferences: Tensor) -> Tensor:
        """Return the control stream's reward -max(0, (1/N) sum_i (R~^i - p~_i)^2 - phi), (B, 1)."""
        if self.settings.target == "range":
            self.achieved.update(scores.quantile, preferences)
        return -(self._distance(scores, preferences) - self.settings.phi).clamp(min=0)[:, None]

    def control_error(self, scores: method.Scores, preferences: Tensor) -> Tensor:
        return self._distance(scores, preferences).mean()

    def _distance(self, scores: method.Scores, preferences: Tensor) -> Tensor:
        """Return (1/N) sum_i (R~^i - p~_i)^2, (B,); against targets on the whole scale rewards are clipped to it."""
        if self.settings.target == "scaled":
            return (scores.quantile.clamp(0, 1) - scaled(preferences)).square().mean(1)
        low, width = self.achieved.range(preferences)
        return (scores.quantile - (low + width * scaled(preferences))).square().mean(1)

    def combine(self, batch: method.Batch) -> method.Combination:
        utility, p, advantages = self.settings.streams == "utility", batch.preferences, batch.advantages
        rewards = (p.T[:, :, None] * advantages[:-1]).sum(0, keepdim=True) if utility else advantages[:-1]
        streams = rewards.new_empty(len(rewards) + 1, *batch.mask.shape)
        streams[:-1], streams[-1] = rewards, advantages[-1]
        found = min_norm(gram(streams, batch.mask).cpu().numpy())
        c = streams.new_tensor(found.weights)
        names = [*(["utility"] if utility else self.objectives), "control"]
        logged = [("stream_weight", name, float(weight)) for name, weight in zip(names, c, strict=True)]
        weights = advantages.new_empty(len(advantages))  # of the value heads, on average
        weights[:-1], weights[-1] = (c[0] * p.mean(0) if utility else c[:-1]), c[-1]
        combined = (c[:, None, None] * streams).sum(0)
        return method.Combination(combined, weights, (*logged, ("duality_gap", "all", found.gap)))

    def state(self) -> dict[str, list[float]]:
        return self.achieved.state()

    def restore(self, state: dict[str, list[float]]) -> None:
        self.achieved.restore(state)
