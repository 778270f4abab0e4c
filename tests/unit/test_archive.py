"""The archive of long runs: extends, replaces, refuses another scale, and is read from a folder or a database."""

import json
from pathlib import Path
from typing import Any

import pytest

from moa.errors import MoaError
from moa.report import archive
from moa.report.compare import compare
from moa.store import tables
from tests import synthetic

ROOT = Path(__file__).parents[2]
# The folders of committed archives.
COMMITTED = sorted(p.parent for top in ("benchmarks", "studies") for p in (ROOT / top).rglob("settings.json"))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.warehouse(tmp_path_factory.mktemp("run"))


def extend(database: Path, task: str, folder: Path) -> archive.Archive:
    """What `moa compare DATABASE --task TASK --keep FOLDER` does first."""
    return archive.keep(archive.read(database, task), folder)


def over_seeds(folder: Path, against: str | None) -> str:
    return compare([archive.read(folder)], against=against)


def test_a_later_run_extends_and_replaces(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    first = extend(synthetic.warehouse(tmp_path / "a", seeds=(0,)), "synthetic", folder)
    before = {(r["method"], r["seed"]) for r in tables.read(tables.METRICS, folder / "metrics.parquet").to_pylist()}
    second = extend(synthetic.warehouse(tmp_path / "b", seeds=(0, 1)), "synthetic", folder)
    after = {(r["method"], r["seed"]) for r in tables.read(tables.METRICS, folder / "metrics.parquet").to_pylist()}
    assert after == before | {(m, 1) for m, _ in before}
    assert len(second.metrics) == 2 * len(first.metrics)  # seed 0 was replaced, not doubled
    text = over_seeds(folder, "linear")
    assert "hypervolume less linear's" in text and "tau less linear's" in text and "±" in text
    cells = {line.split(" | ")[0]: line for line in text.partition("Mean raw")[0].splitlines()}
    assert "0.118 ± 0.000" in cells["| moc"], "the KL of the last ten of twelve steps, 0.2 * 6.5 / 11, in both seeds"
    assert "| 26 ± 0 |" in cells["| moc"], "one policy named 'policy': 20 + 6 s in both seeds"
    with pytest.raises(MoaError, match="no row 'liner'"):
        over_seeds(folder, "liner")


def test_another_scale_is_refused(database: Path, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
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


@pytest.mark.parametrize("change", [{"std": 0.5}, {"mean": 0.125}, {"n": 7}])
def test_another_base_is_refused_where_formulas_give_the_same_bounds(
    change: dict[str, Any], database: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "archive"
    extend(database, "synthetic", folder)
    path = folder / "normaliser.parquet"
    first, *others = tables.read(tables.NORMALISER, path).to_pylist()
    tables.write(tables.NORMALISER, [{**first, **change}, *others], path)
    kept = (folder / "metrics.parquet").read_bytes()
    with pytest.raises(MoaError, match="normaliser.parquet: measured on another scale"):
        extend(database, "synthetic", folder)
    assert (folder / "metrics.parquet").read_bytes() == kept


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("reference_responses", "another base"),
        ("evaluation_prompts", "others"),
        ("evaluation_temperature", 0.1),
        ("preferences", [[0.5, 0.5]]),
        ("samples", 2),
    ],
)
def test_other_prompts_preferences_or_decoding_are_refused_by_name(
    key: str, value: object, database: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "archive"
    extend(database, "synthetic", folder)
    path = folder / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    kept = (folder / "metrics.parquet").read_bytes()
    with pytest.raises(MoaError, match=f"settings.json: measured with {key} "):
        extend(database, "synthetic", folder)
    assert (folder / "metrics.parquet").read_bytes() == kept
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))
    extend(database, "synthetic", folder)
    assert json.loads(path.read_text())[key] != value, "what the archive does not hold yet is taken from the run"


