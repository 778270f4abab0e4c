"""Points, text quality and metrics of one row's answers, as rows of tables POINTS, QUALITY and METRICS.

Nothing here asks which method a row is. Notation: P prompts; M points; K objectives; R resamples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moa.metrics import bootstrap, fronts, steering, text
from moa.metrics.answers import Answers
from moa.metrics.bootstrap import Array
from moa.metrics.front import STEERING, followed, points_of, volume_of, with_an_answer
from moa.metrics.normaliser import Normaliser
from moa.store.tables import Row

REPEATED_LIMIT = 0.1  # share of responses that repeat themselves above which a point is degenerate
EMPTY_LIMIT = 0.5


@dataclass(frozen=True)
class Yardstick:
    """What all rows are measured by.

    Attributes:
        task: the experiment's.
        normaliser: scale and reference point.
        weights: (R, P) of the resampled prompts.
        fluent: (L, 2) bounds of held-out text's mean NLL over its first 1 to L tokens.
    """

    task: str
    normaliser: Normaliser
    weights: Array
    fluent: Array

    def identity(self, one: Answers) -> Row:
        """Return the columns that identify a row and seed."""
        return {"task": self.task, "method": one.method, "seed": one.seed}


def points(measure: Yardstick, one: Answers) -> Iterator[Row]:
    """Yield rows of POINTS: every objective's mean reward at every preference, and its judge's."""
    shared = {**measure.identity(one), "n": len(one.rewards) * one.samples}
    normalised = measure.normaliser.apply(one.rewards.mean(0))
    names = measure.normaliser.objectives
    streams = [(name, "reward", one.rewards[:, :, k]) for k, name in enumerate(names)]
    streams += [(name, "judge", values) for name, values in one.judges.items()]
    for i, (name, role, values) in enumerate(streams):
        mean = values.mean(0)
        low, high = bootstrap.interval(bootstrap.resampled_means(measure.weights, values))
        for m, preference in enumerate(one.preferences):
            key = {"point": m, "preference": preference, "objective": name, "role": role}
            numbers = {"mean": float(mean[m]), "low": float(low[m]), "high": float(high[m])}
            scaled = float(normalised[m, i]) if role == "reward" else None
            yield {**shared, **key, **numbers, "normalised": scaled}


def quality(measure: Yardstick, one: Answers) -> Iterator[Row]:
    """Yield rows of QUALITY: whether the number of every point comes from readable text."""
    means, reference = measure.normaliser.apply(one.rewards.mean(0)), measure.normaliser.reference
    statistics = [_text_statistics(one, m, measure.fluent) for m in range(len(one.preferences))]
    front = np.zeros(len(means), dtype=bool)
    answered = with_an_answer([row["empty_rate"] for row in statistics])
    front[answered] = fronts.on_front(means[answered], reference)
    above = fronts.above(means, reference) & answered
    for m, preference in enumerate(one.preferences):
        reason = _degenerate(statistics[m])
        verdict = {
            "non_dominated": bool(front[m]),
            "below_reference": not above[m],
            "degenerate": reason is not None,
            "reason": reason,
        }
        yield {**measure.identity(one), "point": m, "preference": preference, **verdict, **statistics[m]}


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
        "empty_rate": text.empty_rate(responses),
        "unfinished_rate": 1 - sum(rows["finished"].to_pylist()) / n,
        "repetition_rate": sum(map(text.repeats, worded)) / n,
        "nll": pc.mean(rows["nll"]).as_py(),
        **_fluent(rows, fluent),
        "n": n,
    }


def _fluent(rows: pa.Table, fluent: Array) -> Row:
    """Return the bounds of the mean NLL.

    They are the means of held-out text's bounds at each response's length. Responses without an NLL do not count.
    """
    lengths = rows.filter(pc.is_valid(rows["nll"]))["tokens"].to_numpy()
    if not len(lengths):
        return {"nll_low": None, "nll_high": None}
    low, high = fluent[np.clip(lengths, 1, len(fluent)) - 1].mean(0).tolist()
    return {"nll_low": low, "nll_high": high}


def _degenerate(point: Row) -> str | None:
    """Return why the text of a point is unreadable, with figures; None where it is not."""
    reasons = []
    nll, low, high = (point[name] for name in ("nll", "nll_low", "nll_high"))
    if nll is not None and not low <= nll <= high:
        reasons.append(
            f"mean NLL {nll:.2f} nats per token, the central 98 % of held-out text of the same length has {low:.2f} to"
            f" {high:.2f}"
        )
    if point["repetition_rate"] > REPEATED_LIMIT:
        repeated = percent(point["repetition_rate"])
        reasons.append(
            f"{repeated} of responses repeat a word 4-gram at least three times, or a word three times in a row (limit"
            f" {percent(REPEATED_LIMIT)})"
        )
    if point["empty_rate"] > EMPTY_LIMIT:
        reasons.append(f"{percent(point['empty_rate'])} of responses are blank (limit {percent(EMPTY_LIMIT)})")
    return "; ".join(reasons) or None


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


Ends = tuple[Array, Array] | tuple[float, float] | None


@dataclass(frozen=True)
class Value:
    """A metric's value and the ends of its interval; None where it has none. `points` are those behind it."""

    metric: str
    value: Array | float
    ends: Ends = None
    objective: str = "all"
    points: int | None = None


