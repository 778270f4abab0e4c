"""Measures a run's rows on development prompts, as benchmarks/ablation.py measures variants.

Trials of methods that have trainers of their own.

The run evaluates on 200 prompts, of which the first hundred are the test prompts of experiments/full.yaml and the
second hundred the development prompts; only the latter are read here. docs/tuning.md says what trials are for.

    snakemake --cores 2 --configfile experiments/full.yaml --config task=trials data='{evaluation_prompts: 200}'
    generation='{samples: 2}' \
        run='{methods: [reference, grpo, grpo_4], seeds: [0, 1]}' methods='{grpo_4: {kind: grpo, group_size: 4}}'
    python -m benchmarks.development --database results/results.duckdb --task trials > trials.jsonl
    python -m benchmarks.ablation --table trials.jsonl
"""

import argparse
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from benchmarks.ablation import LAST, PROMPTS, development_prompts, metrics
from moa.errors import MoaError
from moa.experiment.preferences import Preference
from moa.store.sql import reading

POINTS = """
SELECT s.method, s.seed, s.point, any_value(g.preference) AS preference, list(mean ORDER BY list_position(r.objectives, s.objective)) AS means
FROM (
    SELECT task, method, seed, point, objective, avg((score - low) / (high - low)) AS mean
    FROM scores JOIN normaliser USING (task, objective) JOIN prompts USING (task, prompt_id)
    WHERE task = $task AND role = 'reward' AND split = 'evaluation' AND list_contains($prompts, prompt)
    GROUP BY ALL
) AS s
JOIN (SELECT DISTINCT task, method, seed, point, preference FROM generations) AS g USING (task, method, seed, point)
JOIN runs AS r USING (task)
GROUP BY ALL ORDER BY ALL
"""
CURVES = """
SELECT method, seed, avg(value) FILTER (quantity = 'kl' AND step >= last - $recent) AS kl, sum(value) FILTER (quantity = 'seconds') AS seconds
FROM (SELECT *, 1 + max(step) OVER (PARTITION BY method, policy, seed) AS last FROM curves WHERE task = $task)
GROUP BY ALL
"""


def read(connection: duckdb.DuckDBPyConnection, task: str) -> list[dict[str, Any]]:
    """Return what benchmarks/ablation.py writes per trial, for every row and seed.

    A row without preferences has a hypervolume, and nothing of steering.
    """
    prompts = development_prompts()
    asked = {
        p
        for (p,) in connection.execute(
            "SELECT prompt FROM prompts WHERE task = $task AND split = 'evaluation'", {"task": task}
        ).fetchall()
    }
    if not asked.issuperset(prompts):
        raise MoaError(
            f"task {task}: its evaluation prompts are not the development prompts; run it with data:"
            f" {{evaluation_prompts: {2 * PROMPTS}}}"
        )
    spent = {
        (m, s): {"kl": kl, "seconds": seconds}
        for m, s, kl, seconds in connection.execute(CURVES, {"task": task, "recent": LAST}).fetchall()
    }
    objectives = connection.execute("SELECT objectives FROM runs WHERE task = $task", {"task": task}).fetchall()[0][0]
    points: dict[tuple[str, int], list[tuple[Preference | None, list[float]]]] = {}
    for method, seed, _, preference, means in connection.execute(POINTS, {"task": task, "prompts": prompts}).fetchall():
        points.setdefault((method, seed), []).append((preference, means))
    unknown = {"kl": None, "seconds": None}
    return [
        {"name": method, "seed": seed, **(spent.get((method, seed)) or unknown), **measured(of, objectives)}
        for (method, seed), of in points.items()
    ]


def measured(points: list[tuple[Preference | None, list[float]]], objectives: list[str]) -> dict[str, Any]:
    """Return the metrics of one row's points, each a preference.

    It all have or none, and K mean normalised rewards.
    """
    asked = [preference for preference, _ in points if preference is not None]
    return metrics(np.array([means for _, means in points]), np.array(asked) if asked else None, objectives)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--task", required=True)
    given = parser.parse_args()
    with reading(given.database) as connection:
        for row in read(connection, given.task):
            print(json.dumps(row))


if __name__ == "__main__":
    main()
