"""Random numbers of sampling: one per response and position, whatever else is in the batch.

A response's stream of numbers is keyed by what it answers (seed, step and row, or seed and question), so that order,
batch size, micro-batch and interruptions change no draw.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from moa.store.provenance import text_hash

CANDIDATES = 256  # most probable tokens that are sorted first: a nucleus is rarely larger


def uniforms(keys: Sequence[str], length: int) -> Tensor:
    """Return (B, length) float64 numbers in [0, 1): row b's are those of `keys[b]` alone (Philox, counter-based)."""
    streams = [np.random.Generator(np.random.Philox(key=int(text_hash(key), 16) % 2**128)) for key in keys]
    return torch.from_numpy(np.stack([stream.random(length) for stream in streams]))


def nucleus(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Return what is drawn from, (B, V) float32, up to a factor per row; arguments as for `pick`."""
    probabilities = torch.softmax(logits.float() / temperature, -1)
    if top_p == 1:
        return probabilities
    return torch.where(probabilities < _least(probabilities, top_p), 0, probabilities)


def pick(logits: Tensor, numbers: Tensor, temperature: float, top_p: float) -> Tensor:
    """Draw one token per row by inversion: the first whose cumulative probability passes the row's number.

    Args:
        logits: (B, V); -inf is a token that cannot be drawn.
        numbers: (B,) in [0, 1).
        temperature: of softmax(logits / temperature).
        top_p: the smallest set of most probable tokens that holds this share is drawn from (Holtzman et al. 2020).

    Returns:
        tokens (B,) int64.
    """
    cumulative = nucleus(logits, temperature, top_p).double().cumsum(-1)
    passed = torch.searchsorted(cumulative, (numbers.to(cumulative) * cumulative[:, -1])[:, None], right=True)
    return passed[:, 0].clamp(max=logits.shape[-1] - 1)


def _least(probabilities: Tensor, top_p: float) -> Tensor:
    """Return (B, 1) the smallest probability in each row's nucleus; ties with it belong to the nucleus."""
    words = probabilities.shape[-1]
    for count in (min(CANDIDATES, words), words):
        largest = probabilities.topk(count, -1).values
        before = largest.cumsum(-1) - largest  # what is more probable holds this share already
        if count == words or bool((largest.sum(-1) >= top_p).all()):
            break
    inside = (before < top_p).sum(-1, keepdim=True)
    return largest.gather(-1, inside - 1)
