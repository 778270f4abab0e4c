"""Decode-time mixture of policies: several adapters on one base write one text.

MOD, Shi et al. 2024, arXiv 2406.18853:

    p(y_t) = softmax( sum_i w_i log pi_i(y_t) / T )

Logits serve as log-probabilities: each policy's normaliser adds the same number to all tokens, which the softmax takes
off again. For the same reason it does not matter whether the policies are mixed at temperature 1 and the mixture is
divided by T, or the policies are mixed at T: w_i log softmax(z_i / T) and w_i z_i / T differ by such a number.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from moa.lm.adapters import PeftModel
from moa.lm.reader import PolicyReader, Seen


class Mixture:
    """A reader that mixes several policies' logits; each has a cache of its own.

    Memory: one base, and one cache and one adapter per policy. Time: one forward pass per token and policy.
    """

    def __init__(self, model: PeftModel, weights: Mapping[str, float]) -> None:
        """Take adapter names with their weights; a policy of weight 0 is never run."""
        self.model = model
        self.parts = {name: (weight, PolicyReader(model)) for name, weight in weights.items() if weight > 0}

    def begin(self, ids: Tensor, mask: Tensor, rows: Tensor, room: int) -> Seen:
        """Read the prompts with every policy."""
        return self._mixed(lambda reader: reader.begin(ids, mask, rows, room))

    def next(self, tokens: Tensor) -> Seen:
        """Read one token of every row with every policy."""
        return self._mixed(lambda reader: reader.next(tokens))

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows."""
        for _, reader in self.parts.values():
            reader.keep(rows)

    def _mixed(self, read: Callable[[PolicyReader], Seen]) -> Seen:
        """Return the mixed logits (B, V), float32; the hidden states are the last policy's."""
        mixed: Tensor | float = 0.0
        for name, (weight, reader) in self.parts.items():
            if self.model.active_adapter != name:
                self.model.set_adapter(name)
            seen = read(reader)
            mixed = mixed + weight * seen.logits.float()
        assert isinstance(mixed, Tensor), "a mixture has a policy"
        return Seen(mixed, seen.hidden)