def test_a_task_may_be_called_otherwise(tmp_path: Path) -> None:
    """The same responses, scale and settings under another name: both runs' rows stand under the newer name."""
    folder = tmp_path / "archive"
    extend(synthetic.warehouse(tmp_path / "a", seeds=(0,)), "synthetic", folder)
    for kept in (tables.METRICS, tables.POINTS):
        path = folder / f"{kept.name}.parquet"
        tables.write(kept, [{**r, "task": "before", "seed": 7} for r in tables.read(kept, path).to_pylist()], path)
    extend(synthetic.warehouse(tmp_path / "b", seeds=(0,)), "synthetic", folder)
    found = tables.read(tables.METRICS, folder / "metrics.parquet").to_pylist()
    assert {(r["task"], r["seed"]) for r in found} == {("synthetic", 0), ("synthetic", 7)}


def test_the_number_of_points_stands_beside_every_hypervolume(tmp_path: Path) -> None:
    """A row with one answer for all preferences has one point, and the table says so."""
    folder = tmp_path / "archive"
    extend(synthetic.warehouse(tmp_path / "run"), "synthetic", folder)
    head, *lines = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in over_seeds(folder, None).partition("\n\n")[0].splitlines()
    )
    shown = {line[0]: line[head.index("points")] for line in lines[1:]}
    stored = {
        r["method"]: str(r["points"])
        for r in tables.read(tables.METRICS, folder / "metrics.parquet").to_pylist()
        if r["metric"] == "hypervolume"
    }
    assert shown == stored and shown["pama"] == "1" and int(shown["linear"]) > 2


def test_the_order_rate_stands_beside_the_control_error_once(database: Path, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    extend(database, "synthetic", folder)
    head = [cell.strip() for cell in over_seeds(folder, None).splitlines()[0].strip("|").split("|")]
    assert head[head.index("control_error") - 1] == "order_rate"
    assert [name for name in head if name.startswith("order_rate")] == ["order_rate"]


def test_the_bootstrap_over_prompts_stands_beside_the_interval_over_seeds(database: Path, tmp_path: Path) -> None:
    """The mean of the seeds' interval ends: (a_1 + a_2) / 2 to (b_1 + b_2) / 2."""
    folder = tmp_path / "archive"
    extend(database, "synthetic", folder)
    head, *lines = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in over_seeds(folder, "linear").splitlines()
    )
    at = head.index("hypervolume over prompts")
    assert head[at - 1] == "hypervolume" and head[at + 1] == "hypervolume less linear's" and "tau over prompts" in head
    ends = [
        (r["low"], r["high"])
        for r in tables.read(tables.METRICS, folder / "metrics.parquet").to_pylist()
        if (r["method"], r["metric"]) == ("linear", "hypervolume")
    ]
    low, high = (sum(part) / len(ends) for part in zip(*ends, strict=True))
    assert next(line for line in lines if line[0] == "linear")[at] == f"{low:.3f} to {high:.3f}"


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_the_committed_archives_are_readable(folder: Path) -> None:
    found = archive.read(folder)
    first = found.metrics[0]["method"]
    assert f"| {first} |" in compare([found], against=first)


def test_a_database_is_an_archive_that_is_not_kept(database: Path, tmp_path: Path) -> None:
    """Its only task needs no name; what the folder holds afterwards is what the database gave, in the files' order."""
    found = archive.read(database)
    kept = archive.keep(found, tmp_path / "archive")
    assert (kept.settings, kept.scale) == (found.settings, found.scale)
    assert len(kept.metrics) == len(found.metrics) and len(kept.points) == len(found.points)
    assert compare([archive.read(tmp_path / "archive")]) == compare([found])


def test_what_is_no_archive_is_named(database: Path, tmp_path: Path) -> None:
    with pytest.raises(MoaError, match="nothing: no such archive or database; run an experiment first"):
        archive.read(tmp_path / "nothing")
    with pytest.raises(
        MoaError, match="no archive, it has no normaliser.parquet; `moa compare DATABASE --keep FOLDER`"
    ):
        archive.read(tmp_path)
    archive.keep(archive.read(database), tmp_path / "archive")
    (tmp_path / "archive" / "settings.json").write_text("[1]")
    with pytest.raises(MoaError, match="settings.json: not readable as the archive's settings .* restore the file"):
        archive.read(tmp_path / "archive")
    (tmp_path / "archive" / "settings.json").write_text("{")
    with pytest.raises(MoaError, match="settings.json: not readable as the archive's settings .* restore the file"):
        archive.read(tmp_path / "archive")
