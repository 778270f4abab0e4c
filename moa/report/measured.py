"""What archives hold of their rows, by run: a base and a seed.

Either all that was measured, or what holds on the preferences whose text training never showed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from moa.errors import MoaError, nearest
from moa.experiment.schema import Experiment
from moa.lm.conditioning import preference_text
from moa.metrics.fronts import hypervolume
from moa.metrics.normaliser import from_rows
from moa.metrics.steering import LEAST_POINTS, kendall_tau
from moa.report.archive import Archive, Row, alike

Run = tuple[str, int]  # the base, by its responses' hash, and the seed
ByRun = dict[Run, float]
Key = tuple[str, str, str]  # row, metric, objective
REWARD = "reward"  # mean raw reward over a row's points
METRICS = ("hypervolume", "hypervolume_readable", "tau", "order_rate", "control_error", "kl", "seconds")


@dataclass
class Measured:
    """What archives hold of their rows.

    Attributes:
        name: the archives.
        values: by row, metric and objective, then by run.
        prompts: bootstrap intervals over prompts, by the same.
        points: points behind a row's hypervolume.
        across: whether the archives may be of several bases, so that a mean of values means nothing.
    """

    name: str
    values: dict[Key, ByRun] = field(default_factory=dict)
    prompts: dict[Key, dict[Run, tuple[float, float]]] = field(default_factory=dict)
    points: dict[str, int] = field(default_factory=dict)
    across: bool = False

    def rows(self) -> list[str]:
        """Return the rows' names, the largest hypervolume first."""
        return sorted({row for row, _, _ in self.values}, key=lambda row: (-mean(self.of(row, "hypervolume")), row))

    def of(self, row: str, metric: str, objective: str = "all") -> ByRun:
        """Return a row's values by run; nothing where it has none."""
        return self.values.get((row, metric, objective), {})

    def measured(self) -> set[tuple[str, Run]]:
        """Return which rows were measured in which runs."""
        return {(row, run) for (row, _, _), by_run in self.values.items() for run in by_run}

    def take(self, later: "Measured") -> None:
        """Take in what a later archive holds; a row's run is replaced whole, so that no two are mixed."""
        fresh = later.measured()
        for before, new in ((self.values, later.values), (self.prompts, later.prompts)):
            for key, by_run in before.items():
                for run in [run for run in by_run if (key[0], run) in fresh]:
                    del by_run[run]
            for key, by_run in new.items():
                before.setdefault(key, {}).update(by_run)  # type: ignore[arg-type]
        self.points |= later.points

    def check(self, row: str) -> None:
        """Refuse a row that is not there, with the nearest one that is."""
        known = {name for name, _, _ in self.values}
        if row not in known:
            raise MoaError(f"{self.name}: no row '{row}' to compare.{nearest(row, known)}")

    def objectives(self, metric: str) -> list[str]:
        """Return what a metric is measured on, 'all' first."""
        return sorted({o for _, m, o in self.values if m == metric}, key=lambda o: (o != "all", o))


Reader = Callable[[Archive], Measured]


def measure(archives: Sequence[Archive], across: bool = False, reader: Reader | None = None) -> Measured:
    """Return what the archives hold together.

    Args:
        archives: of one base, prompts, preferences and decoding; a later one replaces a row's seed.
        across: they may be of several; a row's seed of a base counts once.
        reader: reads an archive; `seen` without it.

    Raises:
        MoaError: archives of different settings without `across`, or the same policy in two of them with it.
    """
    if not across and not alike(archives):
        raise MoaError(
            f"{' and '.join(a.name for a in archives)}: measured on different settings (settings.json); they cannot be"
            " pooled, only their pairs' differences: --across"
        )
    made = Measured(" and ".join(archive.name for archive in archives), across=across)
    for archive in archives:
        if missing := {"reference_responses", "preferences"} - archive.settings.keys():
            raise MoaError(
                f"{archive.name}: settings.json lacks {min(missing)}; extend it by a run of the same: --keep"
            )
        found = (reader or seen)(archive)
        before = made.measured()
        twice = [(row, run) for (row, _, _), by_run in found.values.items() for run in by_run if (row, run) in before]
        if across and twice:
            row, (_, seed) = twice[0]
            raise MoaError(
                f"{archive.name}: {row} has seed {seed} of this base in another archive, too; --across takes every"
                " policy once"
            )
        made.take(found)
    return made


