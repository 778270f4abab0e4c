"""What policy and reference say about sampled responses. Notation as in moa/method.py: H, B, T."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from moa.lm.generation import Rollout, Trace
from moa.lm.models import output_matrix
from moa.lm.packing import Packed, log_probabilities
from moa.rl.actor import Actor
from moa.rl.losses import distribution_kl, logprobs_and_entropy, sensitivity

AGREES = 1e-4  # natural logarithms: how far the sampler's log-probabilities may be from a reading's
CHECKED = 8  # responses that are read again, every step, to see it


class Reading(NamedTuple):
    """What one forward pass of policy and reference says about some responses: (b, T) each, values (H, b, T)."""

    logprobs: Tensor
    reference_logprobs: Tensor
    entropy: Tensor
    kl: Tensor
    sensitivity: Tensor
    values: Tensor


@torch.no_grad()
def read(actor: Actor, rollout: Rollout, rows: Tensor, sensitive: bool) -> Reading:
    """Read some rows (b,) with the reference, and with the policy where the rollout has no trace.

    Sensitivities are 0 unless `sensitive`.
    """
    packed, temperature = actor.pack(rollout, rows), actor.decoding.temperature
    trace = _read_policy(actor, packed) if rollout.trace is None else rollout.trace.at(rows)
    logprobs, entropy = logprobs_and_entropy(trace.logits, packed.tokens, temperature)
    sensitivities = torch.zeros_like(logprobs)
    if sensitive:
        sensitivities = sensitivity(trace.logits, packed.tokens, output_matrix(actor.model), temperature)
    with actor.model.disable_adapter():
        reference = actor.read(packed).logits
    return Reading(
        torch.where(packed.real, logprobs, 0),
        log_probabilities(reference, packed, temperature),
        entropy,
        distribution_kl(trace.logits, packed.of(reference), temperature),
        sensitivities,
        actor.heads(trace.hidden),
    )


def _read_policy(actor: Actor, packed: Packed) -> Trace:
    found = actor.read(packed)
    return Trace(packed.of(found.logits), packed.of(found.hidden))


def read_all(actor: Actor, rollout: Rollout, micro: int, sensitive: bool) -> Reading:
    """Read a rollout, `micro` rows at a time."""
    parts = [read(actor, rollout, rows, sensitive) for rows in _rows(rollout).split(micro)]
    return Reading(*(torch.cat(column, -2) for column in zip(*parts, strict=True)))


@torch.no_grad()
def mismatch(actor: Actor, rollout: Rollout) -> float:
    """Return how far the trace's log-probabilities are from a reading's, over a few responses; 0 without a trace."""
    if rollout.trace is None:
        return 0.0
    rows = _rows(rollout)[:CHECKED]
    packed, temperature = actor.pack(rollout, rows), actor.decoding.temperature
    again = log_probabilities(actor.read(packed).logits, packed, temperature)
    sampled, _ = logprobs_and_entropy(rollout.trace.at(rows).logits, packed.tokens, temperature)
    return float(((sampled - again).abs() * packed.real).max())


def _rows(rollout: Rollout) -> Tensor:
    return torch.arange(len(rollout.ids), device=rollout.ids.device)


def without_trace(rollout: Rollout) -> Rollout:
    """Return the rollout without what the sampler saw, the largest tensors of a step."""
    return replace(rollout, trace=None)
