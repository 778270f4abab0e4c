"""MOC, multi-objective control: one preference-conditioned policy (He et al. 2026, arXiv 2604.04497).

    max (J^1, ..., J^N)  s.t.  E[(1/N) sum_i (R~^i - p~_i)^2] <= phi

Reward streams and one control stream; the weights c solve  min c' M c  over the simplex, where M_kl = mean_t S^k_t S^l_t is
the Gram matrix of the streams' advantages (the paper's upper bound, eq. 12: no backward pass); one clipped PPO step on
A_t = sum_k c_k S^k_t.

Where the paper is silent or we had to choose (docs/papers.md 1.2, 1.3; every choice is a switch, measured in
docs/methods/moc.md):
1. Streams. `literal` takes A^1..A^N, which ask for the same whatever p is, so that only the control stream carries the
   preference; `weighted` takes p_k A^k; `utility` their sum, so that two streams are weighed: utility and control.
2. Control. -max(0, mean_i (R~^i - p~_i)^2 - phi) per sample; or its gradient at the running mean reward of the
   preference (`mean`), because the constraint is on an expectation and the square also punishes variance; or the same
   without a value head of its own (`feedback`): advantages are linear in rewards, so the constraint's advantage is
   (2/N) sum_i (p~_i - Rbar^i_p) A^i, whose size is the violation, where whitening would blow a met constraint up to
   noise.
3. Scale of R: quantiles of the reference policy's scores to [0, 1], or z-scores, or raw. Against targets on the whole
   of [0, 1] quantiles are clipped: a response's own, or the mean of those that a mean is taken of.
4. Target p~: p / max p (asks the middle preference for everything), p, p against R normalised to sum 1, or p / max p
   within the range of rewards that the preferences achieve so far (`range`), or p / |p| within it (`arc`): p / max p
   asks every preference above 1/2 for the whole range of its objective and so for no order among them. Both ask the
   middle for a height that a straight front does not have; `ray` asks for the direction of p alone, as far out as the
   preference has come.
5. Weights. `min_norm` as the paper has it; `uniform`; `exact`, as exact Pareto search goes (Mahapatra and Rajan 2020):
   a preference whose constraint is violated raises what falls short of its target alone, one within phi follows p; or
   `lagrangian`: reward streams at 1, control at a fixed multiplier. With utility and feedback the last one weighs
   objective i by p_i + multiplier (2/N) (p~_i - Rbar^i_p): the default, because min-norm gives the smallest stream the
   most weight, and a nearly met constraint is the smallest.
6. Objectives' weights. The square asks for less of an objective that exceeds its target, also where that costs the
   others nothing: its weight p_i + multiplier (2/N) (p~_i - Rbar^i_p) is negative then (`signed`). `nonnegative`, the
   default, stops it at 0: no point of a front is improved by pushing an objective down. A preference that exceeds all
   its targets then hardly trains, one that falls short trains many times as hard; `simplex` takes the nearest weights
   that sum to 1, so that control decides the direction and never the speed.
7. Shortfall of `feedback`: `relative` to the achieved range where the target lies within that, so that both objectives
   count alike; `absolute`; or `centred`, absolute less the batch's mean per objective: control then moves weight
   between preferences and never from one objective to another. Uncentred, an objective that lags has a narrow range,
   most preferences exceed their targets in it, and it loses weight. A running mean of a few responses is noise as much
   as reward, and the multiplier makes weights of it. With `shrink` a shortfall counts as far as it can be told from
   that (a positive-part factor of James and Stein's form): the constraint is on expectations.
8. Granularity of M: the whole batch, or one M per preference vector; M may be smoothed over batches.
9. Solver: the paper's Frank-Wolfe misses the minimum by up to 0.04; away-steps are the default, `plain` keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from moa import method
from moa.errors import MoaError
from moa.rl.control import WITHIN, Achieved, Scale, Shortfall, Target, bounded, on_mean, on_scale, per_sample
from moa.rl.weights import Solution, solve, to_simplex

if TYPE_CHECKING:
    from torch import Tensor

    from moa.experiment.keys import Ppo


UNREAD = {
    "min_norm": ("multiplier",),
    "uniform": ("multiplier", "smoothing", "solver", "granularity"),
    "lagrangian": ("smoothing", "solver", "granularity"),
    "exact": ("multiplier", "smoothing", "solver", "granularity", "objective_weights", "shortfall"),
}  # settings, by `weights`


class Settings(method.LoopSettings):
    streams: Literal["literal", "weighted", "utility"] = "utility"
    control: Literal["sample", "mean", "feedback"] = "feedback"
    scale: Scale = "quantile"
    target: Target = "arc"
    shortfall: Shortfall = "relative"  # of `feedback`
    shrink: bool = False  # of `feedback`: what is missing counts as far as it can be told from noise
    phi: float = Field(0.0, ge=0)
    weights: Literal["min_norm", "uniform", "lagrangian", "exact"] = "lagrangian"
    multiplier: float = Field(4.0, ge=0)  # of `lagrangian`
    objective_weights: Literal["signed", "nonnegative", "simplex"] = (
        "nonnegative"  # what exceeds its target is not given up for its own sake
    )
    granularity: Literal["batch", "preference"] = "batch"
    smoothing: float = Field(0.0, ge=0, lt=1)  # of M over batches: the share of the past
    solver: Literal["away", "plain"] = "away"

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.control == "feedback" and self.target == "simplex":
            raise ValueError(
                "control: feedback needs a target that is linear in the rewards; shares of their sum (target: simplex)"
                " are not"
            )
        for name in UNREAD[self.weights]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is not read with weights: {self.weights}; leave it out")
        if self.weights == "exact" and (self.control, self.streams) != ("feedback", "utility"):
            raise ValueError(
                "weights: exact goes with control: feedback and streams: utility; it follows the one or the other"
            )
        if self.control != "feedback" and self.objective_weights == "signed":
            raise ValueError(
                "objective_weights: signed goes with control: feedback; a control stream of its own never asks for less"
                " of an objective"
            )
        if self.control != "feedback" and self.shortfall != "relative":
            raise ValueError(
                f"shortfall: {self.shortfall} goes with control: feedback, which weighs objectives by what falls short"
            )
        if (
            self.control == "feedback"
            and self.weights in ("min_norm", "uniform")
            and self.objective_weights != "signed"
        ):
            raise ValueError(
                f"weights: {self.weights} weighs whole streams, and control: feedback is one that may ask for less of"
                " an objective: add objective_weights: signed"
            )
        if self.objective_weights == "simplex" and (self.control, self.weights) != ("feedback", "lagrangian"):
            raise ValueError(
                "objective_weights: simplex goes with control: feedback and weights: lagrangian, where all weights are"
                " of objectives"
            )
        if self.shrink and (self.control != "feedback" or self.weights not in ("lagrangian", "exact")):
            raise ValueError(
                "shrink: true goes with control: feedback and weights: lagrangian or exact; a stream that is 0 until it"
                " is known would get all of min-norm's weight"
            )
        return self


def gram(streams: Tensor, mask: Tensor) -> Tensor:
    """Return M (S, S) = mean_t S^k_t S^l_t over the mask's tokens, from (S, B, T)."""
    flat = (streams * mask).flatten(1).double()
    return flat @ flat.T / mask.sum()


