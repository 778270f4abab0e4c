"""A learned embedding of the preference beside its text.

A trial for docs/methods/moc_preferences.md, not a setting of the pipeline.

Where a prompt begins with a training preference's text, W p is added to the embeddings of that text's tokens; W (D x K)
starts at 0, so that training starts from the same policy, and the reference, which is the base with its adapter
switched off, never sees it. Variants of benchmarks/ablation.py ask for it by `embedding: true`.
"""

from collections.abc import Sequence

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from moa.experiment.preferences import Preference
from moa.lm.models import hidden_size


class PreferenceEmbedding(nn.Module):
    """W p on the tokens of the preference's text; acts through a hook on the model's input embeddings."""

    def __init__(self, model: PeftModel, prefixes: Sequence[Sequence[int]], preferences: Sequence[Preference]) -> None:
        """Attach to `model`, as a part that its `parameters()` lists.

        Args:
            model: the policy.
            prefixes: the token ids of every preference's text, as they stand in a prompt.
            preferences: (K,) each, in the same order.
        """
        super().__init__()
        self.linear = nn.Linear(len(preferences[0]), hidden_size(model), bias=False)
        nn.init.zeros_(self.linear.weight)
        self.prefixes, self.preferences = (
            [torch.tensor(p) for p in prefixes],
            torch.tensor(preferences, dtype=torch.float32),
        )
        self.adapter = next(m for m in model.modules() if isinstance(m, BaseTunerLayer))
        model.add_module("preference_embedding", self)
        model.get_input_embeddings().register_forward_hook(
            lambda _, read, embedded: embedded + self.shift(read[0]) if not self.adapter.disable_adapters else embedded
        )

    def places(self, ids: Tensor) -> Tensor:
        """Return (B, S) int64 for ids (B, S).

        1 + the number of the preference whose text the token belongs to, or 0.
        """
        found = torch.zeros_like(ids)
        for number, prefix in enumerate(self.prefixes, start=1):
            if len(prefix) > ids.shape[1]:
                continue
            begins = (ids.unfold(1, len(prefix), 1) == prefix).all(-1)
            for row, column in begins.nonzero().tolist():
                found[row, column : column + len(prefix)] = number
        return found

    def shift(self, ids: Tensor) -> Tensor:
        """Return what is added to the embeddings of ids (B, S): (B, S, D)."""
        rows: Tensor = self.linear(self.preferences)
        return torch.cat([rows.new_zeros(1, rows.shape[1]), rows])[self.places(ids)]
