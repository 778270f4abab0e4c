"""Trains variants of a row on a finished task's base and measures them on development prompts.

Docs/methods/moc_trials.md's tables.

Development prompts are openings of the embedded corpus that no run evaluates on: the second hundred of its evaluation
prompts, of which experiments use the first. Other experiments' are the evaluation prompts of the same task under
another `data.seed` (--prompts). Variants stand in a YAML file, name -> {row, config (keys on top of the experiment),
embedding (true: a learned one beside the preference's text)}; a name with an underscore in front is no variant.

    snakemake --cores all reference_scores
    python -m benchmarks.ablation --experiment experiments/full.yaml --results results/reviews --variants
    benchmarks/moc_variants.yaml --seeds 0 1 --out variants.jsonl python -m benchmarks.ablation --table variants.jsonl
"""

import argparse
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from snakemake.utils import update_config

from benchmarks.preference_embedding import PreferenceEmbedding
from moa.experiment import schema
from moa.experiment.preferences import Preference
from moa.lm import conditioning, generation
from moa.methods import catalogue
from moa.metrics.fronts import hypervolume
from moa.metrics.steering import control_error, kendall_tau, order_rate
from moa.plan import Plan
from moa.report.summary import table
from moa.rl.experience import Actor
from moa.rl.loop import Loop
from moa.tasks import reviews
from moa.trainers import ppo, setup
from moa.trainers.request import Request

log = logging.getLogger("moa")
PROMPTS, REPEATS = 100, 2  # development prompts; responses per prompt and preference
LAST = 10  # steps over which KL and entropy are averaged


def experiment_of(path: Path, row: str, changes: dict[str, Any]) -> schema.Experiment:
    """Return the experiment with `changes` on top and the row as the only one that it runs.

    Another might refuse the changes.
    """
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    update_config(data, changes)
    data["run"]["methods"] = [row]
    return schema.parse(data, str(path))


def development_prompts() -> list[str]:
    """Return the embedded corpus's second hundred of evaluation prompts."""
    return reviews.generate(20_000, 400, 4_000, 2 * PROMPTS, 0).evaluation_prompts[PROMPTS:]


def metrics(found: NDArray[np.float64], asked: NDArray[np.float64] | None, objectives: list[str]) -> dict[str, Any]:
    """Return hypervolume (against 0), tau per objective, order rate and control error of mean normalised rewards.

    M, K) at preferences (M, K.

    Without preferences nothing of steering is known.
    """
    shown = {"hypervolume": round(hypervolume(found, np.zeros(len(objectives))), 4), "points": found.round(3).tolist()}
    if asked is None:
        return {**shown, "tau": dict.fromkeys(objectives), "order_rate": None, "control_error": None}
    taus = {name: round(float(kendall_tau(asked[:, k], found[:, k])), 3) for k, name in enumerate(objectives)}
    rates = [float(order_rate(asked[:, k], found[:, k])) for k in range(len(objectives))]
    return {
        **shown,
        "tau": taus,
        "order_rate": round(float(np.mean(rates)), 3),
        "control_error": round(float(control_error(asked, found)), 4),
    }


def evaluation_prompts(path: Path) -> list[str]:
    """Return the evaluation prompts of a prompts.parquet."""
    with duckdb.connect() as connection:
        return [
            prompt
            for (prompt,) in connection.execute(
                "SELECT prompt FROM read_parquet($path) WHERE split = 'evaluation' ORDER BY prompt", {"path": str(path)}
            ).fetchall()
        ]


def measure(
    loop: Loop, objectives: list[str], grid: list[Preference], decoding: generation.Decoding, prompts: list[str]
) -> dict[str, Any]:
    """Return the metrics of a policy's responses over the evaluation preferences."""
    points = []
    for preference in grid:
        torch.manual_seed(1)
        means = []
        for _ in range(REPEATS):
            texts = [loop.task.text_of(prompt, preference) for prompt in prompts]
            rollout = generation.sample(loop.actor.model, loop.actor.tokenizer, texts, decoding, loop.actor.context)
            raw = torch.from_numpy(loop.task.score(prompts, rollout.texts)).to(loop.task.scale.low.device)
            means.append(loop.task.scale.apply(raw).quantile.mean(0).tolist())
        points.append(np.mean(means, 0))
    return metrics(np.array(points), np.array(grid), objectives)


def embed(actor: Actor, section: schema.TrainSection) -> None:
    """Give the policy a learned embedding beside the text of every training preference."""
    shown = [
        conditioning.preference_text(p, list(section.objectives), section.conditioning.format) for p in section.training
    ]
    PreferenceEmbedding(actor.model, actor.tokenizer(shown, add_special_tokens=False)["input_ids"], section.training)


