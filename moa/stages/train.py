"""Stage train: one policy by the shared PPO loop, resumable; writes adapter, value heads, card and curve."""

import argparse
import json
import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel

from moa.errors import MoaError
from moa.experiment.keys import Ppo
from moa.experiment.preferences import Preference, check
from moa.experiment.schema import TrainSection
from moa.job import command
from moa.job.process import Job, keeping
from moa.lm import conditioning, models
from moa.lm.generation import Decoding
from moa.method import Method
from moa.methods import catalogue
from moa.rewards import scoring
from moa.rl.estimation import Scale
from moa.rl.experience import Actor
from moa.rl.loop import CurveRow, Loop, Task, batch_preferences
from moa.store import tables
from moa.store.provenance import file_hash

log = logging.getLogger("moa")


def read_scale(path: Path, objectives: Sequence[str], where: torch.device) -> tuple[Scale, dict[str, float]]:
    """Return the normaliser as tensors (K,) and each objective's floor."""
    rows = {r["objective"]: r for r in tables.read(tables.NORMALISER, path).to_pylist()}
    missing = [o for o in objectives if o not in rows]
    if missing:
        raise MoaError(f"{path}: no row for objective '{missing[0]}'; run the stage reference_scores again")
    for name in objectives:
        if not rows[name]["high"] > rows[name]["low"]:
            raise MoaError(
                f"{path}: objective '{name}' has the scale [{rows[name]['low']:g}, {rows[name]['high']:g}], which is no"
                " scale; choose another reward, or correct it"
            )
    columns = [
        torch.tensor([rows[o][c] for o in objectives], dtype=torch.float32, device=where)
        for c in ("low", "high", "mean", "std")
    ]
    return Scale(*columns), {o: rows[o]["floor"] for o in objectives}


class Scoring:
    """Scores batches of responses with every objective's reward, in the objectives' order."""

    def __init__(self, section: TrainSection, folders: Sequence[Path], floors: dict[str, float]) -> None:
        names = {o: spec.reward for o, spec in section.objectives.items()}
        self.scorers = {o: (name, scoring.load(name, section.rewards[name], folders)) for o, name in names.items()}
        self.floors = floors

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        columns = [
            scoring.score(name, s, list(prompts), list(responses), self.floors[o]).values
            for o, (name, s) in self.scorers.items()
        ]
        return np.stack(columns, 1).astype(np.float32)


def make_actor(section: TrainSection, base: Path, method: Method, seed: int) -> Actor:
    """Load the base and put a fresh adapter and value heads on it."""
    tokenizer = models.load_tokenizer(base)
    model = models.load_base(base, section.model)
    context = models.context_length(model)
    policy = models.add_adapter(model, section.model.lora, seed)
    if section.model.gradient_checkpointing:
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy.enable_input_require_grads()
    heads = models.ValueHeads(models.hidden_size(policy), len(method.objectives) + len(method.extra_heads)).to(
        models.device()
    )
    generation = section.generation
    return Actor(
        policy, heads, tokenizer, Decoding(generation.max_new_tokens, generation.temperature, generation.top_p), context
    )


def training_preferences(method: Method, section: TrainSection, weights: Preference | None) -> list[Preference]:
    """Return what a policy is trained on.

    Its own weights, the lattice, or (preference-free) equal weights that nobody reads.
    """
    if weights is not None:
        return [weights]
    return (
        list(section.training)
        if method.conditioned
        else [tuple([1 / len(section.objectives)] * len(section.objectives))]
    )


def drawn_preferences(ppo: Ppo, training: list[Preference], dirichlet: float, seed: int) -> list[Preference]:
    """Return the preferences that the loop will draw: they depend on seed and step alone."""
    each = ppo.batch_size // ppo.group_size
    return [
        tuple(p) for step in range(ppo.steps) for p in batch_preferences(training, each, dirichlet, seed, step).tolist()
    ]


def make_task(
    section: TrainSection, method: Method, actor: Actor, args: argparse.Namespace, weights: Preference | None
) -> Task:
    objectives = list(section.objectives)
    scale, floors = read_scale(args.normaliser, objectives, models.device())
    every = tables.read(tables.PROMPTS, args.prompts).to_pylist()
    prompts = [r["prompt"] for r in every if r["split"] == "train"]

    def text_of(prompt: str, preference: Preference | None) -> str:
        return conditioning.build(prompt, preference, objectives, section.conditioning, actor.tokenizer)

    shown = training_preferences(method, section, weights)
    dirichlet = section.dirichlet if method.conditioned and weights is None else None
    # Refuse before training what would not fit in the middle of it, or after it: every prompt with the longest-worded
    # preference.
    worded = shown if dirichlet is None else [*shown, *drawn_preferences(section.ppo, shown, dirichlet, args.seed)]
    widest = (
        max(worded, key=lambda p: len(conditioning.token_rows([text_of(prompts[0], p)], actor.tokenizer)[0]))
        if method.conditioned
        else None
    )
    conditioning.encode(
        [text_of(r["prompt"], widest) for r in every], actor.tokenizer, actor.context - actor.decoding.max_new_tokens
    )
    return Task(prompts, text_of, Scoring(section, args.models, floors), scale, shown, dirichlet)


