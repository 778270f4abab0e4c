"""Keeps the metrics of long runs as small Parquet files that a later run extends, and compares methods over seeds.

An archive is a folder with metrics.parquet, points.parquet and normaliser.parquet of one task, and settings.json with
what answers are compared on: the reference policy's responses, evaluation prompts, preferences, decoding. Rows of a
method and seed that a run holds replace the archive's; all others stay. What was measured against another base, or on
other settings, is refused, whatever the task is called; a setting that the archive does not hold yet is taken from the
next run.

    python -m moa.report.archive --task reviews_full --folder benchmarks/full --against linear
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import duckdb

from moa.errors import MoaError
from moa.experiment.keys import Grid
from moa.metrics.paired import paired
from moa.report.summary import rows_of, table
from moa.store import sql, tables
from moa.store.files import atomically
from moa.store.provenance import text_hash

KEPT = (tables.METRICS, tables.POINTS)
COMPARED = (("hypervolume", "all"), ("tau", "all"))  # metrics whose paired difference is printed
OVER_OBJECTIVES = (
    "order_rate",
)  # printed as the mean over objectives alone: beside tau per objective the parts say little more
SCALE = ("objective", "low", "high", "mean", "std", "reference_point", "n")
DECODING = ("max_new_tokens", "evaluation_temperature", "evaluation_top_p", "samples")
METRICS = ("hypervolume", "hypervolume_readable", "tau", "order_rate", "control_error", "kl", "seconds")


def extend(database: Path, task: str, folder: Path) -> dict[str, int]:
    """Take the task's metrics and points into the folder; return how many rows each file holds now.

    Raises:
        MoaError: the database has no such task, or the folder holds what was measured on another scale or on other
            settings.
    """
    with sql.reading(database) as connection:
        scale = _rows(connection, tables.NORMALISER, task)
        if not scale:
            raise MoaError(f"{database}: no task '{task}'; run it first, or name another")
        settings = _settings(connection, task)
        _same_scale(scale, folder / "normaliser.parquet")
        _same_settings(settings, folder / "settings.json")
        found = [_rows(connection, kept, task) for kept in KEPT]
        found[0] += _whole_rows(connection, task)
    folder.mkdir(parents=True, exist_ok=True)
    tables.write(tables.NORMALISER, scale, folder / "normaliser.parquet")
    atomically(
        folder / "settings.json",
        lambda temporary: temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8"),
    )
    counts = {}
    for kept, rows in zip(KEPT, found, strict=True):
        path = folder / f"{kept.name}.parquet"
        fresh = {(r["method"], r["seed"]) for r in rows}
        if path.exists():
            rows += [
                {**r, "task": task}
                for r in tables.read(kept, path).to_pylist()
                if (r["method"], r["seed"]) not in fresh
            ]
        rows.sort(key=lambda r: tuple(str(r[k]) for k in kept.key))
        tables.write(kept, rows, path)
        counts[kept.name] = len(rows)
    return counts


def _rows(connection: duckdb.DuckDBPyConnection, kept: tables.Table, task: str) -> list[dict[str, Any]]:
    return rows_of(connection, f"SELECT {', '.join(kept.columns)} FROM {kept.name} WHERE task = $task", task=task)


def _whole_rows(connection: duckdb.DuckDBPyConnection, task: str) -> list[dict[str, Any]]:
    """Return the rows' KL to the reference and seconds of training as metrics.

    No prompt and no point stands behind them.
    """
    nothing = {"task": task, "objective": "all", "low": None, "high": None, "points": 0, "n": 0}
    kl = rows_of(
        connection,
        f"SELECT * FROM ({sql.DISTANCE}) SEMI JOIN metrics USING (task, method, seed) WHERE task = $task",
        task=task,
    )
    found = {"kl": kl, "seconds": rows_of(connection, f"SELECT * FROM ({sql.TRAINING}) WHERE task = $task", task=task)}
    return [
        {**nothing, "method": r["method"], "seed": r["seed"], "metric": name, "value": r[name]}
        for name, rows in found.items()
        for r in rows
    ]


def _same_scale(scale: list[dict[str, Any]], path: Path) -> None:
    """Refuse another scale; an objective's rows differ where its base, reward, or the decoding of training does."""
    if not path.exists():
        return
    stored = tables.read(tables.NORMALISER, path).to_pylist()
    before, now = (sorted(tuple(row[c] for c in SCALE) for row in rows) for rows in (stored, scale))
    if before != now:
        shown = ", ".join(SCALE)
        raise MoaError(
            f"{path}: measured on another scale ({shown}): {before}, this run has {now}; its base, rewards or decoding"
            " differ, so name another --folder"
        )


