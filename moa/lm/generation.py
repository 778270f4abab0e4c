"""Sampling and decoding: the one way in which every method's responses are made and turned into text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from moa.errors import MoaError, NotFinite
from moa.experiment.keys import Generation
from moa.lm.conditioning import encode


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn; top_k is always off. End tokens are suppressed as first token (docs/papers.md 3.3).

    Attributes:
        stop: tokens that end a response, beside those that the model and its tokenizer name.
    """

    max_new_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...] = ()

    @staticmethod
    def training(section: Generation) -> "Decoding":
        """Return how tokens are drawn in training, and from the reference policy."""
        return Decoding(section.max_new_tokens, section.temperature, section.top_p, tuple(section.stop))

    @staticmethod
    def evaluation(section: Generation) -> "Decoding":
        """Return how tokens are drawn in evaluation, and in `moa respond`."""
        return Decoding(
            section.max_new_tokens, section.evaluation_temperature, section.evaluation_top_p, tuple(section.stop)
        )


@dataclass(frozen=True)
class Rollout:
    """Prompts with responses.

    Attributes:
        ids: (B, P + T) tokens; prompt left-padded, response right-padded.
        mask: (B, P + T), 1 on real tokens.
        response_mask: (B, T) float32, 1 on response tokens, the end token included.
        finished: (B,) bool, the response holds an end token.
        texts: B decoded responses.
    """

    ids: Tensor
    mask: Tensor
    response_mask: Tensor
    finished: Tensor
    texts: list[str]

    @property
    def response(self) -> int:
        """T, the width of the longest response."""
        return self.response_mask.shape[1]


def end_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> list[int]:
    """Return every token that ends a response, the tokenizer's own first.

    A chat model's turn often ends in another token than a document: its generation_config names both.

    Raises:
        MoaError: an entry of `stop` is no token of the tokenizer's.
    """
    named = model.generation_config.eos_token_id
    declared = [] if named is None else [named] if isinstance(named, int) else list(named)
    found = [int(tokenizer.eos_token_id), *declared, *(_token(text, tokenizer) for text in stop)]
    return list(dict.fromkeys(token for token in found if 0 <= token < len(tokenizer)))


def _token(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    entry = tokenizer.convert_tokens_to_ids(text)
    if entry is not None and tokenizer.convert_ids_to_tokens(entry) == text:
        return int(entry)
    read: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(read) != 1:
        raise MoaError(
            f"generation.stop: {text!r} is {len(read)} tokens of {tokenizer.name_or_path or 'this model'}"
            f" ({' '.join(tokenizer.convert_ids_to_tokens(read[:8]))}); name single tokens, as '<|im_end|>'"
        )
    return read[0]


def decode(rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Turn rows of response tokens into text: special tokens are skipped, nothing else is touched.

    A letter goes before each row and is taken off again, because SentencePiece decoders drop a text's first space, and
    a response starts within a text.
    """
    anchor: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    before = tokenizer.decode(anchor)
    texts = tokenizer.batch_decode(
        [[*anchor, *row] for row in rows], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return [text.removeprefix(before) for text in texts]


class Finite(LogitsProcessor):
    """Refuses to sample from NaN or infinite logits, where torch.multinomial would end in a trace."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits (B, V) unchanged; -inf is a token that cannot be drawn.

        Raises:
            NotFinite: a row's largest logit is NaN or infinite.
        """
        if not torch.isfinite(scores.amax(-1)).all():
            raise NotFinite(
                "the model's next-token distribution is NaN or infinite: its weights are damaged, or have diverged in"
                " training"
            )
        return scores


@torch.no_grad()
def sample(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], decoding: Decoding, context: int
) -> Rollout:
    """Draw one response per prompt text from torch's global generator (the caller seeds it).

    Raises:
        MoaError: a prompt is empty or leaves no room in `context` for the new tokens.
        NotFinite: the model's logits are NaN or infinite.
    """
    where = next(model.parameters()).device
    ids, mask = encode(prompts, tokenizer, context - decoding.max_new_tokens)
    ends, pad = end_tokens(model, tokenizer, decoding.stop), int(tokenizer.pad_token_id)
    settings = GenerationConfig(
        do_sample=True,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        top_k=0,
        max_new_tokens=decoding.max_new_tokens,
        min_new_tokens=1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends,
        pad_token_id=pad,
    )
    full: Tensor = model.generate(
        input_ids=ids.to(where),
        attention_mask=mask.to(where),
        generation_config=settings,
        logits_processor=LogitsProcessorList([Finite()]),
    )
    return finish(full, mask.to(where), ends, pad, tokenizer)


def sample_in_parts(draw: Callable[[Sequence[str]], Rollout], prompts: Sequence[str], rows: int, pad: int) -> Rollout:
    """Draw at most `rows` prompts at a time, and return one rollout of them all; `pad` is the padding token."""
    parts = [draw(prompts[i : i + rows]) for i in range(0, len(prompts), rows)]
    return parts[0] if len(parts) == 1 else join(parts, pad)


def join(parts: Sequence[Rollout], pad: int) -> Rollout:
    """Stack rollouts of different widths: prompts padded on the left, responses on the right."""
    prompt = max(p.ids.shape[1] - p.response for p in parts)
    response = max(p.response for p in parts)

    def widen(tensor: Tensor, part: Rollout, value: int) -> Tensor:
        left = prompt - (part.ids.shape[1] - part.response)
        return nn.functional.pad(tensor, (left, response - part.response), value=value)

    return Rollout(
        torch.cat([widen(p.ids, p, pad) for p in parts]),
        torch.cat([widen(p.mask, p, 0) for p in parts]),
        torch.cat([nn.functional.pad(p.response_mask, (0, response - p.response)) for p in parts]),
        torch.cat([p.finished for p in parts]),
        [text for p in parts for text in p.texts],
    )


def finish(
    full: Tensor, prompt_mask: Tensor, ends: Sequence[int], pad: int, tokenizer: PreTrainedTokenizerBase
) -> Rollout:
    """Make a rollout of generated ids: everything after a response's first end token is padding, whatever it holds."""
    width = prompt_mask.shape[1]
    response = full[:, width:]
    end = torch.isin(response, response.new_tensor(ends))
    ended = end.long().cumsum(1)
    alive = (ended - end.long()) == 0
    keep = int(alive.sum(1).max())
    response, alive, said = torch.where(alive, response, pad)[:, :keep], alive[:, :keep], (alive & ~end)[:, :keep]
    texts = decode([row[m].tolist() for row, m in zip(response, said, strict=True)], tokenizer)
    ids = torch.cat([full[:, :width], response], 1)
    return Rollout(ids, torch.cat([prompt_mask, alive.long()], 1), alive.float(), ended[:, -1] > 0, texts)
