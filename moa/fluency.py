"""Negative log-likelihood of responses under the reference policy: whether a number comes from readable text.

For a response y_1..y_T (end token left out) to the plain prompt x:  nll = -(1/T) sum_t log p(y_t | x, y_<t), temperature 1.
The text is tokenized anew, so that answers of any origin are measured in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from moa.conditioning import continuation_rows
from moa.models import positions

LOGITS = 2**26  # logits held at once: 256 MiB in float32


@dataclass(frozen=True)
class Fluency:
    """Mean NLL in nats per token, None for a response without a token; and the tokens that were read."""

    nll: list[float | None]
    tokens: int


@torch.no_grad()
def measure(model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], responses: Sequence[str], context: int) -> Fluency:
    """Measure n responses to n plain prompts (built texts); of a response beyond the context only what fits is read.

    `model` is the base, or a policy with its adapters switched off; `context` is how many tokens it can read.
    """
    pairs = [(head, tail[: max(0, context - len(head))]) for head, tail in continuation_rows(prompts, responses, tokenizer)]
    # A prompt without a token has nothing that predicts the first one.
    readable = [i for i, (head, tail) in enumerate(pairs) if head and tail]
    order = sorted(readable, key=lambda i: (len(pairs[i][1]), len(pairs[i][0])), reverse=True)
    found: list[float | None] = [None] * len(pairs)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    while order:
        rows = max(1, LOGITS // (len(pairs[order[0]][1]) * vocabulary))
        chunk, order = order[:rows], order[rows:]
        for i, value in zip(chunk, _chunk(model, [pairs[i] for i in chunk], int(tokenizer.pad_token_id)).tolist(), strict=True):
            found[i] = value
    return Fluency(found, sum(len(pairs[i][0]) + len(pairs[i][1]) for i in readable))


def _chunk(model: nn.Module, pairs: Sequence[tuple[list[int], list[int]]], pad: int) -> Tensor:
    """Return (B,) mean NLL; prompts are padded on the left and responses on the right, so that responses align."""
    before, after = max(len(head) for head, _ in pairs), max(len(tail) for _, tail in pairs)
    ids = torch.full((len(pairs), before + after), pad)
    mask = torch.zeros_like(ids)
    for row, (head, tail) in enumerate(pairs):
        real = slice(before - len(head), before + len(tail))
        ids[row, real], mask[row, real] = torch.tensor([*head, *tail]), 1
    where = next(model.parameters()).device
    ids, mask = ids.to(where), mask.to(where)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False, logits_to_keep=after + 1).logits
    losses = nn.functional.cross_entropy(logits[:, -after - 1 : -1].float().transpose(1, 2), ids[:, -after:], reduction="none")
    response = mask[:, -after:]
    return (losses * response).sum(1) / response.sum(1)