def checkpoints(args: argparse.Namespace) -> AbstractContextManager[Job]:
    """Return the job's checkpoints.

    `--depends` is what the workflow knows: the hashes of the code, of rewards and methods too, and of local files.
    """
    inputs = [file_hash(p) for p in (args.prompts, args.base, args.normaliser, *args.models, *args.texts)]
    name = f"{args.row}-{args.policy}-s{args.seed}"
    return keeping(
        args.checkpoints, name, args.section, args.row, args.policy, str(args.seed), args.weights, args.depends, *inputs
    )


def report_progress(loop: Loop, step: int, name: str, rate: float) -> None:
    """Log one line: step, rewards, KL, entropy, tokens per second, time left."""
    rewards = " ".join(f"{o} {loop.value('reward', o):.3f}" for o in loop.method.objectives)
    left = (loop.ppo.steps - step - 1) * rate
    log.info(
        "%s step %d/%d  %s  KL %.3f  entropy %.2f  %.0f tokens/s  %.0f MiB  ETA %d:%02d",
        name, step + 1, loop.ppo.steps, rewards, loop.value("kl"), loop.value("entropy"), loop.value("tokens_per_second"), loop.value("memory"), left // 60, left % 60,
    )  # fmt: skip


def train(loop: Loop, name: str) -> None:
    """Run the loop to its end with a line of progress every few seconds."""
    last = began = time.perf_counter()
    for step in loop.run():
        now = time.perf_counter()
        if now - last >= command.REPORT_SECONDS or step + 1 == loop.ppo.steps:
            report_progress(loop, step, name, (now - began) / (step + 1 - loop.resumed))
            last = now


def save(loop: Loop, section: TrainSection, args: argparse.Namespace, weights: Preference | None) -> None:
    """Write the policy folder and its curve."""
    write_policy(section, args, loop.method, loop.actor.model, weights, loop.actor.heads, {"streams": loop.streams})
    write_curve(section, args, loop.curve)


def write_policy(
    section: TrainSection,
    args: argparse.Namespace,
    method: Method,
    model: PeftModel,
    weights: Preference | None,
    heads: models.ValueHeads | None,
    facts: dict[str, Any],
) -> None:
    """Write the policy folder; `facts` are what the card says beyond what every policy's does."""
    card = {
        "task": section.task, "method": args.row, "policy": args.policy, "seed": args.seed, "weights": weights,
        "base_hash": file_hash(args.base), "objectives": method.objectives, "conditioned": method.conditioned, **facts,
        "conditioning": section.conditioning.model_dump(), "generation": section.generation.model_dump(), "model": section.model.model_dump(),
    }  # fmt: skip
    with command.folder(args.out) as folder:
        models.save_policy(folder, model, heads, facts.get("streams", []), card)


def write_curve(section: TrainSection, args: argparse.Namespace, curve: Sequence[CurveRow]) -> None:
    """Write table CURVES."""
    key = {"task": section.task, "method": args.row, "policy": args.policy, "seed": args.seed}
    tables.write(
        tables.CURVES,
        [{**key, "step": s, "quantity": q, "objective": o, "value": v} for s, q, o, v in curve],
        args.curve,
    )


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the command line of every stage that trains a policy."""
    paths = ("prompts", "base", "normaliser", "models*", "texts*", "checkpoints", "out", "curve", "costs")
    return command.parser(description, *paths, row=str, policy=str, seed=int, weights=str, depends=str)


def read_request(args: argparse.Namespace) -> tuple[TrainSection, Method, Preference | None]:
    """Return the section, the method, and the policy's weights; None where the preference varies per sample.

    Raises:
        MoaError: the method's settings are wrong, or do not go with the run's (`Method.check`).
    """
    section = TrainSection.model_validate_json(args.section)
    method = catalogue.load(args.row, section.settings, list(section.objectives))
    method.check(section.ppo, section.dirichlet)
    listed = json.loads(args.weights)
    return (
        section,
        method,
        None if listed is None else check(listed, len(section.objectives), f"--weights of {args.row}/{args.policy}"),
    )


def main(args: argparse.Namespace) -> None:
    section, method, weights = read_request(args)
    cost = command.Cost(section.task, "train", method=args.row, seed=args.seed, job=args.policy)
    with checkpoints(args) as job:
        actor = make_actor(section, args.base, method, args.seed)
        task = make_task(section, method, actor, args, weights)
        loop = Loop(actor, method, section.ppo, task, args.seed, job.folder, watch=job.watch)
        train(loop, f"{args.row}/{args.policy} s{args.seed}")
        save(loop, section, args, weights)
        cost.tokens, cost.models = loop.tokens, 1
        cost.resume(loop.watch)
        cost.write(args.costs)


if __name__ == "__main__":
    command.run(main, parser(__doc__))
