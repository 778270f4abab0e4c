"""The archive of long runs: extends, replaces, refuses another scale; paired intervals by hand."""

import math
from pathlib import Path

import pytest

from moa import tables
from moa.archive import extend, over_seeds
from moa.errors import MoaError
from moa.metrics.paired import paired
from tests import synthetic


def test_paired_interval_by_hand() -> None:
    # differences 1, 2, 3: mean 2, s = 1, t_{0.975, 2} = 4.302653: half-width 4.302653 / sqrt(3) = 2.484138
    got = paired({0: 3.0, 1: 4.0, 2: 6.0, 9: 7.0}, {0: 2.0, 1: 2.0, 2: 3.0, 8: 1.0})
    assert (got.mean, got.seeds) == (2.0, 3)
    assert got.low == pytest.approx(2 - 2.484138, abs=1e-6) and got.high == pytest.approx(2 + 2.484138, abs=1e-6)
    assert math.isnan(paired({0: 1.0}, {0: 0.5}).low) and paired({0: 1.0}, {1: 1.0}).seeds == 0


def test_a_later_run_extends_and_replaces(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    first = extend(synthetic.warehouse(tmp_path / "a", seeds=(0,)), "synthetic", folder)
    before = {(r["method"], r["seed"]) for r in tables.read(tables.METRICS, folder / "metrics.parquet").to_pylist()}
    second = extend(synthetic.warehouse(tmp_path / "b", seeds=(0, 1)), "synthetic", folder)
    after = {(r["method"], r["seed"]) for r in tables.read(tables.METRICS, folder / "metrics.parquet").to_pylist()}
    assert after == before | {(m, 1) for m, _ in before}
    assert second["metrics"] == 2 * first["metrics"]  # seed 0 was replaced, not doubled
    text = over_seeds(folder, "linear")
    assert "hypervolume less linear's" in text and "tau less linear's" in text and "±" in text
    with pytest.raises(MoaError, match="no row 'liner'"):
        over_seeds(folder, "liner")


def test_another_scale_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    database = synthetic.warehouse(tmp_path / "a")
    extend(database, "synthetic", folder)
    path = folder / "normaliser.parquet"
    rows = tables.read(tables.NORMALISER, path).to_pylist()
    tables.write(tables.NORMALISER, [{**r, "high": r["high"] + 1} for r in rows], path)
    kept = (folder / "metrics.parquet").read_bytes()
    with pytest.raises(MoaError, match="another scale"):
        extend(database, "synthetic", folder)
    assert (folder / "metrics.parquet").read_bytes() == kept
    with pytest.raises(MoaError, match="no task 'other'"):
        extend(database, "other", folder)
