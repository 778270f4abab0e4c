"""Archives: the metrics of long runs as small Parquet files, which a later run extends.

An archive is a folder with metrics.parquet, points.parquet and normaliser.parquet of one task, and settings.json with
what answers are compared on: the reference policy's responses, evaluation prompts, preferences, decoding. Rows of a
method and seed that a run holds replace the archive's; all others stay. What was measured against another base, or on
other settings, is refused, whatever the task is called; a setting that the archive does not hold yet is taken from the
next run.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from moa.errors import MoaError
from moa.experiment.keys import Grid
from moa.report.summary import choose, rows_of
from moa.store import sql, tables
from moa.store.files import atomically, read_object
from moa.store.provenance import text_hash

Row = dict[str, Any]
SCALE = ("objective", "low", "high", "mean", "std", "reference_point", "n")
DECODING = ("max_new_tokens", "evaluation_temperature", "evaluation_top_p", "samples")
KEPT = (tables.METRICS, tables.POINTS)


@dataclass(frozen=True)
class Archive:
    """What a task's rows were measured at, per seed, and what they were measured on.

    Attributes:
        name: where it was read.
        settings: reference responses, evaluation prompts, preferences and decoding.
        scale: table normaliser.
        metrics: table metrics, with the rows' KL to the reference and seconds of training.
        points: table points.
    """

    name: str
    settings: dict[str, Any]
    scale: list[Row]
    metrics: list[Row]
    points: list[Row]


def read(source: Path, task: str | None = None) -> Archive:
    """Return an archive's folder, or a task of a database, as an archive.

    Args:
        source: the folder or the database.
        task: of the database; where it holds a single one, that one.

    Raises:
        MoaError: there is no such archive, database or task.
    """
    if source.is_dir():
        return _of_folder(source)
    if not source.exists():
        raise MoaError(f"{source}: no such archive or database; run an experiment first, or correct the path")
    return _of_database(source, task)


def _of_folder(folder: Path) -> Archive:
    files = [folder / f"{table.name}.parquet" for table in (tables.NORMALISER, *KEPT)]
    for path in (*files, folder / "settings.json"):
        if not path.exists():
            raise MoaError(
                f"{folder}: no archive, it has no {path.name}; `moa compare DATABASE --keep FOLDER` makes one"
            )
    scale, metrics, points = (
        tables.read(table, path).to_pylist() for table, path in zip((tables.NORMALISER, *KEPT), files, strict=True)
    )
    return Archive(str(folder), _stored(folder / "settings.json"), scale, metrics, points)


def _stored(path: Path) -> dict[str, Any]:
    return read_object(path, "the archive's settings", "restore the file, or name another folder")


def _of_database(database: Path, task: str | None) -> Archive:
    with sql.reading(database) as connection:
        known = [r["task"] for r in rows_of(connection, "SELECT task FROM runs ORDER BY task")]
        task = choose(database, task, known)
        scale, metrics, points = (_rows(connection, table, task) for table in (tables.NORMALISER, *KEPT))
        settings = _settings(connection, task)
        metrics += _whole_rows(connection, task)
    return Archive(str(database), settings, scale, metrics, points)


def keep(found: Archive, folder: Path) -> Archive:
    """Take a run's metrics and points into the folder; return what it holds now.

    Raises:
        MoaError: the folder holds what was measured on another scale or on other settings.
    """
    _same_scale(found.scale, folder / "normaliser.parquet")
    _same_settings(found.settings, folder / "settings.json")
    folder.mkdir(parents=True, exist_ok=True)
    tables.write(tables.NORMALISER, found.scale, folder / "normaliser.parquet")
    atomically(
        folder / "settings.json",
        lambda temporary: temporary.write_text(json.dumps(found.settings, indent=1) + "\n", encoding="utf-8"),
    )
    for table, rows in zip(KEPT, (found.metrics, found.points), strict=True):
        path = folder / f"{table.name}.parquet"
        every = [*rows, *_others(table, rows, found.scale[0]["task"], path)]
        tables.write(table, sorted(every, key=_key(table)), path)
    return _of_folder(folder)


def _others(table: tables.Table, rows: list[Row], task: str, path: Path) -> list[Row]:
    """Return the archive's rows of methods and seeds that the run does not hold, under the run's task."""
    if not path.exists():
        return []
    fresh = {(r["method"], r["seed"]) for r in rows}
    stored = tables.read(table, path).to_pylist()
    return [{**r, "task": task} for r in stored if (r["method"], r["seed"]) not in fresh]


def _key(table: tables.Table) -> Callable[[Mapping[str, Any]], tuple[str, ...]]:
    return lambda row: tuple(str(row[k]) for k in table.key)


def _rows(connection: duckdb.DuckDBPyConnection, table: tables.Table, task: str) -> list[Row]:
    return rows_of(connection, f"SELECT {', '.join(table.columns)} FROM {table.name} WHERE task = $task", task=task)


def _whole_rows(connection: duckdb.DuckDBPyConnection, task: str) -> list[Row]:
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
        len(run["objectives"]), "preferences.evaluation"
    )
    return {
        "reference_responses": text_hash(*(part for row in answers for part in (row["prompt_id"], row["response"]))),
        "evaluation_prompts": text_hash(*(row["prompt_id"] for row in prompts)),
        "preferences": [list(preference) for preference in grid],
        **{key: run["generation"][key] for key in DECODING},
    }


def _same_scale(scale: list[Row], path: Path) -> None:
    """Refuse another scale; an objective's rows differ where its base, reward, or the decoding of training does."""
    if not path.exists():
        return
    stored = tables.read(tables.NORMALISER, path).to_pylist()
    before, now = (sorted(tuple(row[c] for c in SCALE) for row in rows) for rows in (stored, scale))
    if before != now:
        shown = ", ".join(SCALE)
        raise MoaError(
            f"{path}: measured on another scale ({shown}): {before}, this run has {now}; its base, rewards or decoding"
            " differ, so name another folder"
        )


def _same_settings(settings: dict[str, Any], path: Path) -> None:
    if not path.exists():
        return
    for key, before in _stored(path).items():
        if settings.get(key) != before:
            raise MoaError(
                f"{path}: measured with {key} {before}, this run has {settings.get(key)}; name another folder"
            )


def alike(archives: Iterable[Archive]) -> bool:
    """Return whether the archives were measured on the same base, prompts, preferences and decoding."""
    first, *others = (archive.settings for archive in archives)
    return all(other == first for other in others)
