"""Trains every method on Fishwood, whose front is known, and writes docs/testbed.md's table and its figure.

    python benchmarks/fishwood.py --out fishwood.parquet --figure docs/figures/fishwood.svg > fishwood.md

All points are exact expectations of the trained policies (dynamic programming), so the spread over seeds is the
training's alone.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from scipy.stats import t

from moa.experiment.preferences import Preference, lattice
from moa.methods import catalogue
from moa.metrics.fronts import hypervolume
from moa.metrics.steering import kendall_tau
from moa.testbed.figure import strips
from moa.testbed.fishwood import Fishwood
from moa.testbed.train import PPO, Learner

Array = NDArray[np.float64]
GRID = lattice(2, 10)
TRIANGLE = 0.5  # hypervolume of the true front on the normalised scale, where its ends are (1, 0) and (0, 1)


class Setup(NamedTuple):
    """A row of the table: a method's section, its training preferences, and how advantages are shaped."""

    section: dict[str, Any]
    whiten: str = "none"
    raw: bool = False
    training: tuple[Preference, ...] = tuple(GRID)


MOC = {
    "kind": "moc",
    "control": "sample",
    "weights": "min_norm",
    "target": "plain",
}  # the front is straight: the target p lies exactly on it
MULTIPLIER = {**MOC, "weights": "lagrangian", "multiplier": 2.0}
RAY = {"kind": "moc", "target": "ray", "shrink": True, "objective_weights": "simplex"}
ROWS = {
    "linear, raw rewards": Setup({"kind": "linear"}, raw=True),
    "linear": Setup({"kind": "linear"}),
    "linear, whitened": Setup({"kind": "linear"}, whiten="batch"),
    "morlhf": Setup({"kind": "morlhf"}),
    "pama, batch, whitened": Setup({"kind": "pama"}, whiten="batch"),
    "pama, token, whitened": Setup({"kind": "pama", "granularity": "token"}, whiten="batch"),
    "mgda_ub": Setup({"kind": "mgda_ub"}),
    "mse_only": Setup({"kind": "mse_only", "target": "plain"}),
    "moc, literal": Setup({**MOC, "streams": "literal"}),
    "moc, weighted": Setup({**MOC, "streams": "weighted"}),
    "moc, utility": Setup(MOC),
    "moc, utility, whitened": Setup(MOC, whiten="batch"),
    "moc, target range, whitened": Setup(
        {"kind": "moc", "control": "sample", "weights": "min_norm", "target": "range"}, whiten="batch"
    ),
    "moc, uniform weights": Setup({**MOC, "weights": "uniform"}),
    "moc, weights per preference": Setup({**MOC, "granularity": "preference"}),
    "moc, multiplier 2, sample": Setup(MULTIPLIER),
    "moc, multiplier 2, mean": Setup({**MULTIPLIER, "control": "mean"}),
    "moc, multiplier 2, feedback": Setup({**MULTIPLIER, "control": "feedback", "objective_weights": "signed"}),
    "moc, multiplier 4, feedback": Setup(
        {**MULTIPLIER, "control": "feedback", "multiplier": 4.0, "objective_weights": "signed"}
    ),
    "moc, multiplier 4, feedback, arc": Setup({"kind": "moc", "objective_weights": "signed"}),
    "moc, default (arc, weights of at least 0)": Setup({"kind": "moc"}),
    "moc, default, shrunk": Setup({"kind": "moc", "shrink": True}),
    "moc, ray": Setup({"kind": "moc", "target": "ray"}),
    "moc, ray, shrunk": Setup({"kind": "moc", "target": "ray", "shrink": True}),
    "moc, ray, shrunk, on the simplex": Setup(RAY),
    "moc, ray, shrunk, on the simplex, whitened": Setup(RAY, whiten="batch"),
    "moc, exact search, phi 0.005": Setup({"kind": "moc", "weights": "exact", "phi": 0.005}),
    "moc, exact search, phi 0.005, target p": Setup(
        {"kind": "moc", "weights": "exact", "phi": 0.005, "target": "plain"}
    ),
    "moc, multiplier 2, sample, 5 preferences": Setup(MULTIPLIER, training=tuple(lattice(2, 4))),
}


