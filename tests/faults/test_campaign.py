"""The fault campaign in small: what it counts as survived, and a few trials of its quick kinds."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.faults import compare, damage, damaged, hostile_experiments, kills, page, rewards, statements, world
from benchmarks.faults.trial import End, Place, Trial, Verdict, outcome, row
from moa.store import tables
from tests import synthetic
from tests.workflow import snake

ROOT = snake.ROOT


def ended(output: str, status: int = 1, hung: bool = False) -> End:
    return End(status, output, 100.0, 1.0, hung)


@pytest.mark.parametrize(
    ("end", "different", "survived", "said"),
    [
        (ended("12:00:00 reading\nerror: x.parquet: cut off; make it again\n"), None, True, "refused"),
        (ended("error: something is wrong\n"), None, False, "does not name x.parquet"),
        (ended("error: x.parquet: cut\nand more\nof it\n"), None, False, "3 lines"),
        (ended("Traceback (most recent call last):\nKeyError: 'x.parquet'\n"), None, False, "a trace"),
        (ended("x.parquet cannot be read\n"), None, False, "no line that begins with 'error: '"),
        (ended("", -11), None, False, "signal 11"),
        (ended("error: x.parquet: slow", hung=True), None, False, "hung"),
        (ended("done", 0), [], True, "recovered"),
        (ended("done", 0), ["scores.parquet: columns score"], False, "wrong results, status 0"),
        (ended("Traceback (most recent call last):\nin a thread\n", 0), [], False, "a trace"),
    ],
)
def test_what_survives(end: End, different: list[str] | None, survived: bool, said: str) -> None:
    verdict = outcome(end, ("x.parquet",), different)
    assert verdict.survived is survived
    assert said in f"{verdict.outcome} {verdict.said}"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every table of one task, a database, and a model; no test changes them."""
    folder = tmp_path_factory.mktemp("results")
    synthetic.warehouse(folder, ("sentiment", "conciseness"), seeds=(0,))
    save_file({"a": np.arange(4.0), "b": np.ones((2, 2))}, folder / "model.safetensors")
    (folder / "a.json").write_text(json.dumps({"a": 1, "b": [2]}))
    return folder


