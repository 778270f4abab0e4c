"""Comparison of rows over seeds: the statistics by hand, and what `moa compare` says of small archives."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from moa.errors import MoaError
from moa.experiment import schema
from moa.metrics.paired import at_equal, paired, pairs_at_equal, spread
from moa.report import archive
from moa.report.compare import How, compare
from moa.report.measured import measure, unseen_by
from moa.store import tables

ROOT = Path(__file__).parents[2]


def test_paired_interval_by_hand() -> None:
    # differences 1, 2, 3: mean 2, s = 1, t_{0.975, 2} = 4.302653: half-width 4.302653 / sqrt(3) = 2.484138
    got = paired({0: 3.0, 1: 4.0, 2: 6.0, 9: 7.0}, {0: 2.0, 1: 2.0, 2: 3.0, 8: 1.0})
    assert (got.mean, got.seeds) == (2.0, 3)
    assert got.low == pytest.approx(2 - 2.484138, abs=1e-6) and got.high == pytest.approx(2 + 2.484138, abs=1e-6)
    assert math.isnan(paired({0: 1.0}, {0: 0.5}).low) and paired({0: 1.0}, {1: 1.0}).seeds == 0


def test_pairs_at_one_kl() -> None:
    """Outcomes 1, 2, 4 at 0, 1, 2: slope (-1 + 4) / 2 = 1.5, so 7/3 - 1.5 = 5/6 at 0.

    Residuals 1/6, -1/3, 1/6: their squares sum to 1/6, with one degree of freedom. Variance of the intercept
    1/6 (1/3 + 1/2) = 5/36; t_{0.975, 1} = 12.7062: half-width 12.7062 * 0.372678 = 4.73533.
    """
    found = pairs_at_equal(np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 2.0]))
    assert (found.mean, found.seeds) == (pytest.approx(5 / 6), 3)
    assert found.high - found.mean == pytest.approx(4.73533, abs=1e-4) == found.mean - found.low
    two = pairs_at_equal(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    assert two.mean == pytest.approx(0) and math.isnan(two.low), "a line through two points leaves no residual"
    assert math.isnan(pairs_at_equal(np.array([1.0, 2.0, 3.0]), np.ones(3)).mean), "there is no line"


def test_two_rows_at_one_kl() -> None:
    """Slope 2 within both rows and 1 between them at one KL, which the rows' own means, 1 + 2 * 3 = 7 apart, hide.

    With residuals 0.3 (1, -2, 1) in the first row: they sum to 0 and are orthogonal to the KL, so slope and difference
    stay. Variance 0.09 * 6 / 3 = 0.18 times 1/3 + 1/3 + 9/4 (the centred KL's squares: 2 in either row), t(0.975, 3
    degrees of freedom) = 3.18245.
    """
    kl = np.array([4.0, 5.0, 6.0]), np.array([1.0, 2.0, 3.0])
    volumes = 1 + 2 * kl[0] + 0.3 * np.array([1.0, -2.0, 1.0]), 2 * kl[1]
    found = at_equal(volumes, kl)
    assert (found.mean, found.seeds) == (pytest.approx(1.0), 6)
    half = 3.18245 * (0.18 * (2 / 3 + 9 / 4)) ** 0.5
    assert (found.low, found.high) == (pytest.approx(1 - half, abs=1e-4), pytest.approx(1 + half, abs=1e-4))
    short = at_equal((np.array([3.0, 5.0]), np.array([0.0])), (np.array([1.0, 2.0]), np.array([0.0])))
    assert short.mean == pytest.approx(4 - 2 * 1.5) and math.isnan(short.low), "three runs, three parameters"
    assert math.isnan(at_equal(kl, (np.ones(3), np.zeros(3))).mean), "no slope where the KL does not vary"


def test_spread_is_of_the_seeds_within_a_base() -> None:
    """Within bases 0, 2 | 10, 14 the squares sum to 2 + 8 with 1 + 1 degrees of freedom: variance 5.

    The other row's 0, 1 | 5, 6 have 0.5 + 0.5 and variance 0.5. F = 10 with (2, 2) degrees of freedom: its upper tail
    is 1 / (1 + F) = 1 / 11. Distances from the base's median are 1, 1, 2, 2 and four times 0.5, with means 1.5 and 0.5.
    So they are 2 between the rows and 1 within, and F = 2 / (1 / 6) = 12 with (1, 6).
    """
    found = spread([[0.0, 2.0], [10.0, 14.0]], [[0.0, 1.0], [5.0, 6.0]])
    assert (found.mine**2, found.theirs**2, found.fisher) == (
        pytest.approx(5),
        pytest.approx(0.5),
        pytest.approx(2 / 11),
    )
    assert found.brown_forsythe == pytest.approx(scipy.stats.f.sf(12, 1, 6))
    assert spread([[0.0, 1.0], [5.0, 6.0]], [[0.0, 2.0], [10.0, 14.0]]).fisher == pytest.approx(2 / 11), "two-sided"


PREFERENCES = [(0.05, 0.95), (0.1, 0.9), (0.3, 0.7), (0.42, 0.58), (0.7, 0.3)]
REWARDS = [(0.0, 1.0), (0.5, 0.9), (0.8, 0.5), (0.9, 0.3), (1.0, 0.2)]


def write(
    folder: Path, volumes: dict[str, dict[int, float]], base: str = "x", kl: dict[str, dict[int, float]] | None = None
) -> Path:
    """Write an archive: a row's hypervolume, and KL, by seed; all rows' points are REWARDS (b, a) at PREFERENCES."""
    folder.mkdir()
    settings = {"reference_responses": base, "preferences": [list(p) for p in PREFERENCES]}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    key: dict[str, Any] = {"task": "t", "objective": "all", "low": None, "high": None, "points": 3, "n": 4}
    metrics = [
        {**key, "metric": metric, "method": row, "seed": seed, "value": value}
        for metric, rows in (("hypervolume", volumes), ("kl", kl or {}))
        for row, by_seed in rows.items()
        for seed, value in by_seed.items()
    ]
    shared: dict[str, Any] = {"task": "t", "role": "reward", "low": None, "high": None, "n": 4}
    points = [
        {**shared, "method": row, "seed": seed, "point": i, "preference": list(preference), "objective": name}
        | {"mean": 10 * reward, "normalised": reward}
        for row, by_seed in volumes.items()
        for seed in by_seed
        for i, (preference, rewards) in enumerate(zip(PREFERENCES, REWARDS, strict=True))
        for name, reward in zip(("b", "a"), rewards, strict=True)
    ]
    bounds = {"low": 0.0, "high": 10.0, "mean": 5.0, "std": 1.0, "floor": 0.0, "reference_point": 0.0, "n": 4}
    scale = [{"task": "t", "objective": name, **bounds, "hash": "h"} for name in ("a", "b")]
    tables.write(tables.METRICS, metrics, folder / "metrics.parquet")
    tables.write(tables.POINTS, points, folder / "points.parquet")
    tables.write(tables.NORMALISER, scale, folder / "normaliser.parquet")
    return folder


def cells(text: str, row: str) -> list[str]:
    """Return the cells of a Markdown table's row."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {row} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_two_rows_of_one_archive(tmp_path: Path) -> None:
    """Hypervolumes 1, 3 and 0, 1 (seed 2 is the first row's alone): differences 1, 2, half 12.7062 * 0.5 = 6.353.

    The first row's mean (1 + 3 + 5) / 3 = 3 with t_{0.975, 2} * 2 / sqrt(3) = 4.302653 * 1.154701 = 4.968.
    """
    one = archive.read(write(tmp_path / "1", {"moc": {0: 1.0, 1: 3.0, 2: 5.0}, "linear": {0: 0.0, 1: 1.0}}))
    text = compare([one], row="moc", against="linear")
    found = cells(text, "hypervolume")
    assert found == ["hypervolume", "3.000 ± 4.968", "3", "0.500 ± 6.353", "2", "+1.500 (-4.853 to +7.853)", "2"]
    assert cells(text, "reward a")[1:3] == ["5.800 ± 0.000", "3"], "10 (1 + 0.9 + 0.5 + 0.3 + 0.2) / 5"
    assert "points behind a hypervolume: 3 and 3" in text
    assert "standard deviation of hypervolume over seeds: 2.0000 against 0.7071" in text
    assert "at equal KL: not known, moc has no KL" in text


