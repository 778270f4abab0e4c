"""How much of a low tau is noise of the evaluation: Kendall's tau with 1 to S of a run's S responses per prompt.

Neighbouring preferences ask for nearly the same, so the noise of a mean over prompts alone can exchange them, and a
measured tau lies below that of the expected rewards. docs/results.md has its table, from a run with `generation:
{samples: 4}`:

    python -m benchmarks.responses --database results/results.duckdb --task imdb_control
"""

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moa.metrics.steering import kendall_tau
from moa.report.summary import table
from moa.store.sql import reading

Array = NDArray[np.float64]
Scores = dict[
    tuple[str, str], dict[int, tuple[Array, Array]]
]  # (row, objective) -> seed -> preference components (M,), scores (M, prompts, S)

SQL = """
SELECT s.method, s.objective, s.seed, s.point, g.preference[list_position(r.objectives, s.objective)] AS component, s.sample, list(s.score ORDER BY s.prompt_id) AS scores
FROM scores AS s JOIN generations AS g USING (task, method, seed, point, prompt_id, sample) JOIN runs AS r USING (task)
WHERE s.task = $task AND s.role = 'reward' AND g.preference IS NOT NULL
GROUP BY ALL ORDER BY ALL
"""


def read(database: Path, task: str) -> Scores:
    """Return the rewards of every response of every row that has preferences."""
    with reading(database) as connection:
        rows = connection.execute(SQL, {"task": task}).fetchall()
    points: dict[tuple[str, str], dict[int, dict[tuple[int, float], list[list[float]]]]] = {}
    for method, objective, seed, point, component, _, scores in rows:
        points.setdefault((method, objective), {}).setdefault(seed, {}).setdefault((point, component), []).append(
            scores
        )
    return {
        key: {
            seed: (np.array([c for _, c in of]), np.array(list(of.values())).swapaxes(1, 2))
            for seed, of in seeds.items()
        }
        for key, seeds in points.items()
    }


def tau(components: Array, scores: Array, responses: int) -> float:
    """Return tau, the mean over all choices of `responses` of the S responses per prompt.

    Scores (M, prompts, S), components (M,).
    """
    chosen = [scores[:, :, list(some)].mean((1, 2)) for some in combinations(range(scores.shape[2]), responses)]
    return float(kendall_tau(components, np.array(chosen)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--task", required=True)
    given = parser.parse_args()
    found = read(given.database, given.task)
    objectives = sorted({objective for _, objective in found})
    samples = next(iter(next(iter(found.values())).values()))[1].shape[2]
    lines = []
    for method in sorted({method for method, _ in found}):
        for responses in range(1, samples + 1):
            taus = [
                np.mean([tau(*of, responses) for of in found[method, objective].values()]) for objective in objectives
            ]
            lines.append(
                [
                    method,
                    str(responses),
                    f"{np.mean(taus):.3f}",
                    *(f"{t:.3f}" for t in taus),
                    str(len(found[method, objectives[0]])),
                ]
            )
    print(table(["row", "responses", "tau", *(f"tau {o}" for o in objectives), "seeds"], lines))


if __name__ == "__main__":
    main()
