"""Two rows over the seeds of several archives.

Means, paired differences, spread over seeds, and what of the hypervolume's difference follows the KL's.

python -m benchmarks.pooled --folders benchmarks/full benchmarks/fresh --row moc --against linear
python -m benchmarks.pooled --folders benchmarks/unseen/a --row moc --against moc --others benchmarks/unseen/b        # `against` stands in other archives
python -m benchmarks.pooled --folders benchmarks/imdb_control_bars benchmarks/imdb_control_fresh --across --row moc --against linear        # pairs of two bases
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f as fisher
from scipy.stats import f_oneway
from scipy.stats import t as student

from moa.errors import MoaError
from moa.metrics.paired import Difference, paired
from moa.report.summary import table
from moa.store import tables

Array = NDArray[np.float64]
Run = tuple[str, int]  # the base, by its responses' hash, and the seed
Values = dict[tuple[str, str, str], dict[Run, float]]  # by (method, metric, objective)
SHOWN = ("hypervolume", "tau", "kl")


def read(folders: list[Path], across: bool = False) -> Values:
    """Return the archives' metrics.

    Args:
        folders: archives of one base, prompts and decoding; a later one replaces a row's seed.
        across: they may be of several bases, prompts and decodings; a pair is of one base and seed.

    Raises:
        MoaError: archives of different settings without `across`, or the same policy in two of them with it.
    """
    settings = [json.loads((folder / "settings.json").read_text(encoding="utf-8")) for folder in folders]
    if not across and any(other != settings[0] for other in settings):
        raise MoaError(
            f"{', '.join(map(str, folders))}: measured on different settings (settings.json); they cannot be pooled,"
            " only their pairs' differences: --across"
        )
    values: Values = {}
    for folder, measured in zip(folders, settings, strict=True):
        for r in tables.read(tables.METRICS, folder / "metrics.parquet").to_pylist():
            if r["metric"] in SHOWN and r["value"] is not None:
                of = values.setdefault((r["method"], r["metric"], r["objective"]), {})
                run = measured["reference_responses"], r["seed"]
                if across and run in of:
                    raise MoaError(
                        f"{folder}: {r['method']} has seed {r['seed']} of this base in another archive, too; --across"
                        " takes every policy once"
                    )
                of[run] = r["value"]
    return values


def interval(a: dict[Run, float], b: dict[Run, float]) -> str:
    found = paired(a, b)
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def at_equal(outcomes: tuple[Array, ...], covariates: tuple[Array, ...]) -> Difference:
    """Return the difference of two rows' mean outcomes at one covariate.

    Analysis of covariance, one slope within both rows, 95 % t-interval.

    Args:
        outcomes: (n,) of the one row and of the other.
        covariates: the same runs' covariate.
    """
    x, y = (np.concatenate([part - part.mean() for part in parts]) for parts in (covariates, outcomes))
    slope = float(x @ y / (x @ x))
    apart = float(covariates[0].mean() - covariates[1].mean())
    mean = float(outcomes[0].mean() - outcomes[1].mean()) - slope * apart
    freedom = len(y) - 3
    variance = (
        float(np.square(y - slope * x).sum())
        / freedom
        * (sum(1 / len(part) for part in outcomes) + apart**2 / float(x @ x))
    )
    half = float(student.ppf(0.975, freedom)) * variance**0.5
    return Difference(mean, mean - half, mean + half, len(y))


class Spread(NamedTuple):
    """Two rows' standard deviations over seeds, and the two-sided p of their equality.

    Attributes:
        fisher: the F test's p, which takes values for normal; tau near its ceiling is not.
        brown_forsythe: the p of an analysis of variance of the absolute distances from the base's median, which does
            not (Brown and Forsythe 1974).
    """

    mine: float
    theirs: float
    fisher: float
    brown_forsythe: float


def spread(a: list[list[float]], b: list[list[float]]) -> Spread:
    """Return how far two rows' values differ between seeds.

    Args:
        a: a row's values, a list per base; deviations are from the base's own mean.
        b: the other row's.
    """
    freedom = [sum(len(part) - 1 for part in of) for of in (a, b)]
    variances = [
        sum(float(np.var(part)) * len(part) for part in of) / free for of, free in zip((a, b), freedom, strict=True)
    ]
    above = float(fisher.sf(variances[0] / variances[1], *freedom))
    distances = [np.concatenate([np.abs(np.array(part) - np.median(part)) for part in of]) for of in (a, b)]
    return Spread(
        variances[0] ** 0.5, variances[1] ** 0.5, 2 * min(above, 1 - above), float(f_oneway(*distances).pvalue)
    )


def by_base(of: dict[Run, float]) -> list[list[float]]:
    return [[value for (base, _), value in of.items() if base == one] for one in sorted({base for base, _ in of})]


def spreads(mine: Values, row: str, theirs: Values, against: str) -> list[str]:
    """Return how much hypervolume and tau of either row differ between seeds.

    Nothing where a base has a single seed, or no seed differs.
    """
    shown = []
    for metric in ("hypervolume", "tau"):
        parts = by_base(mine.get((row, metric, "all"), {})), by_base(theirs.get((against, metric, "all"), {}))
        if all(of and all(len(part) > 1 for part in of) and any(np.ptp(part) > 0 for part in of) for of in parts):
            found = spread(*parts)
            tests = f"p {found.fisher:.3f} (F test), {found.brown_forsythe:.3f} (Brown-Forsythe)"
            shown.append(
                f"standard deviation of {metric} over seeds: {found.mine:.4f} against {found.theirs:.4f}, {tests}"
            )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folders", type=Path, nargs="+", required=True)
    parser.add_argument("--row", required=True)
    parser.add_argument("--against", required=True)
    parser.add_argument("--others", type=Path, nargs="+", help="archives of the row `against` (default: the same)")
    parser.add_argument(
        "--across", action="store_true", help="archives of several bases: differences within a base are pooled"
    )
    given = parser.parse_args()
    others = given.others or given.folders
    if not given.across:
        read([*given.folders, *others])  # all measured alike
    values, against = read(given.folders, given.across), read(others, given.across)
    lines = []
    for _, metric, objective in sorted(
        key for key in values if key[0] == given.row and (given.against, *key[1:]) in against
    ):
        mine, theirs = values[given.row, metric, objective], against[given.against, metric, objective]
        means = [interval(of, dict.fromkeys(of, 0.0)) for of in (mine, theirs)]
        lines.append([f"{metric} {objective}", *means, interval(mine, theirs), str(len(mine.keys() & theirs.keys()))])
    print(table(["metric", given.row, given.against, "difference", "seeds"], lines))
    print(*("", *spreads(values, given.row, against, given.against)), sep="\n")
    if any((row, "kl", "all") not in of for of, row in ((values, given.row), (against, given.against))):
        return  # a row that the loop does not train has no KL
    shared = sorted(values[given.row, "kl", "all"].keys() & against[given.against, "kl", "all"].keys())
    if len(shared) < 3:
        return  # a line through two pairs says nothing
    distance, volume = (
        [values[given.row, m, "all"][s] - against[given.against, m, "all"][s] for s in shared]
        for m in ("kl", "hypervolume")
    )
    pairs = np.array([distance, volume]).T
    print(
        f"\ndifference in hypervolume against difference in KL: correlation {np.corrcoef(pairs.T)[0, 1]:.2f}, at equal"
        f" KL {np.polyfit(pairs[:, 0], pairs[:, 1], 1)[1]:+.3f}"
    )
    if given.across:
        return  # one slope needs runs of one base
    columns = [
        tuple(
            np.array([v for _, v in sorted(of[row, metric, "all"].items())])
            for of, row in ((values, given.row), (against, given.against))
        )
        for metric in ("hypervolume", "kl")
    ]
    found = at_equal(*columns)
    print(
        f"the same with one slope of hypervolume on KL within the rows: at equal KL {found.mean:+.3f} ({found.low:+.3f}"
        f" to {found.high:+.3f}, {found.seeds} runs)"
    )


if __name__ == "__main__":
    main()
