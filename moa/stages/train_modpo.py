"""Stage train_modpo: one policy from preference pairs, the reference policy's that rewards label or a data set's own; resumable."""

import argparse
import logging
import time
from pathlib import Path

import torch

from moa.experiment.keys import Ppo
from moa.experiment.preferences import Preference
from moa.job import command
from moa.job.process import Stopwatch
from moa.methods import modpo
from moa.rl.experience import Actor
from moa.rl.loop import CurveRow, Task
from moa.stages import train
from moa.store import tables
from moa.tasks.preference_pairs import read_pairs
from moa.trainers.pair_loop import PairLoop, Samples
from moa.trainers.pair_samples import draw, given
from moa.trainers.pairs import Pairs, given_pairs, make_pairs

log = logging.getLogger("moa")


def label(samples: Samples, method: modpo.Method, weights: Preference) -> Pairs:
    """Make the policy's pairs."""
    settings = method.settings
    rewards = settings.scale * samples.quantile
    wanted, labelled = torch.tensor(weights, device=rewards.device), method.labelled(weights)
    if settings.pairs is not None:
        return given_pairs(rewards, wanted, labelled)
    return make_pairs(rewards, settings.responses, wanted, labelled)


def first_rows(samples: Samples, objectives: list[str]) -> list[CurveRow]:
    """Return what the responses were worth, for the curve's first step."""
    rows: list[CurveRow] = []
    for quantity, scores in (("reward", samples.raw), ("normalised_reward", samples.quantile)):
        rows += [(0, quantity, o, v) for o, v in zip(objectives, scores.mean(0).tolist(), strict=True)]
    lengths = samples.response_mask.sum(1)
    return [
        *rows,
        (0, "response_tokens", "all", float(lengths.mean())),
        (0, "finished_rate", "all", float(samples.finished.mean())),
    ]


def run_loop(loop: PairLoop, name: str) -> None:
    """Run the loop to its end with a line of progress every few seconds."""
    last = began = time.perf_counter()
    for step in loop.run():
        now = time.perf_counter()
        if now - last >= command.REPORT_SECONDS or step + 1 == loop.steps:
            left = (now - began) / (step + 1 - loop.resumed) * (loop.steps - step - 1)
            shown = {q: v for s, q, _, v in loop.curve if s == step}
            log.info(
                "%s step %d/%d  loss %.3f  pairs in order %.0f %%  KL from the reference %.3f  %.0f MiB  ETA %d:%02d",
                name, step + 1, loop.steps, shown["pair_loss"], 100 * shown["pair_accuracy"], shown["forward_kl"], shown["memory"], left // 60, left % 60,
            )  # fmt: skip
            last = now


def samples_of(
    path: Path, actor: Actor, task: Task, method: modpo.Method, args: argparse.Namespace, ppo: Ppo, watch: Stopwatch
) -> Samples:
    """Return the samples, made now, which `watch` counts, or by an earlier attempt."""
    kept = Samples.load(path, watch)
    if kept is not None:
        return kept
    settings = method.settings
    with watch.running():
        if settings.pairs is None:
            samples = draw(actor, task, ppo, settings.responses, args.seed)
        else:
            table = tables.read(tables.PROMPTS, args.prompts).to_pylist()
            evaluation = [r["prompt"] for r in table if r["split"] == "evaluation"]
            samples = given(
                actor, task, ppo, read_pairs(f"methods.{args.row}.pairs", settings.pairs, evaluation), args.seed
            )
    samples.save(path, watch)
    return samples


def main(args: argparse.Namespace) -> None:
    section, method, weights = train.read_request(args)
    assert isinstance(method, modpo.Method), "only MODPO trains so"
    assert weights is not None, "every policy of MODPO has weights"
    cost = command.Cost(section.task, "train", method=args.row, seed=args.seed, job=args.policy)
    with train.checkpoints(args) as job:
        actor = train.make_actor(section, args.base, method, args.seed)
        task = train.make_task(section, method, actor, args, weights)
        settings, ppo = method.settings, section.ppo
        samples = samples_of(job.folder / "samples.safetensors", actor, task, method, args, ppo, job.watch)
        epochs, rate = settings.epochs or ppo.epochs, settings.learning_rate or ppo.learning_rate
        pairs = label(samples, method, weights)
        loop = PairLoop(
            actor,
            ppo,
            samples,
            pairs,
            settings.beta,
            epochs,
            rate,
            args.row,
            args.seed,
            job.folder,
            first_rows(samples, method.objectives),
            job.watch,
        )
        run_loop(loop, f"{args.row}/{args.policy} s{args.seed}")
        train.write_policy(section, args, method, actor.model, weights, None, {})
        train.write_curve(section, args, loop.curve)
        cost.tokens, cost.models = int(samples.response_mask.sum()), 1
        cost.resume(loop.watch)
        cost.write(args.costs)


if __name__ == "__main__":
    command.run(main, train.parser(__doc__))
