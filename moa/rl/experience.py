"""Experience: what one batch of rollouts tells the update. Notation as in methods/base.py: K, H, B, T."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from moa.config_keys import Ppo
from moa.errors import Diverged
from moa.generation import Decoding, Rollout, sample_in_parts
from moa.methods.base import Batch, Combination, Method, Scores
from moa.models import ValueHeads, forward, output_matrix
from moa.rl.advantages import gae, group_centred, group_relative, masked_mean, unit_scale, whiten, whiten_groups
from moa.rl.losses import distribution_kl, forbid_empty, logprobs_and_entropy, sensitivity

ScoreBatch = Callable[[Sequence[str], Sequence[str]], NDArray[np.float32]]  # prompts, responses -> (B, K) raw


@dataclass
class Actor:
    """The trained policy with what it needs to act."""

    model: PeftModel
    heads: ValueHeads
    tokenizer: PreTrainedTokenizerBase
    decoding: Decoding
    context: int


class Scale(NamedTuple):
    """The normaliser's columns, each (K,) float32; high is above low."""

    low: Tensor
    high: Tensor
    mean: Tensor
    std: Tensor

    def apply(self, raw: Tensor) -> Scores:
        """Put raw scores (B, K) on all scales.

        Where the reference policy's scores were all equal (std 0), the z-score's unit is high - low.
        """
        width = self.high - self.low
        return Scores(raw, (raw - self.low) / width, (raw - self.mean) / torch.where(self.std > 0, self.std, width))


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
    """One batch, everything the update reads. Token tensors are (B, T), stream tensors (H, B, T)."""

    rollout: Rollout
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
        raise Diverged(
            f"step {step}: {name} is NaN or infinite; training stopped, the last good checkpoint is kept. "
            "Lower ppo.learning_rate or raise ppo.kl.coefficient, then run again"
        )
    return tensor


def finite_rewards(raw: Tensor, objectives: Sequence[str], step: int) -> Tensor:
    """Return raw scores (B, K), or raise Diverged naming the objective: no setting of the training mends its reward."""
    for k, name in enumerate(objectives):
        wrong = int((~torch.isfinite(raw[:, k])).sum())
        if wrong:
            raise Diverged(
                f"step {step}: the reward of objective '{name}' is NaN or infinite for {wrong} of {len(raw)} responses; training stopped, the last good "
                "checkpoint is kept. Correct the reward's function or model (section `rewards`), then run again"
            )
    return raw


@torch.no_grad()
def read(actor: Actor, rollout: Rollout, rows: slice, sensitive: bool) -> Reading:
    """Read some rows with the policy and with the reference; sensitivities are 0 unless `sensitive`."""
    ids, mask, t = rollout.ids[rows], rollout.mask[rows], rollout.response
    tokens, end, temperature = ids[:, -t:], int(actor.tokenizer.eos_token_id), actor.decoding.temperature
    logits, hidden = forward(actor.model, ids, mask, t)
    logprobs, entropy = logprobs_and_entropy(forbid_empty(logits, end), tokens, temperature)
    sensitivities = sensitivity(logits, tokens, output_matrix(actor.model), temperature) if sensitive else torch.zeros_like(logprobs)
    with actor.model.disable_adapter():
        reference_logits, _ = forward(actor.model, ids, mask, t)
    reference, _ = logprobs_and_entropy(forbid_empty(reference_logits, end), tokens, temperature)
    return Reading(logprobs, reference, entropy, distribution_kl(logits, reference_logits, temperature), sensitivities, actor.heads(hidden))


def read_all(actor: Actor, rollout: Rollout, micro: int, sensitive: bool) -> Reading:
    """Read a rollout, `micro` rows at a time."""
    parts = [read(actor, rollout, slice(i, i + micro), sensitive) for i in range(0, len(rollout.ids), micro)]
    return Reading(*(torch.cat(column, -2) for column in zip(*parts, strict=True)))


def token_rewards(rewards: Tensor, mask: Tensor) -> Tensor:
    """Place (B, H) rewards on each response's last token: (H, B, T)."""
    last = mask.sum(1).long() - 1
    placed = rewards.new_zeros(rewards.shape[1], *mask.shape)
    placed[:, torch.arange(len(last)), last] = rewards.T
    return placed


def groups_of(preferences: Tensor) -> Tensor:
    """Number the samples (B,) by their preference."""
    return preferences.unique(dim=0, return_inverse=True)[1]


