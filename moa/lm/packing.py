"""Reads responses with each distinct prompt once: a group's responses stand behind their prompt, blind to each other.

A row of the model's input is one prompt with all its responses, without padding between them. A response attends to
the prompt and to itself, and its positions go on from the prompt's end, so its numbers are those of reading it alone.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moa.lm.generation import Rollout
from moa.lm.models import last_hidden, positions

PROBE = 1e-3  # natural logarithms; a model that misreads the mask is off by a thousand times as much
PADDING, PROMPT = -2, -1  # owners of a token that is no response's


@dataclass(frozen=True)
class Packed:
    """B responses in G rows of S tokens; the last K positions predict the responses' tokens.

    Attributes:
        ids: (G, S).
        mask: (G, 1, S, S), added to attention's scores; or (G, S), 1 on real tokens, where each response has its row.
        positions: (G, S).
        kept: K.
        row: (B, T) in which row the token is predicted.
        at: (B, T) at which of the last K positions; 0, the prompt's end, for padding.
        tokens: (B, T).
        real: (B, T), where a token is a response's.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    kept: int
    row: Tensor
    at: Tensor
    tokens: Tensor
    real: Tensor

    def of(self, values: Tensor) -> Tensor:
        """Return what stands at each token's position, (B, T, ...) of (G, K, ...)."""
        return values[self.row, self.at]


class Predicted(NamedTuple):
    """What predicts the tokens of packed responses: logits (G, K, V), and the hidden states (G, K, D) under them."""

    logits: Tensor
    hidden: Tensor


def pack(rollout: Rollout, rows: Tensor, together: bool, dtype: torch.dtype) -> Packed:
    """Pack some responses of a rollout.

    Args:
        rollout: what was sampled.
        rows: (b,) indices.
        together: whether responses to one prompt share a row (`shares_prompts`).
        dtype: of the model's numbers, for the mask.
    """
    t = rollout.response
    ids, mask, real = rollout.ids[rows], rollout.mask[rows], rollout.response_mask[rows] > 0
    lengths = real.sum(1)
    if not together:
        count = torch.arange(t, device=ids.device).expand(len(ids), -1)
        row = torch.arange(len(ids), device=ids.device)[:, None].expand(-1, t)
        return Packed(ids[:, :-1], mask[:, :-1], positions(mask[:, :-1]), t, row, count, ids[:, -t:], real)
    heads, row = torch.unique(torch.stack([ids[:, :-t], mask[:, :-t]], 1), dim=0, return_inverse=True)
    prompts, prompt_mask = heads[:, 0], heads[:, 1]
    # The last token of a response predicts nothing that is asked for, so it is not read.
    start, width = _places(row, lengths - 1)
    prompt = prompts.shape[1]
    packed = torch.cat([prompts, prompts.new_zeros(len(prompts), width)], 1)
    owner = torch.full_like(packed, PADDING)
    owner[:, :prompt] = torch.where(prompt_mask > 0, PROMPT, PADDING)
    place = torch.cat([positions(prompt_mask), torch.zeros_like(packed[:, prompt:])], 1)
    steps = torch.arange(t, device=ids.device)
    read = steps < lengths[:, None] - 1  # (b, T): the tokens that are read
    b, j = read.nonzero(as_tuple=True)
    where = (row[b], prompt + start[b] + j)
    packed[where] = ids[:, -t:][read]
    owner[where] = b
    place[where] = prompt_mask.sum(1)[row[b]] + j
    at = torch.where((steps > 0) & (steps < lengths[:, None]), start[:, None] + steps, 0)
    return Packed(packed, _mask(owner, dtype), place, width + 1, row[:, None].expand(-1, t), at, ids[:, -t:], real)


def _places(row: Tensor, lengths: Tensor) -> tuple[Tensor, int]:
    """Return where each response starts behind its prompt, (b,), and the widest row's tokens behind the prompt."""
    start = torch.zeros_like(lengths)
    ends: dict[int, int] = {}
    for b, (r, length) in enumerate(zip(row.tolist(), lengths.tolist(), strict=True)):
        start[b] = ends.get(r, 0)
        ends[r] = ends.get(r, 0) + length
    return start, max(ends.values())


def _mask(owner: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to attention's scores, (G, 1, S, S): a token sees its prompt and its own response."""
    keys, queries = owner[:, None, :], owner[:, :, None]
    s = owner.shape[1]
    before = torch.ones(s, s, dtype=torch.bool, device=owner.device).tril()
    seen = (before & ((keys == PROMPT) | ((keys == queries) & (keys >= 0)))) | torch.eye(s, device=owner.device).bool()
    return torch.where(seen, 0.0, torch.finfo(dtype).min).to(dtype)[:, None]


def read(model: nn.Module, packed: Packed) -> Predicted:
    """Run the model once over packed responses."""
    with last_hidden(model) as seen:
        logits = model(
            input_ids=packed.ids,
            attention_mask=packed.mask,
            position_ids=packed.positions,
            use_cache=False,
            logits_to_keep=packed.kept,
        ).logits
    return Predicted(logits[:, -packed.kept :], seen[0][:, -packed.kept :])


def log_probabilities(logits: Tensor, packed: Packed, temperature: float) -> Tensor:
    """Return the tokens' log-probabilities (B, T) float32 under softmax(logits / temperature); 0 for padding."""
    scaled = logits.float() / temperature
    chosen = scaled[packed.row, packed.at, packed.tokens]
    # A padding token may be one that cannot be drawn there.
    return torch.where(packed.real, chosen - packed.of(scaled.logsumexp(-1)), 0)


@torch.no_grad()
def shares_prompts(model: nn.Module) -> bool:
    """Return whether a model reads packed responses as it reads each alone; tried on a few tokens.

    A model whose attention reads no mask of this shape, whose positions are not told, or that sees only a window,
    does not: then every response is read with a prompt of its own.
    """
    config = model.config.get_text_config()
    if getattr(config, "sliding_window", None) or config._attn_implementation not in ("sdpa", "eager"):
        return False
    where = next(model.parameters()).device
    ids = (torch.tensor([[0, 3, 4, 5, 6, 7, 8], [0, 3, 4, 5, 9, 10, 6]], device=where) + 1) % config.vocab_size
    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]], device=where)
    rollout = Rollout(ids, mask, torch.ones(2, 3, device=where), torch.tensor([True, True]), ["", ""])
    both = torch.arange(2, device=where)
    dtype = next(model.parameters()).dtype
    tolerance = PROBE if dtype == torch.float32 else 100 * PROBE
    alone, together = (pack(rollout, both, shared, dtype) for shared in (False, True))
    try:
        a, b = (log_probabilities(read(model, x).logits, x, 1.0) for x in (alone, together))
    except (ValueError, RuntimeError):  # it takes no mask of four dimensions
        return False
    return bool((a - b).abs().max() <= tolerance)
