"""Rewards of MiniLM beside linear ones: what they tell apart on the same held-out prompts, and what a score costs.

    python studies/neural_rewards/measure.py --data ../shared/data --model models/minilm-l6-v2
    python studies/neural_rewards/measure.py --table

Every task is trained by both kinds on the same rows; a finished task is not trained again. The held-out rows' scores
go to archive/scores.parquet, what training and scoring cost to archive/costs.parquet; the table is made of these alone.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from moa.experiment.rewards import Linear, Transformer
from moa.job.process import Job
from moa.rewards import scoring
from moa.rewards.labelled import Example, examples
from moa.store.provenance import text_hash

ARCHIVE = Path(__file__).parent / "archive"
HELDOUT, RESAMPLES = 0.2, 2000
SCORES = "hh_map_multireward"
# What each is trained on, its template, rows that both kinds get, and the transformer's tokens and passes.
TASKS: dict[str, tuple[dict[str, Any], str, int | None, int, float]] = {
    "humor": (
        {"source": "humor_200k_subset", "split": "dev", "text": "text", "label": "humor"},
        "{response}",
        6000,
        64,
        1,
    ),
    "helpful": (
        {"source": SCORES, "prompt": "prompt", "text": "response", "target": "gpt2-helpful"},
        "{prompt}\n\n{response}",
        2500,
        96,
        1,
    ),
    "harmless": (
        {"source": SCORES, "prompt": "prompt", "text": "response", "target": "gpt2-harmless"},
        "{prompt}\n\n{response}",
        2500,
        96,
        1,
    ),
    "harmless_pairs": (
        {"source": "hh_rlhf", "split": "test", "prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
        "{prompt}{response}",
        1000,
        128,
        1,
    ),
}


def specs(task: str, data: Path, model: Path) -> dict[str, Linear | Transformer]:
    """Return the rewards of a task, by the name of the arm; `linear_all` has every row where the others have some."""
    labelled, template, rows, length, epochs = TASKS[task]
    source = {**labelled, "source": str(data / labelled["source"]), "rows": rows}
    common = {"template": template, "heldout": HELDOUT}
    found: dict[str, Linear | Transformer] = {
        "linear": Linear.model_validate({"kind": "linear", "data": source, **common}),
        "transformer": Transformer.model_validate(
            {
                "kind": "transformer",
                "source": str(model),
                "data": source,
                "max_length": length,
                "epochs": epochs,
                "learning_rate": 1e-4,
                **common,
            }
        ),
    }
    if rows is not None:
        every = {**source, "rows": None}
        found["linear_all"] = Linear.model_validate({"kind": "linear", "data": every, **common})
    return found


def measure(task: str, data: Path, model: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Train every arm of a task, and return its scores of the held-out rows, and its costs."""
    scores, costs = [], []
    arms = specs(task, data, model)
    _, heldout = examples(task, arms["linear"].data, arms["linear"].template, HELDOUT)
    for arm, spec in arms.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / arm
            folder.mkdir()
            began = time.process_time()
            trained = scoring.train(arm, spec, folder, Job(Path(place) / "checkpoints"))
            spent = time.process_time() - began
            scorer = scoring.load(arm, spec, [folder], "cpu")
            began = time.process_time()
            found = {"text": scored(arm, scorer, heldout, rejected=False)}
            if spec.data.chosen is not None:
                found["rejected"] = scored(arm, scorer, heldout, rejected=True)
            each = (time.process_time() - began) / (len(heldout) * len(found))
        costs.append(
            {
                "task": task,
                "arm": arm,
                "rows": trained.rows,
                "heldout_rows": len(heldout),
                "training_cpu_seconds": spent,
                "cpu_seconds_per_1000_texts": 1000 * each,
            }
        )
        for i, example in enumerate(heldout):
            row = {"task": task, "arm": arm, "prompt": text_hash(example.group), "row": i, "value": example.value}
            rejected = float(found["rejected"][i]) if "rejected" in found else None
            scores.append({**row, "score": float(found["text"][i]), "rejected_score": rejected})
        print(
            {k: round(v, 3) if isinstance(v, float) else v for k, v in costs[-1].items()}, trained.heldout, flush=True
        )
    return scores, costs