def estimate(ppo: Ppo, values: Tensor, rewards: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return advantages and returns, both (H, B, T), of values and rewards (H, B, T).

    Group-relative advantages are the same for every token of a response, whose reward is the undiscounted sum over its
    tokens; nothing learns their returns, which are 0. With `ppo.whiten: combined` they are centred only.
    """
    if ppo.advantages == "gae":
        return gae(values, rewards, mask, ppo.gamma, ppo.lam)
    groups = torch.arange(len(mask), device=mask.device) // ppo.group_size
    compare = group_centred if ppo.whiten == "combined" else group_relative
    relative = compare((rewards * mask).sum(-1).T, groups)
    return relative.T[:, :, None] * mask, torch.zeros_like(rewards)


def shape_advantages(method: Method, ppo: Ppo, advantages: Tensor, mask: Tensor, preferences: Tensor) -> Tensor:
    """Whiten per stream, over the batch or within each preference, then apply the method's own transformation.

    `ppo.whiten: combined` leaves every stream on the scale of its rewards; `scale_combined` acts later.
    """
    if ppo.whiten == "batch":
        advantages = whiten(advantages, mask)
    elif ppo.whiten == "preference":
        advantages = whiten_groups(advantages, mask, groups_of(preferences))
    return method.scale(advantages, mask)


def scale_combined(ppo: Ppo, combination: Combination, mask: Tensor) -> Combination:
    """With `ppo.whiten: combined`, bring the combined advantages to unit size: within each group, or over the batch without groups."""
    if ppo.whiten != "combined":
        return combination
    size = ppo.group_size if ppo.advantages == "group" else len(mask)
    parts = zip(combination.advantages.split(size), mask.split(size), strict=True)
    return combination._replace(advantages=torch.cat([unit_scale(a, m) for a, m in parts]))


def collect(
    actor: Actor,
    method: Method,
    ppo: Ppo,
    step: int,
    prompts: Sequence[str],
    texts: Sequence[str],
    preferences: Tensor,
    score: ScoreBatch,
    scale: Scale,
    kl_coefficient: float,
    micro: int,
    rollout_rows: int,
) -> Experience:
    """Roll out, score and estimate advantages for one batch.

    Args:
        actor: the policy that acts.
        method: what it is trained by.
        ppo: the loop's settings.
        step: number of the step, for error messages.
        prompts: B prompts as rewards see them, without preference; a group's `ppo.group_size` stand beside each other.
        texts: B prompts as the policy reads them.
        preferences: (B, K).
        score: gives (B, K) raw scores.
        scale: the normaliser.
        kl_coefficient: of the reference KL; enters the rewards only where `ppo.kl.place` is 'heads'.
        micro: rows per forward pass.
        rollout_rows: prompts that are sampled at a time.
    """
    rollout = sample_in_parts(actor.model, actor.tokenizer, texts, actor.decoding, actor.context, rollout_rows)
    mask = rollout.response_mask
    raw = torch.from_numpy(score(prompts, rollout.texts)).to(mask.device)
    scores = scale.apply(finite_rewards(raw, method.objectives, step))
    extra = method.extra_rewards(scores, preferences)
    seen = read_all(actor, rollout, micro, method.reads_sensitivity)
    finite(seen.values, "a value", step)
    finite(seen.logprobs * mask, "the policy's log-probability", step)
    rewards = token_rewards(torch.cat([scores.quantile, extra], 1), mask)
    if ppo.kl.place == "heads":
        rewards = rewards - kl_coefficient * (seen.logprobs - seen.reference_logprobs) * mask
    advantages, returns = estimate(ppo, seen.values, rewards, mask)
    advantages = finite(shape_advantages(method, ppo, advantages, mask, preferences), "an advantage", step)
    combination = method.combine(Batch(advantages, mask, preferences, scores, seen.sensitivity * mask if method.reads_sensitivity else None))
    combination = scale_combined(ppo, combination, mask)
    finite(combination.advantages, "the combined advantage", step)
    return Experience(rollout, preferences, scores, extra, seen._replace(values=seen.values * mask), returns, advantages, combination)


def summary(experience: Experience, method: Method, streams: Sequence[str]) -> list[tuple[str, str, float]]:
    """Return (quantity, objective, value) of what the rollouts show, for the curve."""
    mask = experience.rollout.response_mask
    rows = []
    for k, name in enumerate(method.objectives):
        rows.append(("reward", name, float(experience.scores.raw[:, k].mean())))
        rows.append(("normalised_reward", name, float(experience.scores.quantile[:, k].mean())))
        rows.append(("advantage_share", name, float(((experience.advantages[k].abs() > 1e-6) * mask).sum() / mask.sum())))
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
