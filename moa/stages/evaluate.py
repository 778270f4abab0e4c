"""Turns responses and scores into points, text quality, metrics with intervals, and the payoff table.

One scale (the normaliser), one reference point and one set of resampled prompts serve every row; nothing here asks
which method a row is.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moa.errors import MoaError, nearest
from moa.experiment.preferences import corners
from moa.experiment.schema import EvaluateSection
from moa.job import command
from moa.metrics import answers, bootstrap, fronts, steering, text
from moa.metrics.answers import Answers
from moa.metrics.bootstrap import Array
from moa.store import tables

Row = dict[str, Any]
REPEATED_LIMIT = 0.1  # share of responses that repeat themselves above which a point is degenerate
EMPTY_LIMIT = 0.5


@dataclass(frozen=True)
class Scale:
    """What all rows share: (K,) bounds and reference point, raw scale; (R, P) resampling weights.

    `fluent` (L, 2) holds the bounds of held-out text's mean NLL over its first 1 to L tokens.
    """

    low: Array
    high: Array
    reference_raw: Array
    weights: Array
    fluent: Array

    def normalise(self, raw: Array) -> Array:
        return (raw - self.low) / (self.high - self.low)

    @property
    def reference(self) -> Array:
        return self.normalise(self.reference_raw)


def evaluate(
    section: EvaluateSection,
    normaliser: Path,
    fluency: Path,
    prompts: Path,
    generations: Sequence[Path],
    scores: Sequence[Path],
) -> dict[str, list[Row]]:
    """Return the rows of tables points, quality, metrics and payoff, by table name."""
    rows = answers.index(tables.GENERATIONS, generations, section.task)
    scored = answers.index(tables.SCORES, scores, section.task)
    _check_complete(section, set(rows), set(scored))
    ids = _evaluation_prompts(prompts)
    scale = _scale(section, normaliser, fluency, len(ids))
    roles = [(name, "reward") for name in section.objectives] + [
        (name, "judge") for name, o in section.objectives.items() if o.judge
    ]
    found: dict[str, list[Row]] = {
        table.name: [] for table in (tables.POINTS, tables.QUALITY, tables.METRICS, tables.PAYOFF)
    }
    for key in sorted(
        rows, key=lambda k: (section.methods.index(k[0]) if k[0] in section.methods else len(section.methods), k)
    ):
        one = answers.load(rows[key], scored[key], section.task, ids, roles)
        quality = list(_quality(section, scale, one))
        found["quality"] += quality
        found["points"] += _points(section, scale, one)
        found["metrics"] += _metrics(section, scale, one, quality)
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


def _evaluation_prompts(path: Path) -> list[str]:
    data = tables.read(tables.PROMPTS, path)
    # Sorted, so that the resampled prompts do not depend on the order of the file.
    ids = sorted(data.filter(pc.equal(data["split"], "evaluation"))["prompt_id"].to_pylist())
    if not ids:
        raise MoaError(f"{path}: no evaluation prompts")
    return ids


def _scale(section: EvaluateSection, normaliser: Path, fluency: Path, prompts: int) -> Scale:
    by_objective = {row["objective"]: row for row in tables.read(tables.NORMALISER, normaliser).to_pylist()}
    if set(by_objective) != set(section.objectives):
        raise MoaError(
            f"{normaliser}: objectives {sorted(by_objective)}, the experiment has {sorted(section.objectives)}; run the"
            " stage reference_scores again"
        )
    columns = {
        name: np.array([by_objective[o][name] for o in section.objectives])
        for name in ("low", "high", "reference_point")
    }
    for name, low, high in zip(section.objectives, columns["low"], columns["high"], strict=True):
        if not high > low:
            raise MoaError(
                f"{normaliser}: objective '{name}' has the scale [{low:g}, {high:g}]; the reference policy's scores do"
                " not vary, choose another reward"
            )
    fluent = sorted(tables.read(tables.FLUENCY, fluency).to_pylist(), key=lambda row: row["tokens"])
    if not fluent or [row["tokens"] for row in fluent] != list(range(1, len(fluent) + 1)):
        raise MoaError(
            f"{fluency}: {len(fluent)} rows, expected one for every length from 1 token; run the stage reference_scores"
            " again"
        )
    weights = bootstrap.resamples(prompts, section.evaluation.bootstrap)
    return Scale(
        columns["low"],
        columns["high"],
        columns["reference_point"],
        weights,
        np.array([(row["low"], row["high"]) for row in fluent]),
    )


def _identity(section: EvaluateSection, one: Answers) -> Row:
    return {"task": section.task, "method": one.method, "seed": one.seed}


def _points(section: EvaluateSection, scale: Scale, one: Answers) -> Iterator[Row]:
    shared = {**_identity(section, one), "n": len(one.rewards) * one.samples}
    normalised = scale.normalise(one.rewards.mean(0))
    streams = [(name, "reward", one.rewards[:, :, k]) for k, name in enumerate(section.objectives)]
    streams += [(name, "judge", values) for name, values in one.judges.items()]
    for i, (name, role, values) in enumerate(streams):
        mean = values.mean(0)
        low, high = bootstrap.interval(bootstrap.resampled_means(scale.weights, values))
        for m, preference in enumerate(one.preferences):
            numbers = {"mean": float(mean[m]), "low": float(low[m]), "high": float(high[m])}
            scaled = float(normalised[m, i]) if role == "reward" else None
            yield {
                **shared,
                "point": m,
                "preference": preference,
                "objective": name,
                "role": role,
                **numbers,
                "normalised": scaled,
            }


def _quality(section: EvaluateSection, scale: Scale, one: Answers) -> Iterator[Row]:
    means = scale.normalise(one.rewards.mean(0))
    statistics = [_text_statistics(one, m, scale.fluent) for m in range(len(one.preferences))]
    front = np.zeros(len(means), dtype=bool)
    answered = _answered(statistics)
    front[answered] = fronts.on_front(means[answered], scale.reference)
    above = fronts.above(means, scale.reference) & answered
    for m, preference in enumerate(one.preferences):
        reason = _degenerate(statistics[m])
        verdict = {
            "non_dominated": bool(front[m]),
            "below_reference": not above[m],
            "degenerate": reason is not None,
            "reason": reason,
        }
        yield {**_identity(section, one), "point": m, "preference": preference, **verdict, **statistics[m]}


def _answered(statistics: Sequence[Row]) -> NDArray[np.bool_]:
    """Points with at least one answer. A point of blank responses only is no solution, whatever the reference point."""
    return np.array([row["empty_rate"] < 1 for row in statistics])


def _text_statistics(one: Answers, point: int, fluent: Array) -> Row:
    rows = one.responses.filter(one.point == point)
    responses: list[str] = rows["response"].to_pylist()
    worded = [text.words(response) for response in responses]
    n = len(responses)
    return {
        "policy": rows["policy"][0].as_py(),
        "distinct_1": text.distinct(worded, 1),
        "distinct_2": text.distinct(worded, 2),
        "distinct_responses": len(set(responses)) / n,
        "tokens": float(np.mean(rows["tokens"].to_numpy())),
        "characters": sum(map(len, responses)) / n,
        "empty_rate": sum(not r.strip() for r in responses) / n,
        "unfinished_rate": 1 - sum(rows["finished"].to_pylist()) / n,
        "repetition_rate": sum(map(text.repeats, worded)) / n,
        "nll": pc.mean(rows["nll"]).as_py(),
        **_fluent(rows, fluent),
        "n": n,
    }


def _fluent(rows: pa.Table, fluent: Array) -> Row:
    """Return the bounds of the mean NLL.

    The mean, over the responses that have one, of held-out text's at the response's length.
    """
    lengths = rows.filter(pc.is_valid(rows["nll"]))["tokens"].to_numpy()
    if not len(lengths):
        return {"nll_low": None, "nll_high": None}
    low, high = fluent[np.clip(lengths, 1, len(fluent)) - 1].mean(0).tolist()
    return {"nll_low": low, "nll_high": high}


def _degenerate(quality: Row) -> str | None:
    """Return why the text of a point is unreadable, with figures; None where it is not."""
    reasons = []
    nll, low, high = (quality[name] for name in ("nll", "nll_low", "nll_high"))
    if nll is not None and not low <= nll <= high:
        reasons.append(
            f"mean NLL {nll:.2f} nats per token, the central 98 % of held-out text of the same length has {low:.2f} to"
            f" {high:.2f}"
        )
    if quality["repetition_rate"] > REPEATED_LIMIT:
        repeated = percent(quality["repetition_rate"])
        reasons.append(
            f"{repeated} of responses repeat a word 4-gram at least three times, or a word three times in a row (limit"
            f" {percent(REPEATED_LIMIT)})"
        )
    if quality["empty_rate"] > EMPTY_LIMIT:
        reasons.append(f"{percent(quality['empty_rate'])} of responses are blank (limit {percent(EMPTY_LIMIT)})")
    return "; ".join(reasons) or None


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _metrics(section: EvaluateSection, scale: Scale, one: Answers, quality: Sequence[Row]) -> Iterator[Row]:
    points = scale.normalise(one.rewards.mean(0))
    drawn = scale.normalise(bootstrap.resampled_means(scale.weights, one.rewards))
    answered = _answered(quality)
    readable = answered & ~np.array([row["degenerate"] for row in quality])

    def row(
        metric: str,
        value: Array | float,
        ends: tuple[Any, Any] | None = None,
        objective: str = "all",
        behind: int = len(points),
    ) -> Row:
        defined = not np.isnan(value)
        low, high = map(float, ends) if ends is not None and defined else (None, None)
        value_or_none = float(value) if defined else None
        numbers = {"value": value_or_none, "low": low, "high": high, "points": behind, "n": len(one.rewards)}
        return {**_identity(section, one), "metric": metric, "objective": objective, **numbers}

    for metric, kept in (("hypervolume", answered), ("hypervolume_readable", readable)):
        volume = fronts.hypervolume(points[kept], scale.reference)
        draws = fronts.hypervolumes(drawn[:, kept], scale.reference)
        yield row(metric, volume, bootstrap.corrected_interval(volume, draws), behind=int(kept.sum()))
    for verdict in ("non_dominated", "below_reference", "degenerate"):
        yield row(verdict, sum(q[verdict] for q in quality))
    for metric, values, draws in _steering(one, points, drawn):
        for k, name in enumerate(section.objectives):
            yield row(metric, values[k], bootstrap.interval(draws[:, k]), name)
        yield row(metric, values.mean(), bootstrap.interval(draws.mean(1)))
    if one.steerable:
        preferences = np.array(one.preferences)
        if len(points) >= steering.LEAST_POINTS:
            bounds = [steering.tau_bound(column) for column in preferences.T]
            for name, bound in (*zip(section.objectives, bounds, strict=True), ("all", float(np.mean(bounds)))):
                yield row("tau_bound", bound, objective=name)
        yield row(
            "control_error",
            steering.control_error(preferences, points),
            bootstrap.interval(steering.control_error(preferences, drawn)),
        )
    else:
        yield row("control_error", np.nan, None)


def _steering(one: Answers, points: Array, drawn: Array) -> Iterator[tuple[str, Array, Array]]:
    """Yield (metric, (K,) values, (R, K) resampled values).

    NaN where the row cannot be steered or has too few points.
    """
    undefined = np.full(points.shape[1], np.nan), np.full((len(drawn), points.shape[1]), np.nan)
    for metric, function in (("tau", steering.kendall_tau), ("order_rate", steering.order_rate)):
        if not one.steerable or len(points) < steering.LEAST_POINTS:
            yield metric, *undefined
            continue
        preferences = np.array(one.preferences)
        columns = range(points.shape[1])
        values = np.array([function(preferences[:, k], points[:, k]) for k in columns])
        yield metric, values, np.stack([function(preferences[:, k], drawn[:, :, k]) for k in columns], axis=1)


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
    return [
        {"task": section.task, "seed": seed, "policy": policy, "objective": name, "mean": row["mean"], "normalised": row["normalised"],
         "loss": found[seed, name, name]["normalised"] - row["normalised"], "n": row["n"]}
        for (seed, policy, name), row in found.items()
    ]  # fmt: skip


def main(arguments: argparse.Namespace) -> None:
    section = EvaluateSection.model_validate_json(arguments.section)
    found = evaluate(
        section, arguments.normaliser, arguments.fluency, arguments.prompts, arguments.generations, arguments.scores
    )
    outputs = {
        tables.POINTS.name: arguments.points,
        tables.QUALITY.name: arguments.quality,
        tables.METRICS.name: arguments.metrics,
        tables.PAYOFF.name: arguments.payoff,
    }
    for table in (tables.POINTS, tables.QUALITY, tables.METRICS, tables.PAYOFF):
        tables.write(table, found[table.name], outputs[table.name])


if __name__ == "__main__":
    command.run(
        main,
        command.parser(
            __doc__,
            "normaliser",
            "fluency",
            "prompts",
            "generations*",
            "scores*",
            "points",
            "quality",
            "metrics",
            "payoff",
        ),
    )
