"""Rows over seeds: means, paired differences, the difference at equal KL, spread.

Every table says n. Pairs are of the same run, a base and a seed, so that differences are read within a base only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moa.errors import MoaError
from moa.metrics.bootstrap import Array
from moa.metrics.paired import Difference, at_equal, paired, pairs_at_equal, spread
from moa.report.archive import Archive, alike
from moa.report.markdown import table
from moa.report.measured import METRICS, REWARD, ByRun, Measured, Reader, average, measure

COMPARED = ("hypervolume", "tau")  # over all objectives: their differences and bootstrap intervals are shown
TWO = ("hypervolume", "tau", "kl", REWARD)  # what is shown of two rows
OVER_OBJECTIVES = ("order_rate",)  # shown as the mean over objectives alone: beside tau per objective it says little
LEAST_PAIRS = 3  # a line through two pairs says nothing


class How(NamedTuple):
    """How archives are read.

    Attributes:
        across: they are of several bases: differences within each are pooled.
        reader: what is read of an archive; all that was measured without it.
    """

    across: bool = False
    reader: Reader | None = None


ALIKE = How()


def compare(
    archives: Sequence[Archive],
    others: Sequence[Archive] = (),
    *,
    row: str | None = None,
    against: str | None = None,
    how: How = ALIKE,
) -> str:
    """Return what `moa compare` prints.

    Args:
        archives: where the rows stand.
        others: where the other row stands; `archives` without any.
        row: one row; all without it.
        against: the other row; the one of the same name in `others` without it.
        how: whether the archives are of several bases, and what is read of them.

    Raises:
        MoaError: the archives cannot be compared, or a row is not there.
    """
    if others and not how.across and not alike([*archives, *others]):
        raise MoaError(
            f"{archives[0].name} and {others[0].name}: measured on different settings (settings.json); compare runs of"
            " one base, prompts, preferences and decoding"
        )
    mine = measure(archives, how.across, how.reader)
    theirs = measure(others, how.across, how.reader) if others else None
    if row is None:
        return over_seeds(mine, theirs, against)
    if against is None and theirs is None:
        raise MoaError(f"--row {row}: compared with nothing; name another row, --against, or a second archive")
    return two_rows(mine, row, theirs or mine, against or row)


def over_seeds(mine: Measured, theirs: Measured | None = None, against: str | None = None) -> str:
    """Return Markdown tables of every row: means over seeds with their interval, then mean raw rewards.

    Beside hypervolume and tau stand the bootstrap interval over prompts, the seeds' averaged, and the paired
    difference to the other row where there is one.

    Args:
        mine: what the rows are.
        theirs: where the other row stands; `mine` without it.
        against: the other row; without it, and with `theirs`, the row of the same name.

    Raises:
        MoaError: archives of several bases, or no such row.
    """
    if mine.across:
        raise MoaError("--across pools the differences of two rows; name them: --row and --against")
    if against is not None:
        (theirs or mine).check(against)
    elif theirs is not None and not set(mine.rows()) & set(theirs.rows()):
        raise MoaError(f"{mine.name} and {theirs.name} share no row; name two: --row and --against")
    rows, heads, cells = mine.rows(), ["method"], [[row] for row in mine.rows()]
    other = theirs or mine
    less = f" less {against}'s" if against else f" less {other.name}'s"

    def add(head: str, column: Sequence[str]) -> None:
        heads.append(head)
        for line, cell in zip(cells, column, strict=True):
            line.append(cell)

    def difference(row: str, metric: str, objective: str) -> str:
        rival, of = against or row, mine.of(row, metric, objective)
        return "" if not of or (other is mine and rival == row) else _paired(of, other.of(rival, metric, objective))

    def metrics(names: Sequence[str], differ: Sequence[str]) -> None:
        for metric in names:
            for objective in ["all"] if metric in OVER_OBJECTIVES else mine.objectives(metric):
                head = metric if objective == "all" else f"{metric} {objective}"
                add(head, [_cell(mine.of(r, metric, objective), 0 if metric == "seconds" else 3) for r in rows])
                if metric in COMPARED and objective == "all":
                    add(
                        f"{metric} over prompts",
                        [_interval(list(mine.prompts.get((r, metric, "all"), {}).values())) for r in rows],
                    )
                if (against or theirs) and head in differ:
                    add(f"{head}{less}", [difference(r, metric, objective) for r in rows])

    seeds = [str(len(mine.of(row, "hypervolume"))) for row in rows]
    metrics([metric for metric in METRICS if mine.objectives(metric)], COMPARED)
    add("points", [str(mine.points.get(row, 0)) for row in rows])
    add("seeds", seeds)
    shown = table(heads, cells)
    if mine.objectives(REWARD):
        heads, cells = ["method"], [[row] for row in rows]
        metrics([REWARD], [f"{REWARD} {objective}" for objective in mine.objectives(REWARD)])
        add("seeds", seeds)
        shown += f"\n\nMean raw reward over a row's points:\n\n{table(heads, cells)}"
    return shown


def two_rows(mine: Measured, row: str, theirs: Measured, against: str) -> str:
    """Return a Markdown table of two rows over seeds, and what stands behind their difference in hypervolume.

    Raises:
        MoaError: a row is not there.
    """
    mine.check(row)
    theirs.check(against)
    names = (row, against) if row != against else (f"{row} of {mine.name}", f"{against} of {theirs.name}")
    lines, shared = [], set()
    for metric in TWO:
        for objective in mine.objectives(metric):
            a, b = mine.of(row, metric, objective), theirs.of(against, metric, objective)
            if a and b:
                # Of several bases, each with its own scale, only differences have a mean.
                means = [cell for of in (a, b) for cell in ("-" if mine.across else _cell(of, 3), str(len(of)))]
                name = metric if objective == "all" else f"{metric} {objective}"
                lines.append([name, *means, _paired(a, b), str(len(a.keys() & b.keys()))])
                shared |= a.keys() & b.keys()
    shown = [table(["metric", names[0], "n", names[1], "n", "difference", "pairs"], lines)]
    if len(shared) < 2:
        runs = [_seeds(of.of(name, "hypervolume")) for of, name in ((mine, row), (theirs, against))]
        shown.append(
            "One pair: no interval."
            if shared
            else f"No pair: {names[0]} has seeds {runs[0]}, {names[1]} has seeds {runs[1]}, and none on the same base."
        )
    points = mine.points.get(row, 0), theirs.points.get(against, 0)
    behind = [f"points behind a hypervolume: {points[0]} and {points[1]}"]
    said = [*behind, *_spreads(mine, row, theirs, against), *_at_equal_kl(mine, row, theirs, against)]
    return "\n\n".join([*shown, "\n".join(said)])


def _spreads(mine: Measured, row: str, theirs: Measured, against: str) -> list[str]:
    """Say how far hypervolume and tau of either row differ between seeds."""
    shown = []
    for metric in COMPARED:
        parts = _by_base(mine.of(row, metric)), _by_base(theirs.of(against, metric))
        name = f"standard deviation of {metric} over seeds"
        if not all(parts):
            continue  # a row without a preference has no tau
        if not all(len(part) > 1 for of in parts for part in of):
            shown.append(f"{name}: not known, it needs two seeds of every base in either row")
        elif not all(any(np.ptp(part) > 0 for part in of) for of in parts):
            shown.append(f"{name}: not compared, a row's seeds are all equal")
        else:
            found = spread(*parts)
            tests = f"p {found.fisher:.3f} (F test), {found.brown_forsythe:.3f} (Brown-Forsythe)"
            shown.append(f"{name}: {found.mine:.4f} against {found.theirs:.4f}, {tests}")
    return shown


def _by_base(of: ByRun) -> list[list[float]]:
    return [[value for (base, _), value in of.items() if base == one] for one in sorted({base for base, _ in of})]


def _at_equal_kl(mine: Measured, row: str, theirs: Measured, against: str) -> list[str]:
    """Say what of the difference in hypervolume remains at the same KL to the reference."""
    name = "difference in hypervolume at equal KL"
    sides = ((mine, row), (theirs, against))
    for of, side in sides:
        if not of.of(side, "kl"):
            return [f"{name}: not known, {side} has no KL (the loop did not train it)"]
    kl, volume = ([of.of(side, metric) for of, side in sides] for metric in ("kl", "hypervolume"))
    shared = sorted(set.intersection(*(set(of) for of in (*kl, *volume))))
    if len(shared) < LEAST_PAIRS:
        shown = [f"{name}, a line through the pairs: not known, {len(shared)} pairs"]
    else:
        apart = [np.array([a[run] - b[run] for run in shared]) for a, b in (volume, kl)]
        shown = [f"{name}, a line through the pairs: {_difference(pairs_at_equal(*apart))}, {len(shared)} pairs"]
    if mine.across or theirs.across:
        return [*shown, f"{name}, one slope within the rows: not known across bases"]
    runs = [sorted(set(k) & set(v)) for k, v in zip(kl, volume, strict=True)]
    outcomes, covariates = (
        tuple(np.array([of[run] for run in side]) for of, side in zip(metric, runs, strict=True))
        for metric in (volume, kl)
    )
    found = at_equal(_two(outcomes), _two(covariates)) if all(runs) else paired({}, {})
    return [*shown, f"{name}, one slope within the rows: {_difference(found)}, {found.seeds} runs"]


def _two(parts: tuple[Array, ...]) -> tuple[Array, Array]:
    a, b = parts
    return a, b


def _cell(by_run: ByRun, digits: int) -> str:
    if not by_run:
        return "-"
    found = paired(by_run, dict.fromkeys(by_run, 0.0))
    half = "" if found.seeds < 2 else f" ± {found.high - found.mean:.{digits}f}"
    return f"{found.mean:.{digits}f}{half}"


def _interval(found: Sequence[tuple[float, float]]) -> str:
    """Return the mean of the seeds' bootstrap intervals over prompts; each is that of one seed's policies."""
    return f"{average([low for low, _ in found]):.3f} to {average([high for _, high in found]):.3f}" if found else "-"


def _seeds(by_run: ByRun) -> str:
    return ", ".join(str(seed) for seed in sorted({seed for _, seed in by_run})) or "none"


def _paired(a: ByRun, b: ByRun) -> str:
    return _difference(paired(a, b))


def _difference(found: Difference) -> str:
    if np.isnan(found.mean):
        return "no common seed" if not found.seeds else "not known"
    return f"{found.mean:+.3f}" + ("" if np.isnan(found.low) else f" ({found.low:+.3f} to {found.high:+.3f})")
