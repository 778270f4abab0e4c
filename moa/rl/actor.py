"""The trained policy with what it needs to act: sampling, and reading what was sampled."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from moa.lm import packing
from moa.lm.adapters import PeftModel
from moa.lm.generation import Decoding, Rollout, Sampler, end_tokens
from moa.lm.merged import Merged, mergeable
from moa.lm.models import ValueHeads
from moa.lm.packing import Packed, Predicted
from moa.lm.reader import PolicyReader
from moa.rl.losses import forbid_empty


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
        return end_tokens(self.model, self.tokenizer, self.decoding.stop)

    def sample(self, texts: Sequence[str], keys: Sequence[str], record: bool = False) -> Rollout:
        """Draw one response per built prompt (`Sampler.draw`)."""
        model = self.model if self._merged is None else self._merged.refresh()
        return Sampler(self.tokenizer, self.decoding, self.context).draw(PolicyReader(model), texts, keys, record)

    @property
    def traces(self) -> bool:
        """Whether the sampler's numbers can stand for a reading's; in bfloat16 they never agree."""
        return self.model.dtype == torch.float32

    @cached_property
    def _merged(self) -> Merged | None:
        return Merged(self.model) if mergeable(self.model) else None

    @cached_property
    def _together(self) -> bool:
        return packing.shares_prompts(self.model)

    def pack(self, rollout: Rollout, rows: Tensor) -> Packed:
        """Lay some responses (b,) out for `read`."""
        return packing.pack(rollout, rows, self._together, self.model.dtype)

    def read(self, packed: Packed) -> Predicted:
        """Run the policy once over packed responses; end tokens are out of their first positions, as in sampling."""
        found = packing.read(self.model, packed)
        forbid_empty(found.logits, self.ends)
        return found
