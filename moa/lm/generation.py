"""Sampling and decoding: the one way in which every method's responses are made and turned into text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from moa.errors import MoaError, NotFinite
from moa.experiment.keys import Generation
from moa.lm.conditioning import encode
from moa.lm.draws import pick, uniforms
from moa.lm.reader import Reader, Seen

LEAVE = 0.9  # rows that have ended leave when fewer than this share goes on: leaving copies the others' keys and values


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
class Trace:
    """What the sampler saw: logits (B, T, V) and last hidden states (B, T, D) that predict each token.

    End tokens are out of the first position's logits. Rows that have ended hold zeros.
    """

    logits: Tensor
    hidden: Tensor

    def at(self, rows: Tensor) -> "Trace":
        """Return some rows' part."""
        return Trace(self.logits[rows], self.hidden[rows])


@dataclass(frozen=True)
class Rollout:
    """Prompts with responses.

    Attributes:
        ids: (B, P + T) tokens; prompt left-padded, response right-padded.
        mask: (B, P + T), 1 on real tokens.
        response_mask: (B, T) float32, 1 on response tokens, the end token included.
        finished: (B,) bool, the response holds an end token.
        texts: B decoded responses.
        trace: what the sampler saw, where it was asked to keep it.
    """

    ids: Tensor
    mask: Tensor
    response_mask: Tensor
    finished: Tensor
    texts: list[str]
    trace: Trace | None = None

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


class Recorder:
    """Makes a trace while a batch is sampled."""

    def __init__(self, rows: int, room: int) -> None:
        self.rows, self.room = rows, room
        self.parts: list[Tensor] = []

    def add(self, step: int, rows: Tensor, seen: Seen) -> None:
        """Take what was seen at a step of some rows."""
        if not self.parts:
            self.parts = [part.new_zeros(self.rows, self.room, part.shape[-1]) for part in seen]
        for kept, part in zip(self.parts, seen, strict=True):
            kept[rows, step] = part

    def trace(self, width: int) -> Trace:
        """Return the first `width` steps."""
        return Trace(*(part[:, :width] for part in self.parts))


@dataclass(frozen=True)
class Sampler:
    """Draws responses.

    Attributes:
        tokenizer: of the model that will be read.
        decoding: how tokens are drawn.
        context: how many tokens the model reads at most.
    """

    tokenizer: PreTrainedTokenizerBase
    decoding: Decoding
    context: int

    @torch.no_grad()
    def draw(self, reader: Reader, prompts: Sequence[str], keys: Sequence[str], record: bool = False) -> Rollout:
        """Draw one response per prompt text; equal prompts are read once, and rows leave when they have ended.

        Args:
            reader: one that has read nothing yet.
            prompts: B texts.
            keys: B names of the responses' random numbers (`draws.uniforms`).
            record: whether the rollout has a trace.

        Raises:
            MoaError: a prompt is empty or leaves no room in the context for the new tokens.
            NotFinite: the model's logits are NaN or infinite.
        """
        where, longest = next(reader.model.parameters()).device, self.decoding.max_new_tokens
        places = {text: i for i, text in enumerate(dict.fromkeys(prompts))}
        ids, mask = (t.to(where) for t in encode(list(places), self.tokenizer, self.context - longest))
        owner = torch.tensor([places[text] for text in prompts], device=where)
        ends = end_tokens(reader.model, self.tokenizer, self.decoding.stop)
        recorder = Recorder(len(prompts), longest) if record else None
        seen = reader.begin(ids, mask, owner, longest)
        seen.logits[:, ends] = -torch.inf
        drawn = self._tokens(
            reader, seen, uniforms(keys, longest).to(where), torch.tensor(ends, device=where), recorder
        )
        full = torch.cat([ids[owner], drawn], 1)
        rollout = finish(full, mask[owner], ends, int(self.tokenizer.pad_token_id), self.tokenizer)
        return replace(rollout, trace=None if recorder is None else recorder.trace(rollout.response))

    def _tokens(self, reader: Reader, seen: Seen, numbers: Tensor, ends: Tensor, recorder: Recorder | None) -> Tensor:
        """Draw (B, T) tokens with the (B, longest) numbers; what follows an end token is anything."""
        count, longest = numbers.shape
        drawn = ends.new_zeros(count, longest)
        rows = torch.arange(count, device=ends.device)  # that are still read, and which of them have not ended
        going = torch.ones_like(rows, dtype=torch.bool)
        for step in range(longest):
            _check_finite(seen.logits)
            if recorder is not None:
                recorder.add(step, rows, seen)
            tokens = pick(seen.logits, numbers[rows, step], self.decoding.temperature, self.decoding.top_p)
            drawn[rows, step] = tokens
            going = going & ~torch.isin(tokens, ends)
            left = int(going.sum())
            if not left or step + 1 == longest:
                break
            if left <= LEAVE * len(rows):
                reader.keep(going.nonzero()[:, 0])
                rows, tokens, going = rows[going], tokens[going], going[going]
            seen = reader.next(tokens)
        return drawn[:, : step + 1]


def _check_finite(logits: Tensor) -> None:
    """Refuse to draw from (B, V) logits whose largest is NaN or infinite; -inf is a token that cannot be drawn."""
    if not torch.isfinite(logits.amax(-1)).all():
        raise NotFinite(
            "the model's next-token distribution is NaN or infinite: its weights are damaged, or have diverged in"
            " training"
        )


def sample_in_parts(draw: Callable[[slice], Rollout], count: int, rows: int, pad: int) -> Rollout:
    """Draw at most `rows` of `count` responses at a time, and return one rollout of all; `pad` is the padding token."""
    parts = [draw(slice(i, i + rows)) for i in range(0, count, rows)]
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
        _join_traces([p.trace for p in parts if p.trace is not None], response) if parts[0].trace else None,
    )


def _join_traces(parts: Sequence[Trace], response: int) -> Trace:
    def stack(tensors: list[Tensor]) -> Tensor:
        return torch.cat([nn.functional.pad(t, (0, 0, 0, response - t.shape[1])) for t in tensors])

    return Trace(stack([p.logits for p in parts]), stack([p.hidden for p in parts]))


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