def test_the_same_row_of_two_archives(tmp_path: Path) -> None:
    a = archive.read(write(tmp_path / "a", {"moc": {0: 1.0, 1: 3.0}, "pama": {0: 1.0}}))
    b = archive.read(write(tmp_path / "b", {"moc": {0: 0.0, 1: 1.0}, "grpo": {0: 2.0}}))
    assert cells(compare([a], [b], row="moc"), "hypervolume")[5] == "+1.500 (-4.853 to +7.853)"
    head, _, *lines = compare([a], [b]).partition("\n\n")[0].splitlines()
    at = [cell.strip() for cell in head.strip("|").split("|")].index(f"hypervolume less {tmp_path / 'b'}'s")
    assert cells("\n".join(lines), "moc")[at] == "+1.500 (-4.853 to +7.853)"
    assert cells("\n".join(lines), "pama")[at] == "no common seed"
    with pytest.raises(MoaError, match="share no row; name two: --row and --against"):
        compare([archive.read(write(tmp_path / "c", {"pama": {0: 1.0}}))], [b])


def test_where_there_is_nothing_to_compare_it_says_so(tmp_path: Path) -> None:
    one = archive.read(write(tmp_path / "1", {"moc": {0: 1.0, 1: 2.0}, "linear": {5: 0.0}, "pama": {1: 1.5}}))
    none = compare([one], row="moc", against="linear")
    assert "No pair: moc has seeds 0, 1, linear has seeds 5, and none on the same base." in none
    assert cells(none, "hypervolume")[5:] == ["no common seed", "0"]
    single = compare([one], row="moc", against="pama")
    assert "One pair: no interval." in single and cells(single, "hypervolume")[5:] == ["+0.500", "1"]
    assert "standard deviation of hypervolume over seeds: not known" in single
    with pytest.raises(MoaError, match="--row moc: compared with nothing; name another row, --against"):
        compare([one], row="moc")
    with pytest.raises(MoaError, match="no row 'liner' to compare. Did you mean 'linear'"):
        compare([one], row="moc", against="liner")


