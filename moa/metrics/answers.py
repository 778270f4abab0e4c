"""Reads one row's responses and scores into arrays, and refuses what is incomplete or belongs elsewhere.

Notation: P prompts; M points; K objectives; samples of a prompt are averaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moa.errors import MoaError, nearest
from moa.experiment.preferences import Preference
from moa.metrics.bootstrap import Array
from moa.store import tables

Key = tuple[str, int]  # row of the benchmark, seed
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """What a row answered with one seed.

    Attributes:
        preferences: one per point; all None for a preference-free policy.
        rewards: (P, M, K) raw scores, samples averaged.
        judges: objective -> (P, M) raw scores of its judge.
        responses: table GENERATIONS.
        point: (rows of `responses`,) point of each response.
        samples: responses per prompt and point.
        cut: (objective, role) -> share of the responses that its reward, or judge, could not read whole.
    """

    method: str
    seed: int
    preferences: list[Preference | None]
    rewards: Array
    judges: dict[str, Array]
    responses: pa.Table
    point: Index
    samples: int
    cut: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def steerable(self) -> bool:
        return self.preferences[0] is not None


def index(table: tables.Table, paths: Sequence[Path], task: str) -> dict[Key, Path]:
    """Return which file holds which row and seed; two files with the same, or one with several, are MoaErrors."""
    found: dict[Key, Path] = {}
    for path in paths:
        key = owner(tables.read(table, path), task, path)
        if key in found:
            raise MoaError(f"{path}: row '{key[0]}', seed {key[1]} is in {found[key]} as well; give each file once")
        found[key] = path
    return found


def owner(data: pa.Table, task: str, path: Path) -> Key:
    """Return the one row and seed that `data` belongs to."""
    tasks, methods, seeds = (pc.unique(data[name]).to_pylist() for name in ("task", "method", "seed"))
    if tasks != [task]:
        raise MoaError(
            f"{path}: holds tasks {tasks}, expected '{task}'; "
            + ("it belongs to another experiment" if tasks else "it has no rows")
        )
    if len(methods) != 1 or len(seeds) != 1:
        raise MoaError(f"{path}: holds rows {methods} and seeds {seeds}, expected one of each")
    return methods[0], seeds[0]


def load(
    generations: Path, scores: Path, task: str, prompts: Sequence[str], roles: Sequence[tuple[str, str]]
) -> Answers:
    """Return the answers of one row and seed; every point must answer every prompt, every answer must have every score.

    Args:
        generations: file of table GENERATIONS.
        scores: file of table SCORES, of the same row and seed.
        task: the experiment's task.
        prompts: ids of the evaluation prompts; their order is the order of axis P.
        roles: (objective, role) pairs that are scored; the 'reward' ones in the config's order are axis K.
    """
    responses = tables.read(tables.GENERATIONS, generations)
    method, seed = owner(responses, task, generations)
    point = responses["point"].to_numpy().astype(np.int64)
    preferences = _preferences(responses, point, generations, sum(role == "reward" for _, role in roles))
    who = f"{generations}: row '{method}', seed {seed}"
    prompt = _positions(
        responses["prompt_id"],
        prompts,
        f"{who}: {{}} responses to prompts that are not evaluation prompts of this task",
    )
    samples = _samples(prompt, point, len(prompts), len(preferences), who)
    axes = Axes(prompts, len(preferences), roles)
    scored = tables.read(tables.SCORES, scores)
    means = _means(scored, scores, axes, samples)
    rewards = np.stack([means[:, :, i] for i, (_, role) in enumerate(roles) if role == "reward"], axis=-1)
    judges = {name: means[:, :, i] for i, (name, role) in enumerate(roles) if role == "judge"}
    return Answers(method, seed, preferences, rewards, judges, responses, point, samples, _cut(scored))


def _cut(scored: pa.Table) -> dict[tuple[str, str], float]:
    flags = scored.select(["objective", "role"]).append_column("cut", pc.cast(scored["truncated"], pa.float64()))
    shares = flags.group_by(["objective", "role"]).aggregate([("cut", "mean")]).to_pylist()
    return {(row["objective"], row["role"]): row["cut_mean"] for row in shares}


def _preferences(responses: pa.Table, point: Index, path: Path, objectives: int) -> list[Preference | None]:
    pairs = {
        (p, None if v is None else tuple(v))
        for p, v in zip(point.tolist(), responses["preference"].to_pylist(), strict=True)
    }
    preferences = [v for _, v in sorted(pairs, key=lambda pair: pair[0])]
    if sorted(p for p, _ in pairs) != list(range(len(pairs))):
        raise MoaError(
            f"{path}: points must be numbered from 0, each with one preference; found {sorted(p for p, _ in pairs)}"
        )
    if len(preferences) > 1 and None in preferences or any(v is not None and len(v) != objectives for v in preferences):
        raise MoaError(f"{path}: preferences {preferences} do not fit {objectives} objectives")
    return preferences


def _positions(column: pa.ChunkedArray, known: Sequence[str], complaint: str) -> Index:
    found = pc.index_in(column, value_set=pa.array(known, pa.string()))
    if found.null_count:
        examples = pc.unique(column.filter(pc.is_null(found))).to_pylist()[:3]
        raise MoaError(f"{complaint.format(found.null_count)} ({', '.join(examples)})")
    return np.asarray(found.to_numpy(), dtype=np.int64)


def _samples(prompt: Index, point: Index, prompts: int, points: int, who: str) -> int:
    """Return how many responses each prompt has at each point; it must be the same number everywhere."""
    counts = np.bincount(prompt * points + point, minlength=prompts * points).reshape(prompts, points)
    samples = int(counts.max())
    if (counts < samples).any():
        short = (counts < samples).any(1).sum()
        raise MoaError(
            f"{who}: {short} of {prompts} evaluation prompts lack responses at some point; run the stage generate again"
            " for this row"
        )
    return samples


@dataclass(frozen=True)
class Axes:
    """What scores are laid out along: ids of the prompts, number of points, and (objective, role) pairs."""

    prompts: Sequence[str]
    points: int
    roles: Sequence[tuple[str, str]]


def _means(data: pa.Table, path: Path, axes: Axes, samples: int) -> Array:
    """Return (P, M, len(roles)) scores averaged over samples."""
    prompts, points, roles = axes.prompts, axes.points, axes.roles
    method = data["method"][0].as_py() if data.num_rows else "?"
    who = f"{path}: row '{method}'"
    labels = pc.binary_join_element_wise(data["objective"], data["role"], " as ")
    known = [f"{name} as {role}" for name, role in roles]
    unknown = sorted(set(pc.unique(labels).to_pylist()) - set(known))
    if unknown:
        raise MoaError(
            f"{who}: scores of '{unknown[0]}', which this experiment does not have.{nearest(unknown[0], known)}"
        )
    prompt = _positions(
        data["prompt_id"], prompts, f"{who}: {{}} scores of prompts that are not evaluation prompts of this task"
    )
    point = data["point"].to_numpy()
    if data.num_rows and point.max() >= points:
        raise MoaError(f"{who}: scores of point {point.max()}, but its responses have points 0 to {points - 1}")
    cell = (prompt * points + point) * len(roles) + _positions(labels, known, "{}")
    shape = (len(prompts), points, len(roles))
    counts = np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape)
    if (counts != samples).any():
        wrong = (counts != samples).sum((0, 1))
        detail = ", ".join(f"{n} of '{label}'" for label, n in zip(known, wrong.tolist(), strict=True) if n)
        raise MoaError(
            f"{who}: {detail} are missing among {len(prompts)} prompts x {points} points; run the stage score again for"
            " this row"
        )
    sums = np.bincount(cell, weights=data["score"].to_numpy().astype(np.float64), minlength=counts.size)
    return np.asarray(sums.reshape(shape) / samples)