@pytest.fixture
def two(results: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The same results twice."""
    return results, Path(shutil.copytree(results, tmp_path / "tried"))


def change(path: Path, column: str, value: object) -> None:
    """Give the first row of a table another value."""
    found = pq.read_table(path)
    rows = found.to_pylist()
    rows[0][column] = value
    name = found.schema.metadata[b"moa.table"].decode()
    tables.write(next(t for t in tables.ALL if t.name == name), rows, path)


def test_equal_results_are_equal(two: tuple[Path, Path]) -> None:
    assert compare.differences(*two) == []


def test_only_what_a_clock_measured_may_differ(two: tuple[Path, Path]) -> None:
    costs = sorted(two[1].rglob("costs/**/*.parquet"))[0]
    change(costs, "seconds", 12345.0)
    assert compare.differences(*two) == []
    change(costs, "tokens", 12345)
    name = costs.relative_to(two[1])
    assert compare.differences(*two) == [f"{name}: columns tokens"]


def test_every_other_difference_is_named(two: tuple[Path, Path]) -> None:
    right, tried = two
    points = next(tried.rglob("points.parquet"))
    change(points, "mean", 0.125)
    tensors = load_file(tried / "model.safetensors")
    tensors["b"][0, 0] = np.nextafter(1.0, 2.0)
    save_file(tensors, tried / "model.safetensors")
    next(tried.rglob("payoff.parquet")).unlink()
    (tried / "new.json").write_text("{}")
    said = compare.differences(right, tried)
    assert len(said) == 4
    assert any(line.endswith("points.parquet: columns mean") for line in said)
    assert "model.safetensors: 1 of 2 tensors, first b" in said
    assert any(line.endswith("payoff.parquet: missing") for line in said)
    assert "new.json: surplus" in said


@pytest.mark.parametrize("ending", [".parquet", ".safetensors", ".json"])
def test_every_way_damages(ending: str, two: tuple[Path, Path]) -> None:
    sample = sorted(two[1].rglob(f"*{ending}"))[0]
    for way in damage.ways(sample.name, own=True):
        for seed in range(3):
            path = sample.with_name(f"damaged{ending}")
            shutil.copy2(sample, path)
            assert way(path, random.Random(seed)), way.__name__
            gone = not path.is_file() or path.is_symlink()
            same = not gone and path.read_bytes() == sample.read_bytes()
            # A stretch of zeros may be zeroed, a table copied over its twin: rare, and then nothing is wrong.
            assert not same or way in (damage.partly_zeroed, damage.other_table, damage.other_json), way.__name__
            path.unlink(missing_ok=True) if not path.is_dir() else path.rmdir()


def test_the_table_counts_kills_and_files(tmp_path: Path) -> None:
    """Two runs of 7 and 5 kills, of which the second failed: 12 tried, 7 survived, 12 compared, 7 equal."""
    made = [
        row(
            Trial("kill", 1, "x", "y", lambda place: good),
            0,
            good := Verdict(True, True, "as undisturbed", tried=7),
            60,
        ),
        row(Trial("kill", 2, "x", "y", lambda place: good), 0, Verdict(False, False, "differs", tried=5), 60),
        row(Trial("statement", 3, "x", "y", lambda place: good), 0, Verdict(True, None, "refused"), 1),
    ]
    (tmp_path / "page.md").write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.write(tmp_path / "page.md", made)
    text = (tmp_path / "page.md").read_text()
    assert "| kills, several in one run | 12 | 7 | 12 | 7 | kill-2 |" in text
    assert "| hostile SQL statements | 1 | 1 | 0 | 0 | nothing |" in text
    assert "Seed 0, 3 trials, 2 minutes." in text
    assert text.startswith("before\n") and text.endswith(f"{page.END}\nafter\n") and "old" not in text


def campaign(work: Path, *names: str) -> list[dict[str, object]]:
    """Run the named trials in a process of its own, which may fork; return their rows.

    Its output is a file, in which it can seek, as in the background of a shell; that of its trials is a pipe.
    """
    with (work / "printed").open("w") as printed:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.faults", "--work", str(work), "--out", str(work / "rows.parquet")]
            + ["--only", *names],
            cwd=ROOT,
            env=snake.environment(),
            stdout=printed,
            stderr=printed,
            timeout=snake.PATIENCE,
            check=False,
        )
    assert (work / "rows.parquet").exists(), (work / "printed").read_text()
    rows = pq.read_table(work / "rows.parquet").to_pylist()
    failed = [f"{r['kind']}-{r['number']} {r['what']}: {r['outcome']} {r['said']}" for r in rows if not r["survived"]]
    assert not failed
    assert done.returncode == 0, (work / "printed").read_text()
    return rows


QUICK = (  # statements that read, write, load, and print what a terminal would obey
    *("SELECT * FROM read_text('secret.txt')", "SELECT getenv('MOA_SECRET')", "FROM os"),
    *("COPY leaderboard TO 'canary.csv'", "DELETE FROM leaderboard", "SET enable_external_access = true"),
    *("SELECT 1; DROP TABLE leaderboard", "SELECT chr(27) || '[2J' || chr(27) || ']0;title' || chr(7)"),
)
HOSTILE = (
    *("a list that holds itself", "NUL bytes", "terminal codes in a key", "a kind that is a path"),
    *("a pickle", "a link to itself", "a task above the folder", "a function with a call"),
)


def test_hostile_statements_and_files(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "main" / "results")
    for name in ("printed", "finished"):  # all that these trials read is there
        (tmp_path / "main" / name).touch()
    every, files = statements.trials(world.main_world(tmp_path)), hostile_experiments.trials()
    assert len(every) >= 100 and len(files) >= 60
    chosen = [t.name for t in every if t.what in map(repr, QUICK)] + [t.name for t in files if t.what in HOSTILE]
    assert len(campaign(tmp_path, *chosen)) == len(chosen) >= len(QUICK) + len(HOSTILE)


def tiny(directory: Path, work: Path) -> world.World:
    """Make the finished tiny run the campaign's; its jobs are read from what Snakemake would do."""
    shutil.copytree(directory, work / "main", symlinks=True)
    planned = snake.snakemake(directory, "-n", "-p", "-F")
    (work / "main" / "printed").write_text(planned.stdout + planned.stderr)
    (work / "main" / "finished").touch()
    return world.main_world(work)


DAMAGED = (  # read by stages that need no torch
    *("scores/moc/s0.parquet fewer_rows", "fluency.parquet truncated", "evaluation/metrics.parquet flipped"),
    *(
        "curves/moc/policy/s0.parquet emptied",
        "costs/train/moc/policy/s0.parquet foreign",
        "run.parquet renamed_column",
    ),
)


@pytest.mark.slow
def test_damaged_files(tiny_run: snake.Run, tmp_path: Path) -> None:
    every = damaged.trials(tiny(tiny_run.directory, tmp_path))
    chosen = [t.name for t in every if any(t.what.startswith(f"results/tiny/{what},") for what in DAMAGED)]
    assert len(campaign(tmp_path, *chosen)) == len(DAMAGED)


@pytest.mark.slow
def test_a_run_that_is_killed_twice(finished: Path, tiny_run: snake.Run, tmp_path: Path) -> None:
    """Its evaluation is gone: killed as a group, then without its Snakemake, the same command makes the same bytes.

    The first kill is meant for a stage that is over: it hits a later one.
    """
    shutil.rmtree(finished / "results" / "tiny" / "evaluation")
    (tmp_path / "run").mkdir()
    shutil.copytree(tiny_run.directory, tmp_path / "whole", symlinks=True)
    (tmp_path / "whole" / "finished").touch()
    whole = world.World(tmp_path / "whole", snake.TINY, [], (), ".")
    killed = (kills.Kill("KILL group", "score", 0.5), kills.Kill("KILL snakemake", "", 0.8))
    verdict = kills.Run(whole, killed, finished)(Place(tmp_path / "run", random.Random(0)))
    assert verdict.survived, f"{verdict.said}; {verdict.differed}"
    assert verdict.equal and verdict.tried == 2
    assert os.path.samefile(kills.__file__, ROOT / "benchmarks" / "faults" / "kills.py")


def test_a_run_that_is_whole_loses_a_stage_before_it_is_killed_again(tmp_path: Path) -> None:
    """What is kept of a run's jobs says what a stage has written; a run without any loses nothing."""
    made = ("points", "quality", "metrics", "payoff")
    arguments = tuple(part for name in made for part in (f"--{name}", f"evaluation/{name}.parquet"))
    (tmp_path / "evaluation").mkdir()
    for name in (*made, "other"):
        (tmp_path / "evaluation" / f"{name}.parquet").touch()
    whole = world.World(tmp_path, "experiment.yaml", [world.Command("evaluate", arguments)])
    kill = kills.Kill("KILL group", "report", 0.5)
    assert kills.Run(whole, (kill,))._undo(kill, tmp_path)
    assert [p.name for p in (tmp_path / "evaluation").iterdir()] == ["other.parquet"]
    assert not kills.Run(world.World(tmp_path, "experiment.yaml", []), (kill,))._undo(kill, tmp_path)


def test_a_guests_own_trace_is_no_fault_but_another_is() -> None:
    """The user mends guest.py by it; one clear line must follow."""
    own = 'reward polite raised\nTraceback (most recent call last):\n  File "/x/guest.py", line 3, in act\nOSError\n'
    clear = "error: reward polite: raised OSError; correct the reward at guest.py:3\n"
    assert outcome(rewards._judged(ended(own + clear)), ("guest.py",), None).survived
    for said in (own, own + clear + own, own.replace("guest.py", "scoring.py") + clear, clear + own):
        assert not outcome(rewards._judged(ended(said)), ("guest.py",), None).survived
