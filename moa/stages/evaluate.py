"""Stage evaluate: responses and scores become points, text quality, metrics with intervals, and the payoff table.

One scale (the normaliser), one reference point and one set of resampled prompts serve every row.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moa.errors import MoaError, nearest
from moa.experiment.preferences import corners
from moa.experiment.schema import EvaluateSection
from moa.job import command
from moa.metrics import answers, bootstrap, normaliser, rows
from moa.metrics.bootstrap import Array
from moa.store import inputs, tables
from moa.store.tables import Row


@dataclass(frozen=True)
class Inputs:
    """The files of tables NORMALISER, FLUENCY, PROMPTS, GENERATIONS and SCORES."""

    normaliser: Path
    fluency: Path
    prompts: Path
    generations: Sequence[Path]
    scores: Sequence[Path]


def evaluate(section: EvaluateSection, files: Inputs) -> dict[str, list[Row]]:
    """Return the rows of tables points, quality, metrics and payoff, by table name.

    Raises:
        MoaError: a row or seed is missing or foreign, or does not answer every prompt.
    """
    generated = answers.index(tables.GENERATIONS, files.generations, section.task)
    scored = answers.index(tables.SCORES, files.scores, section.task)
    _check_complete(section, set(generated), set(scored))
    # Sorted, so that the resampled prompts do not depend on the order of the file.
    ids = sorted(row["prompt_id"] for row in inputs.prompts(files.prompts, "evaluation"))
    scale = normaliser.read(files.normaliser, list(section.objectives))
    weights = bootstrap.resamples(len(ids), section.evaluation.bootstrap)
    measure = rows.Yardstick(section.task, scale, weights, _fluent(files.fluency))
    roles = [(name, "reward") for name in section.objectives]
    roles += [(name, "judge") for name, declared in section.objectives.items() if declared.judge]
    found: dict[str, list[Row]] = {
        table.name: [] for table in (tables.POINTS, tables.QUALITY, tables.METRICS, tables.PAYOFF)
    }
    order = {method: place for place, method in enumerate(section.methods)}
    for key in sorted(generated, key=lambda k: (order.get(k[0], len(order)), k)):
        one = answers.load(generated[key], scored[key], section.task, ids, roles)
        quality = list(rows.quality(measure, one))
        found["quality"] += quality
        found["points"] += rows.points(measure, one)
        found["metrics"] += rows.metrics(measure, one, quality)
    found["payoff"] = _payoff(section, found["points"])
    return found


def _check_complete(section: EvaluateSection, generated: set[answers.Key], scored: set[answers.Key]) -> None:
    allowed = {*section.methods, *filter(None, (section.payoff_row, section.reference_row))}
    for method, seed in sorted(generated ^ scored):
        have, lack = ("responses", "scores") if (method, seed) in generated else ("scores", "responses")
        raise MoaError(f"row '{method}', seed {seed}: {have} without {lack}; give both files")
    for method, seed in sorted(generated):
        if method not in allowed or seed not in section.seeds:
            raise MoaError(
                f"row '{method}', seed {seed} is not part of this run.{nearest(method, allowed)} Seeds:"
                f" {section.seeds}."
            )
    for method in section.methods:
        for seed in section.seeds:
            if (method, seed) not in generated:
                raise MoaError(f"row '{method}', seed {seed}: no responses given; run the stage generate for it")


def _fluent(path: Path) -> Array:
    """Return (L, 2) bounds of held-out text's mean NLL over its first 1 to L tokens, from table FLUENCY."""
    lengths = sorted(tables.read(tables.FLUENCY, path).to_pylist(), key=lambda row: row["tokens"])
    if not lengths or [row["tokens"] for row in lengths] != list(range(1, len(lengths) + 1)):
        raise MoaError(
            f"{path}: {len(lengths)} rows, expected one for every length from 1 token; run the stage reference_scores"
            " again"
        )
    return np.array([(row["low"], row["high"]) for row in lengths])


def _payoff(section: EvaluateSection, points: Sequence[Row]) -> list[Row]:
    """Return what every single-objective policy, and the reference, gets on every objective."""
    if section.payoff_row is None:
        return []
    corner = dict(zip(corners(len(section.objectives)), section.objectives, strict=True))
    found: dict[tuple[int, str, str], Row] = {}
    for row in points:
        if row["role"] == "reward" and row["method"] == section.payoff_row and row["preference"] in corner:
            found[row["seed"], corner[row["preference"]], row["objective"]] = row
        elif row["role"] == "reward" and row["method"] == section.reference_row and row["point"] == 0:
            found[row["seed"], "reference", row["objective"]] = row
    for seed in section.seeds:
        for name in section.objectives:
            if (seed, name, name) not in found:
                raise MoaError(
                    f"row '{section.payoff_row}', seed {seed}: no responses at the preference for '{name}' alone; the"
                    " payoff table needs every corner"
                )
    made = []
    for (seed, policy, name), row in found.items():
        key = {"task": section.task, "seed": seed, "policy": policy, "objective": name}
        loss = found[seed, name, name]["normalised"] - row["normalised"]
        made.append({**key, "mean": row["mean"], "normalised": row["normalised"], "loss": loss, "n": row["n"]})
    return made


def main(arguments: argparse.Namespace) -> None:
    section = EvaluateSection.model_validate_json(arguments.section)
    files = Inputs(arguments.normaliser, arguments.fluency, arguments.prompts, arguments.generations, arguments.scores)
    found = evaluate(section, files)
    outputs = (
        (tables.POINTS, arguments.points),
        (tables.QUALITY, arguments.quality),
        (tables.METRICS, arguments.metrics),
        (tables.PAYOFF, arguments.payoff),
    )
    for table, path in outputs:
        tables.write(table, found[table.name], path)


if __name__ == "__main__":
    read = ("normaliser", "fluency", "prompts", "generations*", "scores*")
    command.run(main, command.parser(__doc__, *read, "points", "quality", "metrics", "payoff"))
