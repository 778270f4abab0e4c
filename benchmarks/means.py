"""Mean rewards of an archive's rows over seeds, and one row's paired differences from the others.

docs/methods/pama.md has its tables:

    python benchmarks/means.py --folder benchmarks/imdb_pama --row pama
"""

import argparse
from pathlib import Path

from moa.metrics.paired import Difference, paired
from moa.report.summary import table
from moa.store import tables

Means = dict[tuple[str, str], dict[int, float]]  # (row, objective) -> seed -> mean reward over the row's points


def read(folder: Path) -> Means:
    """Return every row's mean raw reward per objective and seed; judges are left out."""
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for point in tables.read(tables.POINTS, folder / "points.parquet").to_pylist():
        if point["role"] == "reward":
            values.setdefault((point["method"], point["objective"]), {}).setdefault(point["seed"], []).append(
                point["mean"]
            )
    return {key: {seed: sum(found) / len(found) for seed, found in seeds.items()} for key, seeds in values.items()}


def show(means: Means, row: str) -> str:
    """Return a Markdown table: mean with its t-interval over seeds, and `row` less each other row, paired by seed."""
    objectives = list(dict.fromkeys(objective for _, objective in means))
    lines = []
    for method in dict.fromkeys(method for method, _ in means):
        cells = [method]
        for objective in objectives:
            mine = means[method, objective]
            alone = paired(mine, dict.fromkeys(mine, 0.0))
            against = "" if method == row else _signed(paired(means[row, objective], mine))
            cells += [f"{alone.mean:.3f} ± {alone.high - alone.mean:.3f}", against]
        lines.append([*cells, str(len(means[method, objectives[0]]))])
    return table(["row", *(head for o in objectives for head in (o, f"{row} less it")), "seeds"], lines)


def _signed(found: Difference) -> str:
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--row", required=True, help="whose differences from the others are shown")
    given = parser.parse_args()
    print(show(read(given.folder), given.row))


if __name__ == "__main__":
    main()