def test_what_of_the_difference_follows_the_kl(tmp_path: Path) -> None:
    """The pairs of the second test above: outcomes 1, 2, 4 where the KL differs by 0, 1, 2.

    Within the rows: KL 1, 2, 3 and 1, 1, 1, volumes 1, 2, 4 and 0: slope 3 / 2, so 7/3 - 1.5 * 1 = 5/6 again.
    """
    kl = {"moc": {0: 1.0, 1: 2.0, 2: 3.0}, "linear": {0: 1.0, 1: 1.0, 2: 1.0}}
    volumes = {"moc": {0: 1.0, 1: 2.0, 2: 4.0}, "linear": {0: 0.0, 1: 0.0, 2: 0.0}}
    text = compare([archive.read(write(tmp_path / "1", volumes, kl=kl))], row="moc", against="linear")
    assert "equal KL, a line through the pairs: +0.833 (-3.902 to +5.569), 3 pairs" in text
    # Squares 1/6 with 3 degrees of freedom, times 1/3 + 1/3 + 1/2: 3.18245 * sqrt(7 / 108) = 0.8102.
    assert "equal KL, one slope within the rows: +0.833 (+0.023 to +1.644), 6 runs" in text


def test_archives_of_one_base_are_pooled(tmp_path: Path) -> None:
    """A later archive replaces a row's seed."""
    one = archive.read(write(tmp_path / "1", {"moc": {0: 1.0, 1: 9.0}}))
    two = archive.read(write(tmp_path / "2", {"moc": {1: 3.0}}))
    for r in (*one.metrics, *two.metrics):
        r |= {"low": r["value"] - 0.5, "high": r["value"] + 0.5}  # over prompts
    found, key = measure([one, two]), ("moc", "hypervolume", "all")
    assert found.values[key] == {("x", 0): 1.0, ("x", 1): 3.0}
    assert found.prompts[key] == {("x", 0): (0.5, 1.5), ("x", 1): (2.5, 3.5)}


def test_only_pairs_are_pooled_across_bases(tmp_path: Path) -> None:
    """Seeds 1, 2 of one base and 2, 3 of another: differences 0.1, 0.2, 0.2, 0.3, mean 0.2.

    Their standard deviation sqrt(0.02 / 3) = 0.0816, half of the interval 3.18245 * 0.0816 / 2 = 0.130. The first base
    again has the same policies.
    """

    def rows(*seeds: int) -> dict[str, dict[int, float]]:
        return {"moc": {s: s / 10 for s in seeds}, "linear": dict.fromkeys(seeds, 0.0)}

    one, other, again = (
        archive.read(write(tmp_path / base_and_name, rows(*seeds), base=base_and_name[0]))
        for base_and_name, seeds in (("x1", (1, 2)), ("y2", (2, 3)), ("x3", (2,)))
    )
    with pytest.raises(MoaError, match="different settings .* only their pairs' differences: --across"):
        compare([one, other], row="moc", against="linear")
    text = compare([one, other], row="moc", against="linear", how=How(across=True))
    assert cells(text, "hypervolume") == ["hypervolume", "-", "4", "-", "4", "+0.200 (+0.070 to +0.330)", "4"]
    # Within a base 0.1, 0.2 | 0.2, 0.3: squares 0.005 + 0.005 over two degrees of freedom.
    assert "standard deviation of hypervolume over seeds: not compared, a row's seeds are all equal" in text
    with pytest.raises(MoaError, match="moc has seed 2 of this base in another archive, too; --across"):
        compare([one, again], row="moc", against="linear", how=How(across=True))
    with pytest.raises(MoaError, match="--across pools the differences of two rows; name them"):
        compare([one, other], how=How(across=True))
    with pytest.raises(MoaError, match="measured on different settings .*; compare runs of one base"):
        compare([one], [other], row="moc")