def scored(arm: str, scorer: scoring.Scorer, rows: list[Example], rejected: bool) -> NDArray[np.float32]:
    """Return the scores of the rows' texts, or of their rejected ones."""
    texts = [e.rejected if rejected else e.text for e in rows]
    return scoring.score(arm, scorer, [e.prompt for e in rows], texts, floor=0.0).values


def value_of(metric: str, rows: dict[str, NDArray[Any]]) -> float:
    """Return a metric of rows with `value`, `score` and, of pairs, `rejected_score`."""
    if metric == "spearman":
        return float(spearmanr(rows["score"], rows["value"]).statistic)
    if metric == "auc":
        return float(roc_auc_score(rows["value"], rows["score"]))
    if metric == "pairs":
        return float(np.mean(rows["score"] > rows["rejected_score"]))
    return float(np.mean((rows["score"] > 0) == (rows["value"] > 0)))


METRICS = {"humor": ("auc", "accuracy"), "harmless_pairs": ("pairs",)}


def table() -> None:
    """Print the table: metrics with 95 % intervals of a bootstrap over prompts, differences paired by prompt."""
    costs = {(row["task"], row["arm"]): row for row in pq.read_table(ARCHIVE / "costs.parquet").to_pylist()}
    every = pq.read_table(ARCHIVE / "scores.parquet")
    print("| task | metric | reward | held out | less the best linear | training rows | CPU s | CPU s per 1 000 |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for task in [task for task in TASKS if (task, "linear") in costs]:
        arms = [arm for found, arm in costs if found == task]
        parts = {arm: columns(every, task, arm) for arm in arms}
        base = "linear_all" if "linear_all" in arms else "linear"  # the best that a linear one does
        places = grouped(parts["linear"]["prompt"])
        generator = np.random.default_rng(0)
        draws = [
            np.concatenate([places[i] for i in generator.integers(len(places), size=len(places))])
            for _ in range(RESAMPLES)
        ]
        for metric in METRICS.get(task, ("spearman",)):
            drawn = {
                arm: np.array([value_of(metric, {k: v[at] for k, v in rows.items()}) for at in draws])
                for arm, rows in parts.items()
            }
            for arm, rows in parts.items():
                paired = value_of(metric, rows) - value_of(metric, parts[base]), drawn[arm] - drawn[base]
                less = "" if arm == base else interval(*paired, "+")
                cost = costs[task, arm]
                print(
                    f"| {task} ({len(rows['row'])} rows, {len(places)} prompts) | {metric} | {arm} |"
                    f" {interval(value_of(metric, rows), drawn[arm])} | {less} | {cost['rows']} |"
                    f" {cost['training_cpu_seconds']:.0f} | {cost['cpu_seconds_per_1000_texts']:.2f} |"
                )


def columns(every: pa.Table, task: str, arm: str) -> dict[str, NDArray[Any]]:
    """Return an arm's rows as columns, in the order of the held-out rows."""
    rows = sorted((r for r in every.to_pylist() if (r["task"], r["arm"]) == (task, arm)), key=lambda r: r["row"])
    return {key: np.array([r[key] for r in rows]) for key in rows[0]}


def grouped(prompts: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Return the rows of every prompt."""
    _, inverse = np.unique(prompts, return_inverse=True)
    return [np.flatnonzero(inverse == i) for i in range(inverse.max() + 1)]


def interval(value: float, drawn: NDArray[np.float64], sign: str = "") -> str:
    """Return a value with its 95 % interval."""
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def main() -> None:
    """Measure what is not yet in the archive, or print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--only", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        table()
        return
    torch.set_num_threads(1)
    ARCHIVE.mkdir(exist_ok=True)
    kept: dict[str, list[dict[str, Any]]] = {}
    for name in ("scores", "costs"):
        path = ARCHIVE / f"{name}.parquet"
        kept[name] = pq.read_table(path).to_pylist() if path.exists() else []
    done = {row["task"] for row in kept["costs"]}
    for task in [task for task in given.only if task not in done]:
        scores, costs = measure(task, given.data, given.model)
        kept["scores"] += scores
        kept["costs"] += costs
        for name, rows in kept.items():
            pq.write_table(pa.Table.from_pylist(rows), ARCHIVE / f"{name}.parquet")


if __name__ == "__main__":
    main()