class Method(method.Method):
    """One preference-conditioned policy with a control stream."""

    schema = Settings
    settings: Settings
    conditioned = True

    def __init__(self, row: str, settings: Settings, objectives: list[str]) -> None:
        super().__init__(row, settings, objectives)
        self.extra_heads = () if settings.control == "feedback" else ("control",)
        self.achieved = Achieved(even=settings.shrink)
        self.grams: dict[str, list[float]] = {}
        self.keeps_means = (
            settings.control != "sample" or settings.target in WITHIN
        )  # a running mean per training preference

    def check(self, ppo: Ppo, dirichlet: float | None) -> None:
        if dirichlet is None:
            return
        how = self.settings
        anew = (
            f"but preferences.dirichlet ({dirichlet:g}) draws every one anew; set it to null to train on the lattice of"
            " preferences.training"
        )
        if self.keeps_means:
            raise MoaError(
                f"methods.{self.row}: control: {how.control} with target: {how.target} keeps a running mean reward per"
                f" training preference, {anew}, or choose control: sample with target: scaled, plain or simplex"
            )
        if how.weights == "min_norm" and how.granularity == "preference" and how.smoothing:
            kept = f"smoothing: {how.smoothing:g} with granularity: preference keeps a matrix per training preference"
            raise MoaError(f"methods.{self.row}: {kept}, {anew}, or choose granularity: batch")

    def extra_rewards(self, scores: method.Scores, preferences: Tensor) -> Tensor:
        how = self.settings
        if how.control == "feedback":
            return super().extra_rewards(scores, preferences)
        rewards = on_scale(scores, how.scale, how.target)
        means = bounded(
            self.achieved.update(rewards, preferences) if self.keeps_means else rewards, how.scale, how.target
        )
        wanted = self.achieved.wanted(preferences, how.target)
        if how.control == "sample":
            return per_sample(bounded(rewards, how.scale, how.target), wanted, how.phi)[:, None]
        return on_mean(rewards, wanted, means, how.phi)[:, None]

    def control_error(self, scores: method.Scores, preferences: Tensor) -> Tensor:
        how = self.settings
        wanted = self.achieved.wanted(preferences, how.target)
        return (bounded(on_scale(scores, how.scale, how.target), how.scale, how.target) - wanted).square().mean()

    def combine(self, batch: method.Batch) -> method.Combination:
        if self.settings.weights == "exact":
            return self._search(batch)
        shares, logged = self._shares(batch)
        coefficients = batch.preferences.new_zeros(shares.shape[1:])
        mean, gap = batch.preferences.new_zeros(len(shares)), 0.0
        groups = self._groups(batch.preferences)
        for name, rows in groups.items():
            found = self._weigh(name, batch, shares, rows)
            c = mean.new_tensor(found.weights)
            coefficients[rows] = (c[:, None, None] * shares[:, rows]).sum(0)
            mean, gap = mean + c * rows.float().mean(), max(gap, found.gap)
        if self.settings.objective_weights == "simplex":
            coefficients = to_simplex(coefficients)
        elif self.settings.objective_weights == "nonnegative":
            coefficients = coefficients.clamp(min=0.0)
        logged += [("stream_weight", name, float(c)) for name, c in zip(self._names(), mean, strict=True)]
        return method.weighted(batch.advantages, coefficients)._replace(logged=(*logged, ("duality_gap", "all", gap)))

    def _search(self, batch: method.Batch) -> method.Combination:
        """Weigh objectives by what falls short of the target, scaled to sum 1, where the constraint is violated.

        By p where it is met or everything exceeds its target.
        """
        violation, known = self._violation(batch)
        short = violation.clamp(min=0)
        total = short.sum(1, keepdim=True)
        violated = total > 0
        balanced = float(violated.float().mean())
        logged = (*known, ("stream_weight", "utility", 1 - balanced), ("stream_weight", "control", balanced))
        return method.weighted(batch.advantages, (short / total).where(violated, batch.preferences))._replace(
            logged=logged
        )

    def _names(self) -> list[str]:
        return [*(["utility"] if self.settings.streams == "utility" else self.objectives), "control"]

    def _shares(self, batch: method.Batch) -> tuple[Tensor, list[method.Logged]]:
        """Return (S, B, H): stream S^s of sample b is sum_h shares_sbh A^h_b; and what the curve should show of it."""
        preferences, heads = batch.preferences, len(batch.advantages)
        k = preferences.shape[1]
        shares = preferences.new_zeros(len(self._names()), len(preferences), heads)
        logged: list[method.Logged] = []
        for i in range(k):
            row = 0 if self.settings.streams == "utility" else i
            shares[row, :, i] = 1.0 if self.settings.streams == "literal" else preferences[:, i]
        if self.settings.control == "feedback":
            violation, logged = self._violation(batch)
            shares[-1, :, :k] = 2 / k * violation
        else:
            shares[-1, :, -1] = 1.0
        return shares, logged

    def _violation(self, batch: method.Batch) -> tuple[Tensor, list[method.Logged]]:
        """Return p~ - Rbar_p (B, K), 0 where the preference's mean squared distance is within phi, and the share of it that is known.

        'centred' takes off the batch's mean.
        """
        how = self.settings
        means = bounded(
            self.achieved.update(on_scale(batch.scores, how.scale, how.target), batch.preferences),
            how.scale,
            how.target,
        )
        shortfall = self.achieved.shortfall(means, batch.preferences, how.target, how.shortfall)
        known = self.achieved.known(means, batch.preferences, how.target)
        counted = known if how.shrink else 1.0
        # Shrunk once, the square is what it is without its noise; that of what is left would be shrunk twice.
        shortfall = shortfall * counted * (shortfall.square().mean(1, keepdim=True) * counted > how.phi)
        return shortfall - shortfall.mean(0) if how.shortfall == "centred" else shortfall, [
            ("known_share", "control", float(known.mean()))
        ]

    def _weigh(self, group: str, batch: method.Batch, shares: Tensor, rows: Tensor) -> Solution:
        """Return one group's weights c (S,) of the streams."""
        size = len(shares)
        if self.settings.weights == "uniform":
            return Solution(np.full(size, 1 / size), 0.0, 0)
        if self.settings.weights == "lagrangian":
            return Solution(np.array([*[1.0] * (size - 1), self.settings.multiplier]), 0.0, 0)
        streams = (shares[:, rows, :, None] * batch.advantages[:, rows].movedim(0, 1)).sum(2)
        matrix = gram(streams, batch.mask[rows])
        if self.settings.smoothing:
            before = self.grams.get(group)
            if before is not None:
                matrix = (
                    self.settings.smoothing * matrix.new_tensor(before).view(size, size)
                    + (1 - self.settings.smoothing) * matrix
                )
            self.grams[group] = matrix.flatten().tolist()
        return solve(matrix.cpu().numpy(), self.settings.solver)

    def _groups(self, preferences: Tensor) -> dict[str, Tensor]:
        """Return which samples (B,) share a Gram matrix, by the group's name."""
        if self.settings.granularity == "batch":
            return {"batch": preferences[:, 0] >= 0}
        return {method.label(p.tolist()): (preferences == p).all(1) for p in preferences.unique(dim=0)}

    def state(self) -> dict[str, list[float]]:
        return self.achieved.state() | {f"gram {k}": v for k, v in self.grams.items()}

    def restore(self, state: dict[str, list[float]]) -> None:
        self.achieved.restore(state)
        self.grams = {k.removeprefix("gram "): v for k, v in state.items() if k.startswith("gram ")}
