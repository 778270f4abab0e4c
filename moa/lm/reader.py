"""Reads a batch token by token: what sampling asks of a model, of one policy or of several that are mixed."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from moa.lm.models import last_hidden, positions


class Seen(NamedTuple):
    """What a model says of the token after each row: logits (B, V), and the hidden states (B, D) they come from."""

    logits: Tensor
    hidden: Tensor


class Reader(Protocol):
    """A model with what it has read of a batch."""

    model: nn.Module

    def begin(self, ids: Tensor, mask: Tensor, rows: Tensor, room: int) -> Seen:
        """Read distinct prompts (P, S), left-padded, once each; row b of the batch has prompt `rows[b]`.

        `room` more tokens will be read at most.
        """

    def next(self, tokens: Tensor) -> Seen:
        """Read one token (B,) of every row."""

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows of the batch alone."""


class Slots(DynamicLayer):
    """Keys and values of one layer in a buffer of a known size: appending a token copies no earlier one."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.filled = room, 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, heads, n, D); return all so far."""
        start, self.filled = self.filled, self.filled + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = (
                t.new_empty(*t.shape[:2], self.filled + self.room, t.shape[-1]) for t in (key_states, value_states)
            )
        self.keys[:, :, start : self.filled] = key_states
        self.values[:, :, start : self.filled] = value_states
        return self.keys[:, :, : self.filled], self.values[:, :, : self.filled]

    def get_seq_length(self) -> int:
        """Return how many tokens it holds."""
        return self.filled


class PolicyReader:
    """Reads with one model, adapters as they are switched on."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @torch.no_grad()
    def begin(self, ids: Tensor, mask: Tensor, rows: Tensor, room: int) -> Seen:
        """Read the prompts, and give every row of the batch its prompt's keys and values."""
        self.cache = DynamicCache(config=self.model.config)
        self.cache.layers = [Slots(room) if type(layer) is DynamicLayer else layer for layer in self.cache.layers]
        self.mask, self.length = torch.cat([mask, mask.new_ones(len(mask), room)], 1), mask.shape[1]
        self.at = positions(mask)
        seen = self._read(ids)
        self.keep(rows)
        return Seen(*(part[rows] for part in seen))

    @torch.no_grad()
    def next(self, tokens: Tensor) -> Seen:
        """Read one token of every row."""
        self.length += 1
        self.at = self.at[:, -1:] + 1
        return self._read(tokens[:, None])

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows; a row may be named several times."""
        self.cache.reorder_cache(rows)
        self.mask, self.at = self.mask[rows], self.at[rows]

    def _read(self, ids: Tensor) -> Seen:
        with last_hidden(self.model) as seen:
            logits = self.model(
                input_ids=ids,
                attention_mask=self.mask[:, : self.length],
                position_ids=self.at,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        return Seen(logits[:, -1], seen[0][:, -1])