def metrics(measure: Yardstick, one: Answers, judged: Sequence[Row]) -> Iterator[Row]:
    """Yield rows of METRICS; `judged` are the same answers' rows of QUALITY."""
    for found in _values(measure, one, judged):
        defined = not np.isnan(found.value)
        low, high = map(float, found.ends) if found.ends is not None and defined else (None, None)
        value = float(found.value) if defined else None
        behind = len(one.preferences) if found.points is None else found.points
        numbers = {"value": value, "low": low, "high": high, "points": behind, "n": len(one.rewards)}
        yield {**measure.identity(one), "metric": found.metric, "objective": found.objective, **numbers}


def _values(measure: Yardstick, one: Answers, judged: Sequence[Row]) -> Iterator[Value]:
    reference, names = measure.normaliser.reference, measure.normaliser.objectives
    found, drawn = points_of(measure.normaliser, one.rewards, measure.weights)
    answered = with_an_answer([row["empty_rate"] for row in judged])
    readable = answered & ~np.array([row["degenerate"] for row in judged])
    for metric, kept in (("hypervolume", answered), ("hypervolume_readable", readable)):
        volume, ends = volume_of(found[kept], drawn[:, kept], reference)
        yield Value(metric, volume, ends, points=int(kept.sum()))
    for verdict in ("non_dominated", "below_reference", "degenerate"):
        yield Value(verdict, sum(row[verdict] for row in judged))
    for (name, role), share in sorted(one.cut.items()):
        if share:
            yield Value("truncated" if role == "reward" else "truncated_judge", share, objective=name)
    asked = [preference for preference in one.preferences if preference is not None]  # none where it is not steerable
    for metric, statistic in STEERING.items():
        values, draws = followed(statistic, asked, found), followed(statistic, asked, drawn)
        for k, name in enumerate(names):
            yield Value(metric, values[k], bootstrap.interval(draws[:, k]), name)
        yield Value(metric, values.mean(), bootstrap.interval(draws.mean(1)))
    if not one.steerable:
        yield Value("control_error", np.nan)
        return
    preferences = np.array(asked)
    if len(found) >= steering.LEAST_POINTS:
        bounds = [steering.tau_bound(column) for column in preferences.T]
        for name, bound in (*zip(names, bounds, strict=True), ("all", float(np.mean(bounds)))):
            yield Value("tau_bound", bound, objective=name)
    errors = steering.control_error(preferences, drawn)
    yield Value("control_error", steering.control_error(preferences, found), bootstrap.interval(errors))
