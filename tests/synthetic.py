"""A complete small results tree without any model: every table of one task, for tests of what reads them.

`build(root)` writes root/synthetic/... as the pipeline would lay it out and returns that folder; `warehouse(root)` adds
root/results.duckdb. Numbers are made by formula and a seeded generator: rows differ in skill, steerable rows trade the
first objective for the others along the preference, row pama repeats itself, and some responses are hostile.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import duckdb
import numpy as np

from moa.experiment import schema
from moa.experiment.preferences import Preference, corners, label, lattice
from moa.stages import evaluate, manifest
from moa.stages import warehouse as database
from moa.store import tables
from moa.store.provenance import text_hash

TASK = "synthetic"
PROMPTS = 12
STEPS = 12
SKILL = {
    "reference": 0.45,
    "single_objective": 0.85,
    "morlhf": 0.8,
    "rewarded_soups": 0.75,
    "linear": 0.7,
    "pama": 0.6,
    "moc": 0.85,
}
FREE = ("reference", "pama")
SHARED = ("morlhf", "rewarded_soups")  # rows that borrow policies of single_objective
DOMINATED = ("linear", 2)  # row and point that another point of the row beats everywhere
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "{{ 7 * 7 }} {% raw %} ${7*7} <!--",
    "\"'><svg/onload=alert(1)> &lt;b&gt; javascript:alert(1)",
    "\u202eright to left\u202c zero\u200bwidth \u2028 line \ufeff",
    "\x1b[2J\x1b]0;title\x07 escape [bold red]markup[/bold red]",
    "'; DROP TABLE scores; --",
    '=HYPERLINK("http://example.invalid")',
    "",
    "   \n\t",
    "long " * 400,
)
WORDS = (
    "the",
    "chair",
    "is",
    "very",
    "good",
    "and",
    "light",
    "but",
    "its",
    "blue",
    "cover",
    "wears",
    "thin",
    "after",
    "many",
    "quiet",
    "days",
)


@dataclass(frozen=True)
class World:
    """What every part of the tree shares."""

    root: Path
    objectives: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def folder(self) -> Path:
        return self.root / TASK

    @property
    def grid(self) -> list[Preference]:
        return lattice(len(self.objectives), 4 if len(self.objectives) == 2 else 2)

    def points(self, row: str) -> Sequence[Preference | None]:
        if row in FREE:
            return [None]
        return corners(len(self.objectives)) if row == "single_objective" else self.grid

    def policies(self, row: str) -> list[tuple[str, str, Preference | None]]:
        """Owner, name and weights of every policy that `row` uses."""
        single: list[tuple[str, str, Preference | None]] = [
            ("single_objective", name, corner)
            for name, corner in zip(self.objectives, corners(len(self.objectives)), strict=True)
        ]
        if row == "morlhf":
            return single + [(row, label(p), p) for p in self.grid if max(p) < 1]
        return {"reference": [], "single_objective": single, "rewarded_soups": single}.get(row, [(row, "policy", None)])


def build(root: Path, objectives: Sequence[str] = ("sentiment", "conciseness"), seeds: Sequence[int] = (0,)) -> Path:
    """Write the tree below `root` and return the task's folder, root/synthetic."""
    world = World(root, tuple(objectives), tuple(seeds))
    ids = _prompts(world)
    _scale(world)
    for row in SKILL:
        for seed in world.seeds:
            _responses(world, row, seed, ids)
            _training(world, row, seed)
    _shared_costs(world)
    _evaluate(world)
    describe(world)
    return world.folder


def warehouse(
    root: Path, objectives: Sequence[str] = ("sentiment", "conciseness"), seeds: Sequence[int] = (0,)
) -> Path:
    """Build the tree and its database; return root/results.duckdb."""
    folder = build(root, objectives, seeds)
    database.build([folder / "run.parquet"], root / "results.duckdb")
    return root / "results.duckdb"


def experiment(world: World) -> schema.Experiment:
    """The experiment that this tree pretends to be the result of."""
    rewards: dict[str, Any] = {f"{name}_reward": {"kind": "conciseness"} for name in world.objectives}
    rewards[f"{world.objectives[0]}_reward"] = {"kind": "vader"}
    rewards["judge"] = {"kind": "readability"}
    declared = {name: {"reward": f"{name}_reward"} for name in world.objectives}
    declared[world.objectives[0]]["judge"] = "judge"
    return schema.parse(
        {
            "task": TASK,
            "run": {"methods": list(SKILL), "seeds": list(world.seeds)},
            "data": {"source": "embedded"},
            "model": {"source": "scratch", "scratch": {}, "sft": {}},
            "objectives": declared,
            "rewards": rewards,
            "preferences": {"evaluation": {"points": [list(p) for p in world.grid]}},
            "evaluation": {"bootstrap": 50},
        }
    )