def _settings(connection: duckdb.DuckDBPyConnection, task: str) -> dict[str, Any]:
    """Return what a row's answers are compared on, as JSON holds it: reference, prompts, preferences, decoding."""
    run = json.loads(rows_of(connection, "SELECT config FROM runs WHERE task = $task", task=task)[0]["config"])
    prompts = rows_of(
        connection,
        "SELECT prompt_id FROM prompts WHERE task = $task AND split = 'evaluation' ORDER BY prompt_id",
        task=task,
    )
    # Not the normaliser's own hash: it covers the settings of the stage, whose schema grows, and the task's name.
    answers = rows_of(
        connection,
        "SELECT prompt_id, response FROM reference_responses WHERE task = $task ORDER BY prompt_id, sample",
        task=task,
    )
    grid = Grid.model_validate(run["preferences"]["evaluation"]).preferences(
        len(run["objectives"]), "preferences.evaluation.points"
    )
    return {
        "reference_responses": text_hash(*(part for row in answers for part in (row["prompt_id"], row["response"]))),
        "evaluation_prompts": text_hash(*(row["prompt_id"] for row in prompts)),
        "preferences": [list(preference) for preference in grid],
        **{key: run["generation"][key] for key in DECODING},
    }


def _same_settings(settings: dict[str, Any], path: Path) -> None:
    if not path.exists():
        return
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MoaError(
            f"{path}: not readable as the archive's settings ({error}); restore the file, or name another --folder"
        ) from error
    for key, before in stored.items():
        if settings.get(key) != before:
            raise MoaError(
                f"{path}: measured with {key} {before}, this run has {settings.get(key)}; name another --folder"
            )


def over_seeds(folder: Path, against: str | None) -> str:
    """Return a Markdown table: each metric's mean over seeds with its t-interval, and the paired difference to a row.

    Beside the metrics that are compared stands what the choice of prompts is worth: the seeds' bootstrap intervals,
    averaged.
    """
    rows = tables.read(tables.METRICS, folder / "metrics.parquet").to_pylist()
    values: dict[tuple[str, str, str], dict[int, float]] = {}
    bootstrap: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for r in rows:
        if r["metric"] in METRICS and r["value"] is not None:
            key = (r["method"], r["metric"], r["objective"])
            values.setdefault(key, {})[r["seed"]] = r["value"]
            if r["low"] is not None:
                bootstrap.setdefault(key, []).append((r["low"], r["high"]))
    methods = sorted({m for m, _, _ in values}, key=lambda m: -_mean(values.get((m, "hypervolume", "all"), {})))
    if against is not None and against not in methods:
        raise MoaError(f"{folder}: no row '{against}' to compare with; it holds {', '.join(methods)}")
    columns = sorted(
        {(m, o) for _, m, o in values if o == "all" or m not in OVER_OBJECTIVES},
        key=lambda c: (METRICS.index(c[0]), c[1]),
    )
    head, lines = ["method"], [[method] for method in methods]
    for metric, objective in columns:
        compared = against is not None and (metric, objective) in COMPARED
        head.append(metric if objective == "all" else f"{metric} {objective}")
        prompts = (metric, objective) in COMPARED
        if prompts:
            head.append(f"{metric} over prompts")
        if compared:
            head.append(f"{metric} less {against}'s")
        for line, method in zip(lines, methods, strict=True):
            mine = values.get((method, metric, objective), {})
            line.append(_cell(mine, 0 if metric == "seconds" else 3))
            if prompts:
                line.append(_interval(bootstrap.get((method, metric, objective), [])))
            if compared:
                line.append(
                    ""
                    if method == against or not mine
                    else _difference(mine, values.get((str(against), metric, objective), {}))
                )
    points = {r["method"]: str(r["points"]) for r in rows if r["metric"] == "hypervolume"}
    seeds = [str(len(values[method, "hypervolume", "all"])) for method in methods]
    return table(
        [*head, "points", "seeds"],
        [[*line, points[method], count] for line, method, count in zip(lines, methods, seeds, strict=True)],
    )


def _mean(by_seed: dict[int, float]) -> float:
    return _average(list(by_seed.values()))


def _average(found: list[float]) -> float:
    return sum(found) / len(found) if found else float("nan")


def _cell(by_seed: dict[int, float], digits: int) -> str:
    if not by_seed:
        return "-"
    found = paired(by_seed, dict.fromkeys(by_seed, 0.0))
    return (
        f"{found.mean:.{digits}f}"
        if found.seeds < 2
        else f"{found.mean:.{digits}f} ± {found.high - found.mean:.{digits}f}"
    )


def _interval(found: list[tuple[float, float]]) -> str:
    """Return the mean of the seeds' bootstrap intervals over prompts; each is that of one seed's policies."""
    return f"{_average([low for low, _ in found]):.3f} to {_average([high for _, high in found]):.3f}" if found else "-"


def _difference(a: dict[int, float], b: dict[int, float]) -> str:
    found = paired(a, b)
    if found.seeds == 0:
        return "no common seed"
    return f"{found.mean:+.3f}" if found.seeds < 2 else f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--database", type=Path, default=Path("results/results.duckdb"))
    parser.add_argument("--task", help="take this task's metrics into the folder first")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--against", help="row that the paired differences are taken against")
    given = parser.parse_args()
    try:
        if given.task is not None:
            print(extend(given.database, given.task, given.folder))
        print(over_seeds(given.folder, given.against))
    except MoaError as error:
        sys.exit(f"error: {error}")
