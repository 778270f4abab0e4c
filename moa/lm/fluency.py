"""Negative log-likelihood of responses under the reference policy: whether a number comes from readable text.

For a response y_1..y_T (end token left out) to the plain prompt x:

    nll = -(1/T) sum_t log p(y_t | x, y_<t),   temperature 1

The text is tokenized anew, so that answers of any origin are measured in the same way. The mean over few tokens spreads
far more than that over many, so a response is compared with texts cut to its own length (`band`).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from moa.errors import MoaError
from moa.job.memory import allocating
from moa.lm.conditioning import continuation_rows
from moa.lm.models import positions

log = logging.getLogger("moa")
LOGITS = 2**26  # logits held at once: 256 MiB in float32


@dataclass(frozen=True)
class Fluency:
    """What texts cost the reference policy.

    Attributes:
        losses: per response, -log p of each token that was read, in nats, float32; empty for a response without a
            token.
        tokens: tokens read, prompts included.
    """

    losses: list[NDArray[np.float32]]
    tokens: int

    @property
    def nll(self) -> list[float | None]:
        """Mean NLL in nats per token, None for a response without a token."""
        return [float(row.mean()) if len(row) else None for row in self.losses]


@torch.no_grad()
def measure(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], responses: Sequence[str], context: int
) -> Fluency:
    """Measure n responses to n plain prompts (built texts); of a response beyond the context only what fits is read.

    `model` is the base, or a policy with its adapters switched off; `context` is how many tokens it can read.
    """
    pairs = [
        (head, tail[: max(0, context - len(head))]) for head, tail in continuation_rows(prompts, responses, tokenizer)
    ]
    # A prompt without a token has nothing that predicts the first one.
    readable = [i for i, (head, tail) in enumerate(pairs) if head and tail]
    order = sorted(readable, key=lambda i: (len(pairs[i][1]), len(pairs[i][0])), reverse=True)
    found = [np.zeros(0, np.float32)] * len(pairs)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    most = len(order)  # responses at a time; halved where memory does not suffice
    while order:
        rows = min(most, max(1, LOGITS // (len(pairs[order[0]][1]) * vocabulary)))
        losses = _fitting(model, [pairs[i] for i in order[:rows]], int(tokenizer.pad_token_id))
        if losses is None:
            most = max(1, min(rows, len(order)) // 2)
            continue
        for i, row in zip(order[:rows], losses, strict=True):
            found[i] = row[: len(pairs[i][1])]
        order = order[rows:]
    return Fluency(found, sum(len(pairs[i][0]) + len(pairs[i][1]) for i in readable))


def band(losses: Sequence[NDArray[np.float32]], quantiles: Sequence[float]) -> NDArray[np.float64]:
    """Return (L, Q) quantiles of the mean NLL of texts cut to their first 1, 2, ... L tokens.

    L is the longest text's length. A text that is shorter than the cut counts as a whole, so the last row is that of
    whole texts. Texts without a token do not count.
    """
    texts = [row.astype(np.float64) for row in losses if len(row)]
    longest = max(map(len, texts), default=0)
    means = np.empty((len(texts), longest))
    for mean, row in zip(means, texts, strict=True):
        mean[: len(row)] = row.cumsum() / np.arange(1, len(row) + 1)
        mean[len(row) :] = mean[len(row) - 1]
    return np.quantile(means, quantiles, axis=0).T


def _fitting(model: nn.Module, pairs: list[tuple[list[int], list[int]]], pad: int) -> NDArray[np.float32] | None:
    """Return the losses of some responses, or None where memory did not suffice for so many."""
    try:
        with allocating():
            losses: NDArray[np.float32] = _chunk(model, pairs, pad).cpu().numpy()
            return losses
    except torch.OutOfMemoryError as error:
        if len(pairs) == 1:
            head, tail = pairs[0]
            raise MoaError(
                f"out of memory reading one response of {len(head) + len(tail)} tokens; set model.quantisation: nf4, or"
                " lower generation.max_new_tokens"
            ) from error
    log.warning("out of memory: the fluency of %d responses is measured in halves", len(pairs))
    torch.cuda.empty_cache()
    return None


def _chunk(model: nn.Module, pairs: Sequence[tuple[list[int], list[int]]], pad: int) -> Tensor:
    """Return (B, T) NLL per token.

    Prompts are padded on the left and responses on the right, so that responses align.
    """
    before, after = max(len(head) for head, _ in pairs), max(len(tail) for _, tail in pairs)
    ids = torch.full((len(pairs), before + after), pad)
    mask = torch.zeros_like(ids)
    for row, (head, tail) in enumerate(pairs):
        real = slice(before - len(head), before + len(tail))
        ids[row, real], mask[row, real] = torch.tensor([*head, *tail]), 1
    where = next(model.parameters()).device
    ids, mask = ids.to(where), mask.to(where)
    logits = model(
        input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False, logits_to_keep=after + 1
    ).logits
    return nn.functional.cross_entropy(
        logits[:, -after - 1 : -1].float().transpose(1, 2), ids[:, -after:], reduction="none"
    )
