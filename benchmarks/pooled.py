"""Two rows over the seeds of several archives of one base: means, paired differences, and what of the hypervolume's follows the KL's.

python -m benchmarks.pooled --folders benchmarks/full benchmarks/fresh --row moc --against linear
python -m benchmarks.pooled --folders benchmarks/unseen/a --row moc --against moc --others benchmarks/unseen/b        # `against` stands in other archives
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from moa import tables
from moa.errors import MoaError
from moa.metrics.paired import Difference, paired
from moa.report.summary import table

Array = NDArray[np.float64]
Values = dict[tuple[str, str, str], dict[int, float]]  # (method, metric, objective) -> seed -> value
SHOWN = ("hypervolume", "tau", "kl")


def read(folders: list[Path]) -> Values:
    """Return the archives' metrics; archives of different bases, prompts or decodings are a MoaError."""
    settings = [json.loads((folder / "settings.json").read_text(encoding="utf-8")) for folder in folders]
    if any(other != settings[0] for other in settings):
        raise MoaError(f"{', '.join(map(str, folders))}: measured on different settings (settings.json); they cannot be pooled")
    values: Values = {}
    for folder in folders:
        for r in tables.read(tables.METRICS, folder / "metrics.parquet").to_pylist():
            if r["metric"] in SHOWN and r["value"] is not None:
                values.setdefault((r["method"], r["metric"], r["objective"]), {})[r["seed"]] = r["value"]
    return values


def interval(a: dict[int, float], b: dict[int, float]) -> str:
    found = paired(a, b)
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def at_equal(outcomes: tuple[Array, ...], covariates: tuple[Array, ...]) -> Difference:
    """Return the difference of two rows' mean outcomes at one covariate: analysis of covariance, one slope within both rows, 95 % t-interval.

    Args:
        outcomes: (n,) of the one row and of the other.
        covariates: the same runs' covariate.
    """
    x, y = (np.concatenate([part - part.mean() for part in parts]) for parts in (covariates, outcomes))
    slope = float(x @ y / (x @ x))
    apart = float(covariates[0].mean() - covariates[1].mean())
    mean = float(outcomes[0].mean() - outcomes[1].mean()) - slope * apart
    freedom = len(y) - 3
    variance = float(np.square(y - slope * x).sum()) / freedom * (sum(1 / len(part) for part in outcomes) + apart**2 / float(x @ x))
    half = float(student.ppf(0.975, freedom)) * variance**0.5
    return Difference(mean, mean - half, mean + half, len(y))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folders", type=Path, nargs="+", required=True)
    parser.add_argument("--row", required=True)
    parser.add_argument("--against", required=True)
    parser.add_argument("--others", type=Path, nargs="+", help="archives of the row `against` (default: the same)")
    given = parser.parse_args()
    others = given.others or given.folders
    read([*given.folders, *others])  # all measured alike
    values, against = read(given.folders), read(others)
    lines = []
    for _, metric, objective in sorted(key for key in values if key[0] == given.row and (given.against, *key[1:]) in against):
        mine, theirs = values[given.row, metric, objective], against[given.against, metric, objective]
        means = [interval(of, dict.fromkeys(of, 0.0)) for of in (mine, theirs)]
        lines.append([f"{metric} {objective}", *means, interval(mine, theirs), str(len(mine.keys() & theirs.keys()))])
    print(table(["metric", given.row, given.against, "difference", "seeds"], lines))
    if any((row, "kl", "all") not in of for of, row in ((values, given.row), (against, given.against))):
        return  # a row that the loop does not train has no KL
    volume, distance = ({s: values[given.row, m, "all"][s] - v for s, v in against[given.against, m, "all"].items()} for m in ("hypervolume", "kl"))
    pairs = np.array([(distance[s], volume[s]) for s in sorted(volume)])
    print(f"\ndifference in hypervolume against difference in KL: correlation {np.corrcoef(pairs.T)[0, 1]:.2f}, at equal KL {np.polyfit(pairs[:, 0], pairs[:, 1], 1)[1]:+.3f}")
    columns = [
        tuple(np.array([v for _, v in sorted(of[row, metric, "all"].items())]) for of, row in ((values, given.row), (against, given.against)))
        for metric in ("hypervolume", "kl")
    ]
    found = at_equal(*columns)
    print(f"the same with one slope of hypervolume on KL within the rows: at equal KL {found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}, {found.seeds} runs)")


if __name__ == "__main__":
    main()