def _prompts(world: World) -> list[str]:
    rows, texts = [], []
    for i in range(2 * PROMPTS):
        prompt = f"The product number {i} is" if i != PROMPTS else 'A <b>bold</b> "prompt" & \x1b[31m more'
        rows.append(
            {
                "task": TASK,
                "prompt_id": text_hash(prompt),
                "split": "train" if i < PROMPTS else "evaluation",
                "prompt": prompt,
            }
        )
        texts.append(
            {
                "task": TASK,
                "text_id": text_hash(prompt, "x"),
                "split": "heldout" if i % 4 == 0 else "train",
                "prompt": prompt,
                "response": " good.",
            }
        )
    tables.write(tables.PROMPTS, rows, world.folder / "prompts.parquet")
    tables.write(tables.TEXTS, texts, world.folder / "texts.parquet")
    scores = [
        {"task": TASK, "text_id": t["text_id"], "objective": name, "role": "reward", "score": 0.5, "truncated": False}
        for t in texts
        for name in world.objectives
    ]
    tables.write(tables.TEXT_SCORES, scores, world.folder / "text_scores.parquet")
    return [r["prompt_id"] for r in rows if r["split"] == "evaluation"]


def bounds(k: int) -> tuple[float, float]:
    """Raw scale of objective k: the first lies in [-1, 1], the others in [0, 1]."""
    return (-1.0, 1.0) if k == 0 else (0.0, 1.0)


def _scale(world: World) -> None:
    rows = [
        {
            "task": TASK,
            "objective": name,
            "low": bounds(k)[0],
            "high": bounds(k)[1],
            "mean": sum(bounds(k)) / 2,
            "std": 0.2,
            "floor": bounds(k)[0],
            "reference_point": bounds(k)[0],
            "n": 2 * PROMPTS,
            "hash": "0123456789ab",
        }
        for k, name in enumerate(world.objectives)
    ]
    tables.write(tables.NORMALISER, rows, world.folder / "normaliser.parquet")
    tables.write(
        tables.FLUENCY,
        [{"task": TASK, "tokens": 1, "low": 0.5, "high": 4.0, "median": 2.0, "n": 6}],
        world.folder / "fluency.parquet",
    )
    generations, scores = _draw(world, "reference", 0, [text_hash(str(i)) for i in range(PROMPTS)])
    tables.write(tables.REFERENCE_RESPONSES, generations, world.folder / "reference_responses.parquet")
    tables.write(
        tables.REFERENCE_SCORES, [s for s in scores if s["role"] == "reward"], world.folder / "reference_scores.parquet"
    )


def level(skill: float, preference: Preference | None, k: int, objectives: int) -> float:
    """Normalised mean reward: on a concave front whose extent is the row's skill."""
    weight = 1 / objectives if preference is None else preference[k]
    return 0.1 + 0.9 * skill * float(np.sqrt(weight))