def seen(archive: Archive) -> Measured:
    """Return an archive's own metrics, and the mean raw rewards of its points."""
    made = Measured(archive.name)
    for r in archive.metrics:
        if r["metric"] in METRICS and r["value"] is not None:
            key = (r["method"], r["metric"], r["objective"])
            made.values.setdefault(key, {})[_run(archive, r)] = r["value"]
            if r["low"] is not None:
                made.prompts.setdefault(key, {})[_run(archive, r)] = (r["low"], r["high"])
            if r["metric"] == "hypervolume":
                made.points[r["method"]] = r["points"]
    rewards: dict[Key, dict[Run, list[float]]] = {}
    for r in _rewards(archive):
        rewards.setdefault((r["method"], REWARD, r["objective"]), {}).setdefault(_run(archive, r), []).append(r["mean"])
    made.values |= {key: {run: average(of) for run, of in runs.items()} for key, runs in rewards.items()}
    return made


def unseen_by(experiment: Experiment) -> Reader:
    """Return a reader of archives that takes only preferences whose text the experiment's training never showed.

    A format shows tenths of weight, so a preference beside the training lattice may read like one on it. Hypervolume
    and tau are computed from the remaining points, blank ones included; KL is that of the training.
    """
    if experiment.preferences.dirichlet is not None:
        raise MoaError("preferences.dirichlet: training draws preferences anew, so none is known to be unseen")
    objectives = list(experiment.objectives)
    show = partial(preference_text, objectives=objectives, form=experiment.conditioning.format)
    return partial(_unseen, objectives=objectives, show=show, trained={*map(show, experiment.training_preferences())})


def _unseen(archive: Archive, objectives: list[str], show: Callable[..., str], trained: set[str]) -> Measured:
    if {r["objective"] for r in archive.scale} != set(objectives):
        raise MoaError(f"{archive.name}: its objectives are not the experiment's, {', '.join(objectives)}")
    told = [show(preference) not in trained for preference in archive.settings["preferences"]]
    if sum(told) < LEAST_POINTS:
        raise MoaError(
            f"{archive.name}: {sum(told)} preferences whose text training did not show; evaluate on at least"
            f" {LEAST_POINTS}"
        )
    made = Measured(archive.name)
    means: dict[tuple[str, Run], dict[tuple[float, ...], dict[str, float]]] = {}
    for r in _rewards(archive):
        if r["preference"] is not None and show(r["preference"]) not in trained:
            of = means.setdefault((r["method"], _run(archive, r)), {})
            of.setdefault(tuple(r["preference"]), {})[r["objective"]] = r["normalised"]
    reference = from_rows({r["objective"]: r for r in archive.scale}, objectives, archive.name).reference
    for (row, run), by_preference in means.items():
        if len(by_preference) < LEAST_POINTS:
            continue  # a row that answers at corners only
        points = np.array([[of[o] for o in objectives] for of in by_preference.values()])
        asked = np.array(list(by_preference))
        taus = {o: float(kendall_tau(asked[:, k], points[:, k])) for k, o in enumerate(objectives)}
        found = {("hypervolume", "all"): hypervolume(points, reference), ("tau", "all"): average(list(taus.values()))}
        for (metric, objective), value in (found | {("tau", o): tau for o, tau in taus.items()}).items():
            made.values.setdefault((row, metric, objective), {})[run] = value
        made.points[row] = len(points)
    kl = {key: by_run for key, by_run in seen(archive).values.items() if key[1] == "kl" and key[0] in made.points}
    made.values |= kl
    return made


def mean(by_run: ByRun) -> float:
    """Return the mean over runs, 0 without any."""
    return average(list(by_run.values())) if by_run else 0.0


def average(found: Sequence[float]) -> float:
    return sum(found) / len(found)


def _run(archive: Archive, row: Row) -> Run:
    return archive.settings["reference_responses"], row["seed"]


def _rewards(archive: Archive) -> list[Row]:
    return [r for r in archive.points if r["role"] == "reward"]