def test_a_later_archive_replaces_a_rows_seed_whole(tmp_path: Path) -> None:
    """Seed 1 is measured again, without a KL: the earlier KL, of another policy, does not stand beside it."""
    first = archive.read(write(tmp_path / "1", {"moc": {1: 0.5, 2: 0.6}}, kl={"moc": {1: 0.1, 2: 0.2}}))
    later = archive.read(write(tmp_path / "2", {"moc": {1: 0.9}}))
    found = measure([first, later])
    assert sorted(found.of("moc", "hypervolume").values()) == [0.6, 0.9]
    assert list(found.of("moc", "kl").values()) == [0.2]


def trained_on(divisions: int, **preferences: Any) -> schema.Experiment:
    """Objectives b, a, in this order, told as bars."""
    return schema.parse(
        {
            "task": "t",
            "run": {"methods": ["moc"], "seeds": [0]},
            "data": {"source": "embedded"},
            "model": {"source": "scratch", "scratch": {}, "sft": {}},
            "conditioning": {"format": "bars"},
            "objectives": {"b": {"reward": "vader"}, "a": {"reward": "short"}},
            "rewards": {"vader": {"kind": "vader"}, "short": {"kind": "conciseness"}},
            "preferences": {"training": {"divisions": divisions}, **preferences},
        }
    )


def test_a_preference_that_reads_like_a_training_one_is_left_out(tmp_path: Path) -> None:
    """On fifths, bars show 0.05 as 0 and 0.42 as 4 tenths, which training showed; 1, 3 and 7 tenths are new.

    Their hypervolume against 0: 0.5 * 0.9 + 0.3 * 0.5 + 0.2 * 0.2 = 0.64, and both objectives rise with their weight.
    The KL is the training's, whatever is asked.
    """
    one = archive.read(write(tmp_path / "1", {"moc": {3: 0.9}}, kl={"moc": {3: 0.4}}))
    found = measure([one], reader=unseen_by(trained_on(5)))
    values = {(metric, objective): by_run for (_, metric, objective), by_run in found.values.items()}
    at = ("x", 3)
    assert values == {
        ("hypervolume", "all"): {at: pytest.approx(0.64)},
        ("tau", "all"): {at: 1.0},
        ("tau", "b"): {at: 1.0},
        ("tau", "a"): {at: 1.0},
        ("kl", "all"): {at: 0.4},
    }
    assert found.points == {"moc": 3}


def test_the_hypervolume_of_unseen_preferences_is_above_the_declared_reference_point(tmp_path: Path) -> None:
    """Raw 2 of 0 to 10 is 0.2 on either scale: (0.5 - 0.2) (0.9 - 0.2) + (0.8 - 0.5) (0.5 - 0.2) = 0.21 + 0.09."""
    path = write(tmp_path / "1", {"moc": {3: 0.9}}) / "normaliser.parquet"
    rows = tables.read(tables.NORMALISER, path).to_pylist()
    tables.write(tables.NORMALISER, [{**r, "reference_point": 2.0} for r in rows], path)
    found = measure([archive.read(path.parent)], reader=unseen_by(trained_on(5)))
    assert found.values["moc", "hypervolume", "all"] == {("x", 3): pytest.approx(0.30)}


def test_too_few_new_preferences_and_other_objectives_are_named(tmp_path: Path) -> None:
    one = archive.read(write(tmp_path / "1", {"moc": {3: 0.9}}))
    with pytest.raises(MoaError, match="0 preferences whose text training did not show; evaluate on at least 3"):
        measure([one], reader=unseen_by(trained_on(10)))
    with pytest.raises(MoaError, match="preferences.dirichlet: training draws preferences anew"):
        unseen_by(trained_on(5, dirichlet=1.0))
    other = schema.parse(
        trained_on(5).model_dump() | {"objectives": {"c": {"reward": "vader"}, "a": {"reward": "short"}}}
    )
    with pytest.raises(MoaError, match="its objectives are not the experiment's, c, a"):
        measure([one], reader=unseen_by(other))


def moa(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "moa", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command(tmp_path: Path) -> None:
    """It reads archives; a row's name that a terminal would obey is shown as escapes."""
    one = write(tmp_path / "1", {"moc": {0: 1.0}, "\x1b[2Jx": {0: 2.0}})
    two = write(tmp_path / "2", {"moc": {1: 3.0}, "\x1b[2Jx": {1: 1.0}})
    shown = moa("compare", one, "--pool", two, "--against", "moc")
    assert shown.returncode == 0, shown.stderr
    # Differences 1 and -2: mean -0.5, half 12.7062 * 1.5 = 19.059.
    assert r"| \u001b[2Jx | 1.500 ± 6.353 | - | -0.500 (-19.559 to +18.559) |" in shown.stdout
    assert "\x1b" not in shown.stdout
    refused = moa("compare", one, "--keep", tmp_path / "3")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "is an archive already; give the database of a run" in refused.stderr