def _draw(world: World, row: str, seed: int, ids: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rng = np.random.default_rng([crc32(row.encode()), seed])
    generations: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for point, preference in enumerate(world.points(row)):
        for i, prompt_id in enumerate(ids):
            key = {"task": TASK, "method": row, "seed": seed, "point": point, "prompt_id": prompt_id, "sample": 0}
            response = _response(row, point, i, rng)
            blank = not response.strip()
            owner, name, _ = (world.policies(row) or [("", "base", None)])[0]
            generations.append(
                {
                    **key,
                    "preference": preference,
                    "policy": name if owner in ("", row) else f"{owner}/{name}",
                    "response": response,
                    "tokens": len(response) // 4,
                    "finished": bool(rng.random() < 0.9),
                    "nll": None if blank else float(rng.normal(2.0, 0.1)),
                }
            )
            skill = SKILL[row] * (0.5 if (row, point) == DOMINATED else 1.0)
            scores += list(_scores(world, key, skill, preference, blank, rng))
    return generations, scores


def _response(row: str, point: int, prompt: int, rng: np.random.Generator) -> str:
    if row == "pama" and prompt % 2:
        return "great great great great great great great"
    if row == "moc" and prompt + point < len(HOSTILE):
        return HOSTILE[prompt + point]
    return " " + " ".join(rng.choice(WORDS, size=int(rng.integers(4, 16)))) + "."


def _scores(
    world: World,
    key: dict[str, Any],
    skill: float,
    preference: Preference | None,
    blank: bool,
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    for k, name in enumerate(world.objectives):
        low, high = bounds(k)
        normalised = (
            0.0 if blank else float(np.clip(rng.normal(level(skill, preference, k, len(world.objectives)), 0.1), 0, 1))
        )
        yield {
            **key,
            "objective": name,
            "role": "reward",
            "score": low + (high - low) * normalised,
            "truncated": len(world.objectives) > 5,
        }
        if k == 0:
            yield {**key, "objective": name, "role": "judge", "score": normalised**2, "truncated": normalised > 0.95}


def _responses(world: World, row: str, seed: int, ids: list[str]) -> None:
    generations, scores = _draw(world, row, seed, ids)
    tables.write(tables.GENERATIONS, generations, world.folder / f"generations/{row}/s{seed}.parquet")
    tables.write(tables.SCORES, scores, world.folder / f"scores/{row}/s{seed}.parquet")
    _cost(world, "generate", row, seed, "all", seconds=1.5 * len(world.points(row)), tokens=9 * len(generations))
    _cost(world, "score", row, seed, "all", seconds=0.5)


def _training(world: World, row: str, seed: int) -> None:
    for owner, name, weights in world.policies(row):
        if owner == row:
            tables.write(
                tables.CURVES,
                list(_curve(world, row, name, seed, weights)),
                world.folder / f"curves/{row}/{name}/s{seed}.parquet",
            )
            _cost(world, "train", row, seed, name, seconds=20.0 + len(name), tokens=64 * 24 * STEPS, models=1)
            folder = world.folder / f"policies/{row}/{name}/s{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "policy.json").write_text("{}\n", encoding="utf-8")


def _curve(world: World, row: str, policy: str, seed: int, weights: Preference | None) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng([crc32(f"{row}/{policy}".encode()), seed])
    heads = [*world.objectives, "control"] if row == "moc" else list(world.objectives)
    for step in range(STEPS):
        key = {"task": TASK, "method": row, "seed": seed, "policy": policy, "step": step}
        done = step / (STEPS - 1)
        for k, name in enumerate(world.objectives):
            low, high = bounds(k)
            normalised = (
                0.4 + done * (level(SKILL[row], weights, k, len(world.objectives)) - 0.4) + float(rng.normal(0, 0.02))
            )
            yield {**key, "quantity": "reward", "objective": name, "value": low + (high - low) * normalised}
            yield {**key, "quantity": "normalised_reward", "objective": name, "value": normalised}
        for name in heads:
            yield {**key, "quantity": "weight", "objective": name, "value": 1 / len(heads)}
            yield {**key, "quantity": "value_loss", "objective": name, "value": float(np.exp(-3 * done))}
        quantities = {
            "kl": 0.2 * done,
            "kl_coefficient": 0.2,
            "control_error": 0.3 - 0.2 * done,
            "clip_fraction": 0.1,
            "entropy": 2.5 - done,
            "grad_norm": 0.5,
            "tokens_per_second": 3000.0,
            "seconds": 0.6,
            "peak_memory": 900.0,
        }
        for quantity, value in quantities.items():
            yield {**key, "quantity": quantity, "objective": "all", "value": value}


def _cost(
    world: World, stage: str, row: str, seed: int, job: str, *, seconds: float, tokens: int = 0, models: int = 0
) -> None:
    path = world.folder / "costs" / stage / row / job / f"s{seed}.parquet"
    key = {"task": TASK, "stage": stage, "method": row, "seed": seed, "job": job}
    measured = {
        "seconds": seconds,
        "cpu_seconds": 1.8 * seconds,
        "tokens": tokens,
        "models": models,
        "batch": 64 if stage == "generate" else None,
        "peak_memory": 900.0,
        "device": "cpu",
    }
    tables.write(tables.COSTS, [{**key, **measured}], path)


def _shared_costs(world: World) -> None:
    _cost(world, "prompts", "all", 0, "all", seconds=3.0)
    _cost(world, "base", "all", 0, "all", seconds=110.0, tokens=900_000, models=1)
    _cost(world, "reference_scores", "all", 0, "all", seconds=12.0, tokens=20_000)


def _evaluate(world: World) -> None:
    made = experiment(world)
    section = schema.EvaluateSection(
        task=TASK,
        objectives=made.objectives,
        evaluation=made.evaluation,
        methods=list(SKILL),
        seeds=list(world.seeds),
        payoff_row="single_objective",
        reference_row="reference",
    )
    folder = world.folder
    shared = [folder / f"{name}.parquet" for name in ("normaliser", "fluency", "prompts")]
    answered = [sorted(folder.glob(f"{name}/*/*.parquet")) for name in ("generations", "scores")]
    results = evaluate.evaluate(section, evaluate.Inputs(*shared, *answered))
    for table in (tables.POINTS, tables.QUALITY, tables.METRICS, tables.PAYOFF):
        tables.write(table, results[table.name], folder / f"evaluation/{table.name}.parquet")


def describe(world: World) -> None:
    """Write run.parquet; call it again after a test has changed a table."""
    folder = world.folder
    files = sorted(p for p in folder.rglob("*.parquet") if p.name != "run.parquet") + sorted(
        p.parent for p in folder.rglob("policy.json")
    )
    used = {row: [{"owner": owner, "policy": name} for owner, name, _ in world.policies(row)] for row in SKILL}
    tables.write(tables.RUNS, [manifest.describe(experiment(world), used, files, folder)], folder / "run.parquet")


def ask(database: Path, sql: str) -> list[tuple]:
    """Return the rows of a query on a database file."""
    with duckdb.connect(str(database), read_only=True) as connection:
        return connection.execute(sql).fetchall()
