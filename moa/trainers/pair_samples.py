"""What MODPO compares: the reference policy's responses, or those of a data set's own pairs.

They come with their rewards and log-probabilities.
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from moa.errors import MoaError
from moa.experiment.keys import Ppo
from moa.job import command
from moa.job.memory import allocating, release
from moa.lm.conditioning import continuation_rows
from moa.lm.generation import Rollout, join
from moa.lm.models import forward
from moa.rl.actor import Actor
from moa.rl.experience import Task
from moa.rl.loop import prompt_indices
from moa.rl.losses import forbid_empty, logprobs_and_entropy
from moa.store.provenance import text_hash
from moa.tasks.preference_pairs import Pair
from moa.trainers.pair_loop import SHORTER, Samples

log = logging.getLogger("moa")


def draw(actor: Actor, task: Task, ppo: Ppo, responses: int, seed: int) -> Samples:
    """Sample the reference policy on train prompts, `responses` to each side by side, and score what it wrote.

    There are at most `ppo.steps * ppo.batch_size` responses, as many as the shared loop generates, and at least one
    prompt's (`Method.check`).

    Raises:
        MoaError: not even one response at a time fits into memory.
    """
    count = ppo.steps * ppo.batch_size // responses
    prompts = [task.prompts[i] for i in prompt_indices(len(task.prompts), count, seed, 0) for _ in range(responses)]
    texts = [task.text_of(p, None) for p in prompts]

    keys = [f"{seed} pair {i}" for i in range(len(texts))]

    def make(rows: slice) -> Rollout:
        return actor.sample(texts[rows], keys[rows])

    rollout, reference = _read_in_parts(actor, len(texts), ppo.batch_size, make, "generate")
    return _scored(task, prompts, rollout, reference)


def given(actor: Actor, task: Task, ppo: Ppo, pairs: Sequence[Pair], seed: int) -> Samples:
    """Score a data set's pairs, chosen and rejected side by side, and read them with the reference policy.

    There are at most `ppo.steps * ppo.batch_size` responses, drawn by the seed where the data set has more. Pairs that
    do not fit into the model's context whole are left out and counted.

    Raises:
        MoaError: no pair fits; or not even one response at a time fits into memory.
    """
    rows = _fitting(actor, task, pairs)
    if not rows:
        raise MoaError(
            f"none of the {len(pairs)} pairs fits into the model's context of {actor.context} tokens; take shorter"
            " pairs, or a model with a longer context"
        )
    if len(rows) < len(pairs):
        log.warning(
            "%d of %d pairs left out: longer than the model's context of %d tokens",
            len(pairs) - len(rows),
            len(pairs),
            actor.context,
        )
    generator = torch.Generator().manual_seed(int(text_hash("chosen pairs", str(seed)), 16) % 2**63)
    kept = torch.randperm(len(rows), generator=generator)[: ppo.steps * ppo.batch_size // 2].tolist()
    flat = [side for i in kept for side in rows[i]]
    rollout, reference = _read_in_parts(
        actor, len(flat), ppo.batch_size, lambda part: _rollout(actor, flat[part]), "read"
    )
    return _scored(task, [side.prompt for side in flat], rollout, reference)


class Side(NamedTuple):
    """One side of a pair: prompt, response, and the tokens of each as the policy reads them."""

    prompt: str
    response: str
    head: list[int]
    tail: list[int]


def _fitting(actor: Actor, task: Task, pairs: Sequence[Pair]) -> list[tuple[Side, Side]]:
    """Return chosen and rejected of every pair that fits into the context with its end token."""
    built = [task.text_of(pair.prompt, None) for pair in pairs]
    sides = []
    for side in ("chosen", "rejected"):
        responses = [str(getattr(pair, side)) for pair in pairs]
        tokens = continuation_rows(built, responses, actor.tokenizer)
        sides.append(
            [
                Side(pair.prompt, response, head, tail)
                for pair, response, (head, tail) in zip(pairs, responses, tokens, strict=True)
            ]
        )
    return [
        both
        for both in zip(*sides, strict=True)
        if all(side.tail and len(side.head) + len(side.tail) < actor.context for side in both)
    ]


def _rollout(actor: Actor, sides: Sequence[Side]) -> Rollout:
    """Lay responses out as generation does: prompts padded on the left, responses with their end token on the right."""
    eos, pad = int(actor.tokenizer.eos_token_id), int(actor.tokenizer.pad_token_id)
    left, right = max(len(side.head) for side in sides), max(len(side.tail) for side in sides)
    ids = torch.full((len(sides), left + right + 1), pad)
    mask = torch.zeros_like(ids)
    for i, (_, _, head, tail) in enumerate(sides):
        real = slice(left - len(head), left + len(tail) + 1)
        ids[i, real], mask[i, real] = torch.tensor([*head, *tail, eos]), 1
    where = next(actor.model.parameters()).device
    finished = torch.ones(len(sides), dtype=torch.bool, device=where)
    return Rollout(
        ids.to(where),
        mask.to(where),
        mask[:, left:].float().to(where),
        finished,
        [side.response for side in sides],
    )


def _scored(task: Task, prompts: Sequence[str], rollout: Rollout, reference: torch.Tensor) -> Samples:
    scores = task.scale.apply(torch.from_numpy(task.score(prompts, rollout.texts)).to(task.scale.low.device))
    return Samples(
        rollout.ids,
        rollout.mask,
        rollout.response_mask,
        reference,
        scores.raw.cpu(),
        scores.quantile.cpu(),
        rollout.finished.float(),
    )


def _read_in_parts(
    actor: Actor, count: int, rows: int, make: Callable[[slice], Rollout], what: str
) -> tuple[Rollout, torch.Tensor]:
    """Return responses and their log-probabilities (B, T) under the reference.

    They are read `rows` at a time, and fewer where memory runs out.
    """
    while True:
        clock = command.Progress(what, count)
        try:
            with allocating():
                parts = []
                for start in range(0, count, rows):
                    parts.append(_read(actor, make, slice(start, start + rows)))
                    clock.add(len(parts[-1][0].texts))
                rollout = join([part for part, _ in parts], int(actor.tokenizer.pad_token_id))
                logs = [torch.nn.functional.pad(found, (0, rollout.response - found.shape[1])) for _, found in parts]
                return rollout, torch.cat(logs)
        except torch.OutOfMemoryError as error:
            if rows == 1:
                raise MoaError(f"out of memory with one response at a time; {SHORTER}") from error
        rows //= 2
        release()
        log.warning("out of memory: %d responses at a time", rows)


@torch.no_grad()
def _read(actor: Actor, make: Callable[[slice], Rollout], rows: slice) -> tuple[Rollout, torch.Tensor]:
    """Make a part of the responses with the adapter switched off, and read it with the reference.

    What it returns lies in main memory.
    """
    with actor.model.disable_adapter():
        rollout = make(rows)
        logits, _ = forward(actor.model, rollout.ids, rollout.mask, rollout.response)
    logprobs, _ = logprobs_and_entropy(
        forbid_empty(logits, actor.ends),
        rollout.ids[:, -rollout.response :],
        actor.decoding.temperature,
    )
    kept = Rollout(
        rollout.ids.cpu(), rollout.mask.cpu(), rollout.response_mask.cpu(), rollout.finished.cpu(), rollout.texts
    )
    return kept, (logprobs * rollout.response_mask).cpu()
