"""Stage train_modpo: one policy from pairs of the reference policy's responses that rewards label; resumable."""

import argparse
import gc
import logging
import time
from pathlib import Path

import torch

from moa.config_keys import Ppo
from moa.errors import MoaError
from moa.generation import Rollout, join, sample
from moa.methods import modpo
from moa.models import forward
from moa.preferences import Preference
from moa.process import Stopwatch, exclusive
from moa.rl.experience import Actor
from moa.rl.loop import CurveRow, Task, prompt_indices, seed_step
from moa.rl.losses import forbid_empty, logprobs_and_entropy
from moa.rl.pairs import PairLoop, Pairs, Samples, make_pairs
from moa.stages import common, train

log = logging.getLogger("moa")


def draw(actor: Actor, task: Task, ppo: Ppo, responses: int, seed: int) -> Samples:
    """Sample the reference policy on train prompts, `responses` to each side by side, and score what it wrote.

    There are at most `ppo.steps * ppo.batch_size` responses, as many as the shared loop generates, and at least one prompt's
    (`Method.check`).

    Raises:
        MoaError: not even one response at a time fits into memory.
    """
    count = ppo.steps * ppo.batch_size // responses
    prompts = [task.prompts[i] for i in prompt_indices(len(task.prompts), count, seed, 0) for _ in range(responses)]
    rollout, reference = _read_in_parts(actor, [task.text_of(p, None) for p in prompts], ppo.batch_size, seed)
    scores = task.scale.apply(torch.from_numpy(task.score(prompts, rollout.texts)).to(rollout.ids.device))
    return Samples(rollout.ids, rollout.mask, rollout.response_mask, reference, scores.raw, scores.quantile, rollout.finished.float())


def _read_in_parts(actor: Actor, texts: list[str], rows: int, seed: int) -> tuple[Rollout, torch.Tensor]:
    """Return responses and their log-probabilities (B, T), `rows` at a time, fewer where memory runs out."""
    while True:
        clock = common.Progress("generate", len(texts))
        try:
            parts = []
            for number, start in enumerate(range(0, len(texts), rows)):
                seed_step(seed, number)
                parts.append(_read(actor, texts[start : start + rows]))
                clock.add(len(texts[start : start + rows]))
            rollout = join([part for part, _ in parts], int(actor.tokenizer.pad_token_id))
            logs = [torch.nn.functional.pad(found, (0, rollout.response - found.shape[1])) for _, found in parts]
            return rollout, torch.cat(logs)
        except torch.OutOfMemoryError as error:
            if rows == 1:
                raise MoaError("out of memory with one response at a time; lower generation.max_new_tokens, or set model.quantisation: nf4") from error
        rows //= 2
        gc.collect()
        torch.cuda.empty_cache()
        log.warning("out of memory: sampling %d responses at a time", rows)


@torch.no_grad()
def _read(actor: Actor, texts: list[str]) -> tuple[Rollout, torch.Tensor]:
    """Sample the reference, the adapter switched off, and read what it drew once more."""
    with actor.model.disable_adapter():
        rollout = sample(actor.model, actor.tokenizer, texts, actor.decoding, actor.context)
        logits, _ = forward(actor.model, rollout.ids, rollout.mask, rollout.response)
    logprobs, _ = logprobs_and_entropy(forbid_empty(logits, int(actor.tokenizer.eos_token_id)), rollout.ids[:, -rollout.response :], actor.decoding.temperature)
    return rollout, logprobs * rollout.response_mask


def label(samples: Samples, method: modpo.Method, weights: Preference, seed: int) -> Pairs:
    """Make the policy's pairs; their labels depend on the seed alone."""
    settings = method.settings
    rewards = settings.scale * samples.quantile
    return make_pairs(rewards, settings.responses, torch.tensor(weights, device=rewards.device), method.labelled(weights), settings.labels == "drawn", seed)


def first_rows(samples: Samples, objectives: list[str]) -> list[CurveRow]:
    """Return what the reference policy's responses were worth, for the curve's first step."""
    rows: list[CurveRow] = []
    for quantity, scores in (("reward", samples.raw), ("normalised_reward", samples.quantile)):
        rows += [(0, quantity, o, v) for o, v in zip(objectives, scores.mean(0).tolist(), strict=True)]
    lengths = samples.response_mask.sum(1)
    return [*rows, (0, "response_tokens", "all", float(lengths.mean())), (0, "finished_rate", "all", float(samples.finished.mean()))]


def run_loop(loop: PairLoop, name: str) -> None:
    """Run the loop to its end with a line of progress every few seconds."""
    last = began = time.perf_counter()
    for step in loop.run():
        now = time.perf_counter()
        if now - last >= train.REPORT_SECONDS or step + 1 == loop.steps:
            left = (now - began) / (step + 1 - loop.resumed) * (loop.steps - step - 1)
            shown = {q: v for s, q, _, v in loop.curve if s == step}
            log.info(
                "%s step %d/%d  loss %.3f  pairs in order %.0f %%  KL from the reference %.3f  %.0f MiB  ETA %d:%02d",
                name, step + 1, loop.steps, shown["pair_loss"], 100 * shown["pair_accuracy"], shown["forward_kl"], shown["memory"], left // 60, left % 60,
            )  # fmt: skip
            last = now


def samples_of(path: Path, actor: Actor, task: Task, ppo: Ppo, responses: int, seed: int, watch: Stopwatch) -> Samples:
    """Return the samples, drawn now, which `watch` counts, or by an earlier attempt."""
    if path.exists():
        return Samples.load(path, next(actor.model.parameters()).device)
    with watch.running():
        samples = draw(actor, task, ppo, responses, seed)
        samples.save(path)
    return samples


def main(args: argparse.Namespace) -> None:
    section, method, weights = train.read_request(args)
    assert isinstance(method, modpo.Method), "only MODPO trains so"
    assert weights is not None, "every policy of MODPO has weights"
    cost = common.Cost(section.task, "train", method=args.row, seed=args.seed, job=args.policy)
    folder = train.checkpoint_folder(args, method)
    with exclusive(train.lock_of(folder)):
        actor = train.make_actor(section, args.base, method, args.seed)
        task = train.make_task(section, method, actor, args, weights)
        settings, ppo = method.settings, section.ppo
        watch = Stopwatch()
        samples = samples_of(folder / "samples.safetensors", actor, task, ppo, settings.responses, args.seed, watch)
        epochs, rate = settings.epochs or ppo.epochs, settings.learning_rate or ppo.learning_rate
        pairs = label(samples, method, weights, args.seed)
        loop = PairLoop(actor, ppo, samples, pairs, settings.beta, epochs, rate, args.row, args.seed, folder, first_rows(samples, method.objectives), watch)
        run_loop(loop, f"{args.row}/{args.policy} s{args.seed}")
        train.write_policy(section, args, method, actor.model, weights, None, {})
        train.write_curve(section, args, loop.curve)
        cost.tokens, cost.models = int(samples.response_mask.sum()), 1
        cost.resume(loop.watch)
        cost.write(args.costs)
        train.remove_checkpoints(folder)


if __name__ == "__main__":
    common.run(main, train.parser(__doc__))
