"""Decode-time mixture of policies: several adapters on one base write one text.

MOD, Shi et al. 2024, arXiv 2406.18853:

    p(y_t) = softmax( sum_i w_i log pi_i(y_t) / T )

Logits serve as log-probabilities: each policy's normaliser adds the same number to all tokens, which the softmax takes
off again. For the same reason it does not matter whether the policies are mixed at temperature 1 and the mixture is
divided by T, or the policies are mixed at T: w_i log softmax(z_i / T) and w_i z_i / T differ by such a number.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from moa.lm.adapters import PeftModel
from moa.lm.conditioning import encode
from moa.lm.generation import Decoding, Finite, Rollout, end_tokens, finish
from moa.lm.models import positions


class Reader:
    """Reads one batch with every policy of the mixture; each has a cache of its own.

    Memory: one base, and one cache and one adapter per policy. Time: one forward pass per token and policy.
    """

    def __init__(self, model: PeftModel, weights: Mapping[str, float]) -> None:
        """Take adapter names with their weights; a policy of weight 0 is never run."""
        self.model = model
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.caches: dict[str, Any] = dict.fromkeys(self.weights)
        self.read = 0

    @torch.no_grad()
    def next(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the mixed logits (B, V), float32, of the token after `ids`.

        Args:
            ids: (B, S) tokens, left-padded; what an earlier call has read comes first.
            mask: (B, S), 1 on real tokens.
        """
        new, at = ids[:, self.read :], positions(mask)[:, self.read :]
        mixed = ids.new_zeros(len(ids), 1, dtype=torch.float32)
        for name, weight in self.weights.items():
            if self.model.active_adapter != name:
                self.model.set_adapter(name)
            out = self.model(
                input_ids=new,
                attention_mask=mask,
                position_ids=at,
                past_key_values=self.caches[name],
                use_cache=True,
                logits_to_keep=1,
            )
            self.caches[name] = out.past_key_values
            mixed = mixed + weight * out.logits[:, -1].float()
        self.read = ids.shape[1]
        return mixed


def filters(decoding: Decoding, prompt: int, ends: list[int], device: torch.device) -> LogitsProcessorList:
    """Return what turns logits into those that are sampled, in the order in which `generate` applies it.

    `prompt` is the number of tokens in the prompt.
    """
    made = [
        MinNewTokensLengthLogitsProcessor(prompt, 1, ends, device=str(device)),
        TemperatureLogitsWarper(decoding.temperature),
    ]
    return LogitsProcessorList([*made, *([TopPLogitsWarper(decoding.top_p)] if decoding.top_p < 1 else []), Finite()])


@torch.no_grad()
def sample(
    reader: Reader, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], decoding: Decoding, context: int
) -> Rollout:
    """Draw one response per prompt text from a mixture, as `generation.sample` does from one policy.

    `reader` is new: it has read nothing yet. With all weight on one policy the draws are that policy's: same logits,
    same filters, same generator.

    Raises:
        MoaError: a prompt is empty or leaves no room in `context` for the new tokens.
        NotFinite: the mixed logits are NaN or infinite.
    """
    where = next(reader.model.parameters()).device
    ids, prompt_mask = (t.to(where) for t in encode(prompts, tokenizer, context - decoding.max_new_tokens))
    ends = end_tokens(reader.model, tokenizer, decoding.stop)
    warp, last = filters(decoding, ids.shape[1], ends, where), torch.tensor(ends, device=where)
    mask, alive = prompt_mask, torch.ones(len(ids), dtype=torch.bool, device=where)
    for _ in range(decoding.max_new_tokens):
        scores = warp(ids, reader.next(ids, mask))
        # Rows that have ended draw as well, so that the others' draws are those of `generate`; `finish` takes these
        # off.
        drawn = torch.multinomial(torch.softmax(scores, -1), 1)
        ids, mask = torch.cat([ids, drawn], 1), torch.cat([mask, torch.ones_like(drawn)], 1)
        alive = alive & ~torch.isin(drawn[:, 0], last)
        if not alive.any():
            break
    return finish(ids, prompt_mask, ends, int(tokenizer.pad_token_id), tokenizer)
