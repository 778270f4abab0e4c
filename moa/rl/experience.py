"""Experience: what one batch of rollouts tells the update. Notation as in moa/method.py: K, H, B, T."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from moa.errors import Diverged, NotFinite
from moa.experiment.keys import Ppo
from moa.experiment.preferences import Preference
from moa.lm import generation
from moa.lm.adapters import PeftModel
from moa.lm.generation import Decoding, Rollout, sample_in_parts
from moa.lm.models import ValueHeads, forward, output_matrix
from moa.method import Batch, Combination, Method, Scores
from moa.rl.advantages import masked_mean
from moa.rl.estimation import Scale, estimate, scale_combined, shape_advantages, token_rewards
from moa.rl.losses import distribution_kl, forbid_empty, logprobs_and_entropy, sensitivity

RATE = "ppo.learning_rate or raise ppo.kl.coefficient"
VALUE_RATE = "ppo.value_learning_rate (null takes ppo.learning_rate)"
# Widths of its scale that a reward may be away from 0. A constraint squares it, an advantage's size squares that, and
# the sum over a batch's tokens must stay in float32: (1e8)^4 = 1e32.
LARGEST = 1e8
ScoreBatch = Callable[[Sequence[str], Sequence[str]], NDArray[np.float32]]  # prompts, responses -> (B, K) raw


@dataclass
class Actor:
    """The trained policy with what it needs to act."""

    model: PeftModel
    heads: ValueHeads
    tokenizer: PreTrainedTokenizerBase
    decoding: Decoding
    context: int

    @property
    def ends(self) -> list[int]:
        """Tokens that end a response."""
        return generation.end_tokens(self.model, self.tokenizer, self.decoding.stop)

    def sample(self, texts: Sequence[str]) -> Rollout:
        """Draw one response per built prompt (`generation.sample`)."""
        return generation.sample(self.model, self.tokenizer, texts, self.decoding, self.context)


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
        step: its number, for messages.
        prompts: B prompts as rewards see them; a group's `ppo.group_size` stand beside each other.
        texts: B prompts as the policy reads them.
        preferences: (B, K).
    """

    step: int
    prompts: Sequence[str]
    texts: Sequence[str]
    preferences: Tensor


class Reading(NamedTuple):
    """What one forward pass of policy and reference says about some responses: (b, T) each, values (H, b, T)."""

    logprobs: Tensor
    reference_logprobs: Tensor
    entropy: Tensor
    kl: Tensor
    sensitivity: Tensor
    values: Tensor


@dataclass(frozen=True)
class Experience:
    """One batch, everything the update reads. Token tensors are (B, T), stream tensors (H, B, T).

    Attributes:
        loss_mask: 1 on the tokens that the losses read: the responses' without those that `ppo.unfinished` leaves out.
    """

    rollout: Rollout
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


@torch.no_grad()
def read(actor: Actor, rollout: Rollout, rows: slice, sensitive: bool) -> Reading:
    """Read some rows with the policy and with the reference; sensitivities are 0 unless `sensitive`."""
    ids, mask, t = rollout.ids[rows], rollout.mask[rows], rollout.response
    tokens, ends, temperature = ids[:, -t:], actor.ends, actor.decoding.temperature
    logits, hidden = forward(actor.model, ids, mask, t)
    logprobs, entropy = logprobs_and_entropy(forbid_empty(logits, ends), tokens, temperature)
    sensitivities = (
        sensitivity(logits, tokens, output_matrix(actor.model), temperature)
        if sensitive
        else torch.zeros_like(logprobs)
    )
    with actor.model.disable_adapter():
        reference_logits, _ = forward(actor.model, ids, mask, t)
    reference, _ = logprobs_and_entropy(forbid_empty(reference_logits, ends), tokens, temperature)
    return Reading(
        logprobs,
        reference,
        entropy,
        distribution_kl(logits, reference_logits, temperature),
        sensitivities,
        actor.heads(hidden),
    )


def read_all(actor: Actor, rollout: Rollout, micro: int, sensitive: bool) -> Reading:
    """Read a rollout, `micro` rows at a time."""
    parts = [read(actor, rollout, slice(i, i + micro), sensitive) for i in range(0, len(rollout.ids), micro)]
    return Reading(*(torch.cat(column, -2) for column in zip(*parts, strict=True)))


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
            rollout = sample_in_parts(actor.sample, asked.texts, rollout_rows, int(actor.tokenizer.pad_token_id))
        except NotFinite as error:
            raise diverged("the policy's next-token distribution", step) from error
        mask = rollout.response_mask
        scores = scored(self.task, method.objectives, asked.prompts, rollout.texts, f"step {step}")
        extra = method.extra_rewards(scores, asked.preferences)
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
            rollout=rollout,
            loss_mask=mask if ppo.unfinished == "keep" else mask * finished,
            preferences=asked.preferences,
            scores=scores,
            extra=extra,
            seen=seen._replace(values=seen.values * mask),
            returns=returns,
            advantages=advantages,
            combination=combination,
        )


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
        ("finished_rate", "all", float(experience.rollout.finished.float().mean())),
    ]
    return rows
