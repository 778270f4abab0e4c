"""Hypervolume and order on the evaluation preferences whose text training never showed.

Docs/methods/moc_preferences.md, "Preferences that it never saw".

Formats show tenths of weight, so a preference off the training lattice may read like one on it; those are left out
here.

    python -m benchmarks.unseen --folders benchmarks/unseen/a benchmarks/unseen/b --row moc --objectives sentiment
    conciseness --training 5 --format bars
"""

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.ablation import metrics
from moa.errors import MoaError
from moa.experiment.keys import Grid
from moa.lm.conditioning import preference_text
from moa.metrics.paired import paired
from moa.report.summary import table
from moa.store import tables

Values = dict[str, dict[int, float]]  # metric -> seed -> value


def shown(preferences: list[tuple[float, ...]], form: str) -> list[str]:
    """Return the preferences' texts; objectives' names are the same in all and left out."""
    return [preference_text(p, [str(k) for k in range(len(p))], form) for p in preferences]


def read(folder: Path, row: str, objectives: list[str], trained: set[str], form: str) -> Values:
    """Return the row's metrics over the archive's preferences whose text is not in `trained`.

    Args:
        folder: archive (moa/report/archive.py).
        row: name of the row.
        objectives: in the order of weights.
        trained: texts that training showed.
        form: `conditioning.format`.

    Raises:
        MoaError: the archive lacks the row, or has fewer than two such preferences.
    """
    means: dict[int, dict[tuple[float, ...], dict[str, float]]] = {}
    for r in tables.read(tables.POINTS, folder / "points.parquet").to_pylist():
        if r["method"] == row and r["role"] == "reward":
            means.setdefault(r["seed"], {}).setdefault(tuple(r["preference"]), {})[r["objective"]] = r["normalised"]
    if not means:
        raise MoaError(f"{folder}: no row '{row}'")
    found: Values = {}
    for seed, of in means.items():
        new = [p for p, text in zip(of, shown(list(of), form), strict=True) if text not in trained]
        if len(new) < 2:
            raise MoaError(
                f"{folder}: {len(new)} preferences whose text is not among the training preferences'; order needs two"
            )
        points = np.array([[of[p][o] for o in objectives] for p in new])
        result = metrics(points, np.array(new), objectives)
        values = {
            "hypervolume": result["hypervolume"],
            "tau": float(np.mean(list(result["tau"].values()))),
            **{f"tau {o}": t for o, t in result["tau"].items()},
        }
        for name, value in values.items():
            found.setdefault(name, {})[seed] = value
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--folders",
        type=Path,
        nargs=2,
        required=True,
        help="archives of policy A and of policy B, which were measured on the same preferences",
    )
    parser.add_argument("--row", required=True)
    parser.add_argument("--objectives", nargs="+", required=True, help="names, in the order of weights")
    parser.add_argument("--training", type=int, required=True, help="divisions of the lattice that A was trained on")
    parser.add_argument("--format", required=True, choices=["bars", "words", "digits", "levels", "tags"])
    given = parser.parse_args()
    lattice = Grid(divisions=given.training).preferences(len(given.objectives), "--training")
    trained = set(shown(lattice, given.format))
    a, b = (read(folder, given.row, given.objectives, trained, given.format) for folder in given.folders)
    lines = []
    for name in a:
        found, ratio = paired(a[name], b[name]), np.mean(list(a[name].values())) / np.mean(list(b[name].values()))
        means = [f"{np.mean(list(of[name].values())):.3f}" for of in (a, b)]
        lines.append(
            [
                name,
                *means,
                f"{100 * ratio:.1f} %",
                f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})",
                str(found.seeds),
            ]
        )
    told = sum(
        text not in trained
        for text in shown(
            [
                tuple(p)
                for p in json.loads((given.folders[0] / "settings.json").read_text(encoding="utf-8"))["preferences"]
            ],
            given.format,
        )
    )
    print(f"{told} preferences whose text training did not show\n")
    print(table(["metric", "A", "B", "A of B", "A less B", "seeds"], lines))


if __name__ == "__main__":
    main()
