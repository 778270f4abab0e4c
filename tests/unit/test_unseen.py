"""Which evaluation preferences read like a training one, and what the others score."""

from pathlib import Path

import pytest

from benchmarks import unseen
from moa.errors import MoaError
from moa.experiment.keys import Grid
from moa.store import tables

Q = [(0.05, 0.95), (0.1, 0.9), (0.3, 0.7), (0.42, 0.58)]


def archive(folder: Path) -> Path:
    """Write one row's points at Q: rewards (0, 1), (0.5, 0.9), (0.8, 0.5), (1, 0)."""
    folder.mkdir()
    key = {"task": "t", "method": "moc", "seed": 3, "role": "reward", "low": None, "high": None, "n": 4}
    found = [(0.0, 1.0), (0.5, 0.9), (0.8, 0.5), (1.0, 0.0)]
    rows = [
        {**key, "point": i, "preference": list(p), "objective": name, "mean": reward, "normalised": reward}
        for i, (p, rewards) in enumerate(zip(Q, found, strict=True))
        for name, reward in zip(("b", "a"), rewards, strict=True)
    ]
    tables.write(tables.POINTS, rows, folder / "points.parquet")
    return folder


def test_a_preference_that_reads_like_a_training_one_is_left_out(tmp_path: Path) -> None:
    """On fifths, bars show 0.05 as 0 and 0.42 as 4 tenths, which training showed; 1 and 3 tenths are new.

    Their hypervolume against 0: 0.5 * 0.9 + 0.3 * 0.5 = 0.60, and both objectives rise with their weight.
    """
    trained = set(unseen.shown(Grid(divisions=5).preferences(2, "here"), "bars"))
    assert [text in trained for text in unseen.shown(Q, "bars")] == [True, False, False, True]
    found = unseen.read(archive(tmp_path / "a"), "moc", ["b", "a"], trained, "bars")
    assert found == {"hypervolume": {3: pytest.approx(0.60)}, "tau": {3: 1.0}, "tau b": {3: 1.0}, "tau a": {3: 1.0}}


def test_too_few_new_preferences_and_a_missing_row_are_named(tmp_path: Path) -> None:
    trained = set(unseen.shown(Grid(divisions=10).preferences(2, "here"), "bars"))
    folder = archive(tmp_path / "a")
    with pytest.raises(MoaError, match="0 preferences whose text"):
        unseen.read(folder, "moc", ["b", "a"], trained, "bars")
    with pytest.raises(MoaError, match="no row 'linear'"):
        unseen.read(folder, "linear", ["b", "a"], trained, "bars")
