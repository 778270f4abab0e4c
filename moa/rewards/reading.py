"""How a reward model reads prompt and response: as text, filled into its template, and cut where they are too long.

A template's special tokens are special; what looks like one in a prompt or a response is text (`as_text`). A text of
too many tokens loses its beginning: first the prompt's, then the response's; the template stays.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from moa.errors import MoaError
from moa.experiment.rewards import Classifier
from moa.lm.conditioning import MARK, as_text
from moa.rewards.scoring import FIELD

Encoded = dict[str, list[int]]  # input_ids, and token_type_ids where the tokenizer makes them
LEAST_COVERED = 0.8  # share of a model's embeddings; models round their number up, by a few hundredths at most
KEPT = ("input_ids", "token_type_ids")


class Filled(NamedTuple):
    """A template with its fields filled, and where these lie in it: start, end, name."""

    text: str
    fields: list[tuple[int, int, str]]

    def owner(self, start: int, end: int) -> str | None:
        """Return whose a token of these characters is: 'mark', a field's, or None of the template.

        A token over a seam belongs to what its last character is of.
        """
        if self.text[start:end] == MARK:
            return "mark"
        return next((name for first, last, name in self.fields if first <= end - 1 < last and start < end), None)


def fill(template: str, parts: dict[str, str]) -> Filled:
    """Put the parts into the template, in one pass: braces inside of them stay as they are."""
    text, fields, last = "", [], 0
    for match in FIELD.finditer(template):
        text += template[last : match.start()]
        fields.append((len(text), len(text) + len(parts[match[1]]), match[1]))
        text, last = text + parts[match[1]], match.end()
    return Filled(text + template[last:], fields)


class Rows(NamedTuple):
    """What a reward model reads of n texts.

    Attributes:
        encoded: n rows of tokens.
        shortened: how many prompts were cut.
        truncated: (n,) bool, the response was cut, too.
    """

    encoded: list[Encoded]
    shortened: int
    truncated: NDArray[np.bool_]


def check_covers(name: str, tokenizer: PreTrainedTokenizerBase, rows: int | None) -> None:
    """Refuse a tokenizer that has no text for many of a model's `rows` embeddings: it belongs to another model.

    One with more tokens than that is refused where it is loaded.
    """
    if rows is not None and len(tokenizer) < LEAST_COVERED * rows:
        raise MoaError(
            f"reward {name}: its tokenizer knows {len(tokenizer)} tokens and the model has embeddings for {rows}, so it"
            " is most likely another model's; take the tokenizer that belongs to the model"
        )


def encode(
    name: str, tokenizer: PreTrainedTokenizerBase, spec: Classifier, prompts: Sequence[str], responses: Sequence[str]
) -> Rows:
    """Fill template and pair, tokenize, and cut to max_length tokens.

    Raises:
        MoaError: the template leaves no room for a response, or the tokenizer does not say which token is whose.
    """
    found = [_row(name, tokenizer, spec, p, r) for p, r in zip(prompts, responses, strict=True)]
    cut = np.array([lost for _, lost in found]).reshape(len(found), 2) > 0
    return Rows([row for row, _ in found], int(cut[:, 0].sum()), cut[:, 1])


def _row(
    name: str, tokenizer: PreTrainedTokenizerBase, spec: Classifier, prompt: str, response: str
) -> tuple[Encoded, tuple[int, int]]:
    """Return one row, and how many tokens prompt and response have lost."""
    parts = {"prompt": as_text(prompt, tokenizer), "response": as_text(response, tokenizer)}
    sides = [fill(template, parts) for template in (spec.template, spec.pair) if template is not None]
    texts = [side.text for side in sides]
    read = tokenizer(*texts, return_attention_mask=False, verbose=False)
    if len(read["input_ids"]) <= spec.max_length and not any(MARK in text for text in texts):
        return {key: list(read[key]) for key in KEPT if key in read}, (0, 0)
    if not tokenizer.is_fast:
        raise MoaError(
            f"reward {name}: its tokenizer is a slow one, which does not say where tokens come from, and text"
            f" {texts[0][:60]!r} must be cut; give a model with a tokenizer.json, or a greater max_length"
        )
    read = tokenizer(*texts, return_attention_mask=False, return_offsets_mapping=True, verbose=False)
    owners = [
        None if side is None else sides[side].owner(*offsets)
        for side, offsets in zip(read.sequence_ids(0), read["offset_mapping"], strict=True)
    ]
    special = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    # A normaliser may take marks off before special tokens are looked for; those that are found all the same are lost.
    kept = [
        i
        for i, owner in enumerate(owners)
        if owner != "mark" and not (owner is not None and read["input_ids"][i] in special)
    ]
    own = {part: [i for i in kept if owners[i] == part] for part in parts}
    over = max(0, len(kept) - spec.max_length)
    lost = (min(over, len(own["prompt"])), max(0, over - len(own["prompt"])))
    if lost[1] and lost[1] >= len(own["response"]):
        raise MoaError(
            f"reward {name}: the template alone takes {len(kept) - sum(map(len, own.values()))} of max_length"
            f" {spec.max_length} tokens, so no response fits in; give a greater max_length, or a shorter template"
        )
    gone = {*own["prompt"][: lost[0]], *own["response"][: lost[1]]}
    return {key: [read[key][i] for i in kept if i not in gone] for key in KEPT if key in read}, lost
