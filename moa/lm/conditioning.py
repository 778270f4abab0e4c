"""How prompt and preference become the text that a policy reads: one place, one format for every method.

The preference's place, format and role are the config's `conditioning` section (docs/papers.md 1.2: template unknown).
A template's special tokens are special; what looks like one in a prompt or a response is text.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from moa.errors import MoaError
from moa.experiment.keys import Conditioning
from moa.lm.chat import render

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

MARK = "\ufdd0"  # a noncharacter, which Unicode keeps for a program's own use


def preference_text(preference: Sequence[float], objectives: Sequence[str], form: str) -> str:
    """Return the preference as text.

    digits: 'sentiment 0.75 conciseness 0.25'; bars: 'sentiment + + + + + + + + conciseness + +', a mark per tenth;
    tags: '<sentiment=75> <conciseness=25>'. A small model counts by averaging what it attends to, so a number of marks
    that it never saw lies between two that it did.
    """
    # Training holds preferences in float32, whose last digits must not decide on which side of a half a weight is
    # rounded.
    pairs = [(name, round(weight, 6)) for name, weight in zip(objectives, preference, strict=True)]
    if form == "digits":
        return " ".join(f"{name} {weight:.2f}" for name, weight in pairs)
    if form == "bars":
        return " ".join(" ".join([name, *["+"] * round(10 * weight)]) for name, weight in pairs)
    return " ".join(f"<{name}={round(100 * weight)}>" for name, weight in pairs)


def build(
    prompt: str,
    preference: Sequence[float] | None,
    objectives: Sequence[str],
    conditioning: Conditioning,
    tokenizer: "PreTrainedTokenizerBase",
) -> str:
    """Return the text before the response, for `token_rows`.

    `preference` None gives the plain prompt. Chat templates are applied here.
    """
    shown = None if preference is None else preference_text(preference, objectives, conditioning.format)
    return place(prompt, shown, conditioning, tokenizer)


def place(prompt: str, shown: str | None, conditioning: Conditioning, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the text before the response with `shown` where a preference stands; None gives the plain prompt."""
    prompt = as_text(prompt, tokenizer)
    text = conditioning.plain if shown is None else conditioning.template
    if conditioning.chat and shown is not None and conditioning.role == "system":
        messages = [
            {"role": "system", "content": shown},
            {"role": "user", "content": conditioning.plain.replace("{prompt}", prompt)},
        ]
    else:
        # The prompt goes in last: it may itself hold braces.
        filled = text.replace("{preference}", shown or "").replace("{prompt}", prompt)
        if not conditioning.chat:
            return filled
        messages = [{"role": "user", "content": filled}]
    return render(messages, tokenizer, conditioning.chat_template_kwargs)


@lru_cache(maxsize=8)
def _special(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str]:
    """Match the first character of a special token's text, or of an added one's that the chat template writes."""
    template = str(tokenizer.chat_template or "")
    special = [
        re.escape(token.content)
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or (token.content.strip() and token.content in template)
    ]
    return re.compile(rf"(?=(?:{'|'.join(special)}))." if special else r"(?!)", re.DOTALL)


def as_text(text: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Mark what looks like a special token in somebody's text, so that `token_rows` reads '</s>' as four characters."""
    return _special(tokenizer).sub(lambda first: first[0] + MARK, text.replace(MARK, ""))


def token_rows(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    """Return the ids of each text, with one leading BOS where the tokenizer adds one.

    A text that begins with BOS gets no second. Special tokens are read as such unless `as_text` marked them.
    """
    if not texts:
        return []
    rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    for i, text in enumerate(texts):
        if MARK in text:
            read = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
            rows[i] = [
                token
                for token, (a, b) in zip(read["input_ids"], read["offset_mapping"], strict=True)
                if text[a:b] != MARK
            ]
    bos = tokenizer.bos_token_id
    if bos is None or tokenizer("")["input_ids"][:1] != [bos]:
        return rows
    return [row if row[:1] == [bos] else [bos, *row] for row in rows]


def continuing(prompts: Sequence[str], responses: Sequence[str]) -> list[str]:
    """Return texts' responses as they continue built prompts: after white space without the space before them.

    A text holds a space before its response. After the line break at the end of a chat template a model would learn to
    begin every answer with it.
    """
    return [r.removeprefix(" ") if p[-1:].isspace() else r for p, r in zip(prompts, responses, strict=True)]


def continuation_rows(
    prompts: Sequence[str], responses: Sequence[str], tokenizer: "PreTrainedTokenizerBase"
) -> list[tuple[list[int], list[int]]]:
    """Return the ids of each prompt, exactly as generation feeds it, and of the response that continues it.

    A response is tokenized in its place, because on its own a SentencePiece tokenizer would put a space before it.
    Where the last token of the prompt would swallow the response's first characters, it is tokenized on its own after
    all. Prompts are built texts, responses are not.
    """
    heads = token_rows(prompts, tokenizer)
    wholes = token_rows([p + as_text(r, tokenizer) for p, r in zip(prompts, responses, strict=True)], tokenizer)
    pairs = []
    for head, whole, response in zip(heads, wholes, responses, strict=True):
        merged = whole[: len(head)] != head
        pairs.append(
            (
                head,
                (
                    tokenizer(response, add_special_tokens=False, split_special_tokens=True)["input_ids"]
                    if merged
                    else whole[len(head) :]
                ),
            )
        )
    return pairs


def encode(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", limit: int) -> tuple["Tensor", "Tensor"]:
    """Return left-padded ids and mask, both (B, P) int64, of prompts of at most `limit` tokens.

    Raises:
        MoaError: a prompt has no token (an all-padding row), or more than `limit`.
    """
    import torch

    rows = token_rows(texts, tokenizer)
    for text, row in zip(texts, rows, strict=True):
        if not row:
            raise MoaError(
                f"prompt {text[:60]!r} has no token: every row of a batch needs at least one; drop blank prompts from"
                " the data"
            )
        if len(row) > limit:
            raise MoaError(
                f"prompt {text[:60]!r}... has {len(row)} tokens, the model's context leaves room for {limit} beside the"
                " new tokens; lower data.prompt_characters or generation.max_new_tokens, or take a model with a longer"
                " context"
            )
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), int(tokenizer.pad_token_id or 0))
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
    return ids, mask
