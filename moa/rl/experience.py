"""Experience: what one batch of rollouts tells the update. Notation as in moa/method.py: K, H, B, T."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moa.errors import Diverged, NotFinite
from moa.experiment.keys import Ppo
from moa.experiment.preferences import Preference
from moa.lm.generation import Rollout, sample_in_parts
from moa.method import Batch, Combination, Method, Scores
from moa.rl.actor import Actor
from moa.rl.advantages import masked_mean
from moa.rl.estimation import Scale, estimate, scale_combined, shape_advantages, token_rewards
from moa.rl.reading import AGREES, Reading, mismatch, read_all, without_trace

RATE = "ppo.learning_rate or raise ppo.kl.coefficient"
VALUE_RATE = "ppo.value_learning_rate (null takes ppo.learning_rate)"
# Widths of its scale that a reward may be away from 0. A constraint squares it, an advantage's size squares that, and
# the sum over a batch's tokens must stay in float32: (1e8)^4 = 1e32.
LARGEST = 1e8
ScoreBatch = Callable[[Sequence[str], Sequence[str]], NDArray[np.float32]]  # prompts, responses -> (B, K) raw


@dataclass
class Task:
    """What a policy is trained on.

    Attributes:
        prompts: as rewards see them, without preference.
        text_of: the prompt as the policy reads it.
        score: gives (B, K) raw scores.
        scale: the normaliser.
        training: the preferences to train at.
        dirichlet: concentration of the preferences drawn instead; None trains on `training`.
    """

    prompts: Sequence[str]
    text_of: Callable[[str, Preference | None], str]
    score: ScoreBatch
    scale: Scale
    training: Sequence[Preference]
    dirichlet: float | None


@dataclass(frozen=True)
class Asked:
    """What a step asks.

    Attributes:
        seed: of the training.
        step: its number.
        prompts: B prompts as rewards see them; a group's `ppo.group_size` stand beside each other.
        texts: B prompts as the policy reads them.
        preferences: (B, K).
    """

    seed: int
    step: int
    prompts: Sequence[str]
    texts: Sequence[str]
    preferences: Tensor


@dataclass(frozen=True)
class Experience:
    """One batch, everything the update reads. Token tensors are (B, T), stream tensors (H, B, T).

    Attributes:
        mismatch: how far the sampler's log-probabilities were from a reading's, in nats (`reading.mismatch`).
        loss_mask: 1 on the tokens that the losses read: the responses' without those that `ppo.unfinished` leaves out.
    """

    rollout: Rollout
    mismatch: float
    loss_mask: Tensor
    preferences: Tensor
    scores: Scores
    extra: Tensor
    seen: Reading
    returns: Tensor
    advantages: Tensor
    combination: Combination


def finite(tensor: Tensor, name: str, step: int) -> Tensor:
    """Return the tensor, or raise Diverged naming the step and the tensor."""
    if not torch.isfinite(tensor).all():
        raise diverged(name, step)
    return tensor


def diverged(name: str, step: int, remedy: str = RATE) -> Diverged:
    """Return the error of a tensor that is not finite; `remedy` goes on from "Lower"."""
    return Diverged(
        f"step {step}: {name} is NaN or infinite; training stopped, the last good checkpoint is kept. "
        f"Lower {remedy} and run again: with other settings training starts anew"
    )


def scored(
    task: Task, objectives: Sequence[str], prompts: Sequence[str], responses: Sequence[str], when: str
) -> Scores:
    """Score responses and look at the scores (`checked`).

    A reward may draw random numbers, a lazy one in its first call alone. The generator is put back to where it was, so
    that a resumed step draws what it would have.
    """
    with torch.random.fork_rng(devices=[]):  # what the trainers draw after this, they draw on the CPU
        raw = torch.from_numpy(task.score(prompts, responses)).to(task.scale.low.device)
    return checked(task.scale.apply(raw), task.scale, objectives, when)


def checked(scores: Scores, scale: Scale, objectives: Sequence[str], when: str) -> Scores:
    """Return the scores; `when` says where training is, for messages.

    Raises:
        Diverged: one is not finite, or too large to compute with. It names the objective: no setting of the training
            mends its reward.
    """
    for k, name in enumerate(objectives):
        column, odd = scores.raw[:, k], ~(scores.quantile[:, k].abs() <= LARGEST)  # NaN is not below it
        if not odd.any():
            continue
        what = "NaN or infinite"
        if torch.isfinite(column).all():
            low, high = float(scale.low[k]), float(scale.high[k])
            what = f"too large to compute with ({float(column[odd][0]):.3g} on a scale from {low:.3g} to {high:.3g})"
        raise Diverged(
            f"{when}: the reward of objective '{name}' is {what} for {int(odd.sum())} of {len(column)} responses;"
            " training stopped, the last good checkpoint is kept. Correct the reward's function or model (section"
            " `rewards`), then run again"
        )
    return scores


@dataclass(frozen=True)
class Collector:
    """Makes experience: what stays the same over all steps of a training."""

    actor: Actor
    method: Method
    ppo: Ppo
    task: Task

    def collect(self, asked: Asked, kl_coefficient: float, micro: int, rollout_rows: int) -> Experience:
        """Roll out, score and estimate advantages for one batch.

        Args:
            asked: prompts and preferences.
            kl_coefficient: of the reference KL; enters the rewards only where `ppo.kl.place` is 'heads'.
            micro: rows per forward pass.
            rollout_rows: prompts that are sampled at a time.

        Raises:
            Diverged: a number is not finite.
        """
        actor, method, ppo, step = self.actor, self.method, self.ppo, asked.step
        try:
            rollout = self._sample(asked, rollout_rows)
        except NotFinite as error:
            raise diverged("the policy's next-token distribution", step) from error
        mask = rollout.response_mask
        scores = scored(self.task, method.objectives, asked.prompts, rollout.texts, f"step {step}")
        extra = method.extra_rewards(scores, asked.preferences)
        off = mismatch(actor, rollout)
        if off > AGREES:  # the policy is read again
            rollout = without_trace(rollout)
        seen = read_all(actor, rollout, micro, method.reads_sensitivity)
        if not torch.isfinite(seen.values).all():
            raise diverged("a value", step, VALUE_RATE)
        finite(seen.logprobs * mask, "the policy's log-probability", step)
        finished = rollout.finished.to(mask)[:, None]
        worth = torch.cat([scores.quantile, extra], 1) - ppo.unfinished_penalty * (1 - finished)
        rewards = token_rewards(worth, mask)
        if ppo.kl.place == "heads":
            rewards = rewards - kl_coefficient * (seen.logprobs - seen.reference_logprobs) * mask
        advantages, returns = estimate(ppo, seen.values, rewards, mask)
        advantages = finite(shape_advantages(method, ppo, advantages, mask), "an advantage", step)
        sensitive = seen.sensitivity * mask if method.reads_sensitivity else None
        combination = method.combine(Batch(advantages, mask, asked.preferences, scores, sensitive))
        combination = scale_combined(ppo, combination, mask)
        finite(combination.advantages, "the combined advantage", step)
        return Experience(
            rollout=without_trace(rollout),
            mismatch=off,
            loss_mask=mask if ppo.unfinished == "keep" else mask * finished,
            preferences=asked.preferences,
            scores=scores,
            extra=extra,
            seen=seen._replace(values=seen.values * mask),
            returns=returns,
            advantages=advantages,
            combination=combination,
        )

    def _sample(self, asked: Asked, rows: int) -> Rollout:
        """Sample the batch, `rows` responses at a time; each draws its own numbers."""
        actor = self.actor
        keys = [f"{asked.seed} {asked.step} {i}" for i in range(len(asked.texts))]

        def draw(part: slice) -> Rollout:
            return actor.sample(asked.texts[part], keys[part], actor.traces)

        return sample_in_parts(draw, len(keys), rows, int(actor.tokenizer.pad_token_id))


def summary(experience: Experience, method: Method, streams: Sequence[str]) -> list[tuple[str, str, float]]:
    """Return (quantity, objective, value) of what the rollouts show, for the curve."""
    mask = experience.rollout.response_mask
    rows = []
    for k, name in enumerate(method.objectives):
        rows.append(("reward", name, float(experience.scores.raw[:, k].mean())))
        rows.append(("normalised_reward", name, float(experience.scores.quantile[:, k].mean())))
        rows.append(
            ("advantage_share", name, float(((experience.advantages[k].abs() > 1e-6) * mask).sum() / mask.sum()))
        )
    for k, name in enumerate(streams[len(method.objectives) :]):
        rows.append(("reward", name, float(experience.extra[:, k].mean())))
    rows += [("weight", name, float(c)) for name, c in zip(streams, experience.combination.weights, strict=True)]
    rows += experience.combination.logged
    lengths = mask.sum(1)
    rows += [
        ("advantage_share", "all", float(masked_mean((experience.combination.advantages.abs() > 1e-6).float(), mask))),
        ("combined_norm", "all", float(masked_mean(experience.combination.advantages.square(), mask).sqrt())),
        ("kl", "all", float(masked_mean(experience.seen.kl, mask))),
        ("control_error", "all", float(method.control_error(experience.scores, experience.preferences))),
        ("entropy", "all", float(masked_mean(experience.seen.entropy, mask))),
        ("response_tokens", "all", float(lengths.mean())),
        ("sampler_mismatch", "all", experience.mismatch),
        ("finished_rate", "all", float(experience.rollout.finished.float().mean())),
    ]
    return rows