class Outcome(NamedTuple):
    """One seed of one row: expected (fish, wood) at every evaluation preference (M, 2), and CPU seconds."""

    points: Array
    seconds: float


def train(setup: Setup, seed: int, steps: int) -> Outcome:
    """Train one seed; a method with fixed weights trains a policy per preference, one without preferences repeats its point."""
    environment = Fishwood()
    began = time.process_time()
    ppo = PPO.model_copy(update={"whiten": setup.whiten, "steps": steps})

    def learnt(training: list[Preference], shown: list[Preference]) -> Array:
        method = catalogue.load("row", setup.section, environment.objectives)
        learner = Learner(environment, method, ppo, training, seed, setup.raw)
        return environment.expected(learner.train().probabilities(shown)).numpy()

    method = catalogue.load("row", setup.section, environment.objectives)
    if method.conditioned:
        points = learnt(list(setup.training), GRID)
    elif method.steerable:
        points = np.concatenate([learnt([p], [(0.0, 0.0)]) for p in GRID])
    else:
        points = learnt([(0.5, 0.5)], [(0.0, 0.0)]).repeat(len(GRID), 0)
    return Outcome(points, time.process_time() - began)


def metrics(points: Array) -> dict[str, float]:
    """Return what one seed's points (M, 2) are worth.

    Position is the share of the way from all wood (0) to all fish (1).
    """
    scale = Fishwood().scale
    normalised = (points - scale.low.numpy()) / (scale.high - scale.low).numpy()
    position = normalised[:, 0]
    steps = np.diff(np.sort(np.concatenate([[0.0], position, [1.0]])))
    return {
        "hypervolume": hypervolume(normalised, np.zeros(2)) / TRIANGLE,
        "gap": float(steps.max()),
        "tau": float(kendall_tau(np.array(GRID)[:, 0], np.round(position, 3))),
        "error": float(np.abs(position - np.array(GRID)[:, 0]).mean()),
    }


def interval(values: list[float]) -> str:
    """Return mean and half the 95 % t-interval over seeds."""
    half = (
        t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    )
    return f"{np.mean(values):.3f} ± {half:.3f}"


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """Return the Markdown table."""
    lines = [
        "| row | hypervolume, share of the front's | largest gap | tau | mean distance to p | CPU s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, seeds in outcomes.items():
        found = [metrics(s.points) for s in seeds]
        cells = [interval([f[key] for f in found]) for key in ("hypervolume", "gap", "tau", "error")]
        lines.append(f"| {name} | {' | '.join(cells)} | {np.mean([s.seconds for s in seeds]):.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="Parquet file of all points")
    parser.add_argument("--figure", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=PPO.steps)
    args = parser.parse_args()
    torch.set_num_threads(1)
    outcomes: dict[str, list[Outcome]] = {}
    for name in args.rows:
        outcomes[name] = [train(ROWS[name], seed, args.steps) for seed in range(args.seeds)]
        print(name, [f"{s.points[:, 0].round(1).tolist()}" for s in outcomes[name]][:1], file=sys.stderr, flush=True)
    records = [
        {"row": name, "seed": seed, "preference": list(p), "fish": float(x[0]), "wood": float(x[1])}
        for name, seeds in outcomes.items()
        for seed, s in enumerate(seeds)
        for p, x in zip(GRID, s.points, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(records), args.out)
    positions = {name: [(s.points[:, 0] / 19.9).tolist() for s in seeds] for name, seeds in outcomes.items()}
    args.figure.write_text(
        strips(
            "Fishwood: where 11 preferences end on the front", ("180 wood, no fish", "19.9 fish, 0.9 wood"), positions
        ),
        encoding="utf-8",
    )
    print(f"Command: `{shlex.join(['python', 'benchmarks/fishwood.py', *sys.argv[1:]])}`\n\n{table(outcomes)}")


if __name__ == "__main__":
    main()