def loop_on(
    experiment: schema.Experiment, row: str, results: Path, seed: int, checkpoints: Path, embedding: bool = False
) -> Loop:
    """Return the loop that trains one policy of the row on a finished task's base."""
    section = Plan(experiment, "ablation").train(row)
    method = catalogue.load(row, section.settings, list(section.objectives))
    request = Request(
        section=section,
        method=method,
        weights=None,
        row=row,
        policy="policy",
        seed=seed,
        prompts=results / "prompts.parquet",
        base=results / "base",
        normaliser=results / "normaliser.parquet",
        models=sorted((results / "rewards").glob("*")),
        texts=[],
        checkpoints=checkpoints,
        out=checkpoints / "policy",
        curve=checkpoints / "curve.parquet",
        costs=checkpoints / "costs.parquet",
    )
    actor = setup.actor_of(request)
    if embedding:
        embed(actor, section)
    return Loop(actor, method, section.ppo, setup.task_of(request, actor), seed, checkpoints)


def trial(
    experiment: schema.Experiment, row: str, results: Path, seed: int, embedding: bool, prompts: list[str]
) -> dict[str, Any]:
    """Train one policy and measure it on `prompts`."""
    with tempfile.TemporaryDirectory() as checkpoints:
        loop = loop_on(experiment, row, results, seed, Path(checkpoints), embedding)
        ppo.run(loop, f"{row} s{seed}")
    spec = experiment.generation
    decoding = generation.Decoding(spec.max_new_tokens, spec.evaluation_temperature, spec.evaluation_top_p)
    found = measure(loop, loop.method.objectives, experiment.evaluation_preferences(), decoding, prompts)
    recent = {
        q: round(float(np.mean([v for s, n, _, v in loop.curve if n == q and s >= loop.ppo.steps - LAST])), 3)
        for q in ("kl", "entropy")
    }
    return {"seed": seed, "seconds": round(loop.watch.seconds, 1), **recent, **found}


def show(path: Path) -> str:
    """Return the variants' means over seeds as a Markdown table."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    objectives = list(rows[0]["tau"])
    lines = []
    for name in dict.fromkeys(r["name"] for r in rows):
        mine = [r for r in rows if r["name"] == name]
        known = {
            key: [r[key] for r in mine if r[key] is not None]
            for key in ("hypervolume", "order_rate", "control_error", "kl", "seconds")
        }
        volumes = ", ".join(f"{r['hypervolume']:.3f}" for r in mine)
        taus = [
            f"{np.mean([r['tau'][o] for r in mine]):.2f}" if mine[0]["tau"][o] is not None else "-" for o in objectives
        ]
        rest = [
            f"{np.mean(known[key]):.{digits}f}" if known[key] else "-"
            for key, digits in (("order_rate", 2), ("control_error", 3), ("kl", 2), ("seconds", 0))
        ]
        lines.append([name, f"{np.mean(known['hypervolume']):.3f}", volumes, *taus, *rest])
    return table(
        [
            "variant",
            "hypervolume",
            "per seed",
            *(f"tau {o}" for o in objectives),
            "order rate",
            "control error",
            "KL",
            "seconds",
        ],
        lines,
    )


def set_up() -> None:
    """Log to the console and train with one thread unless OMP_NUM_THREADS says otherwise."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiment", type=Path, default=Path("config.yaml"))
    parser.add_argument("--results", type=Path, help="results/<task> of a run that has made its reference scores")
    parser.add_argument("--variants", type=Path)
    parser.add_argument("--only", nargs="*", help="names of variants; all without it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--prompts",
        type=Path,
        help=(
            "prompts.parquet whose evaluation prompts to measure on; without it the embedded corpus's development"
            " prompts"
        ),
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="print a file of trials and do nothing else")
    given = parser.parse_args()
    if given.table is not None:
        print(show(given.table))
        return
    if not (given.results and given.variants and given.out):
        parser.error("--results, --variants and --out are needed, or --table")
    set_up()
    variants = yaml.safe_load(given.variants.read_text(encoding="utf-8"))
    prompts = development_prompts() if given.prompts is None else evaluation_prompts(given.prompts)
    for seed in given.seeds:
        for name in given.only or [n for n in variants if not n.startswith("_")]:
            variant = variants[name]
            found = trial(
                experiment_of(given.experiment, variant["row"], variant.get("config", {})),
                variant["row"],
                given.results,
                seed,
                variant.get("embedding", False),
                prompts,
            )
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"name": name, **found}) + "\n")


if __name__ == "__main__":
    main()
