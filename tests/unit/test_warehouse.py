"""Building the database, and the provenance row that it is built from.

Files are checked, and an old file is replaced whole or kept.
"""

import json
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from moa.docs import tables as page
from moa.errors import MoaError
from moa.stages import manifest, warehouse
from moa.store import logic, provenance, tables
from tests import synthetic
from tests.synthetic import ask

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return synthetic.build(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def tree(pristine, tmp_path):
    """A tree of one seed that the test may spoil."""
    folder = shutil.copytree(pristine, tmp_path / synthetic.TASK)
    return synthetic.World(tmp_path, ("sentiment", "conciseness"), (0,)), folder


def test_the_tree_can_be_moved(tree):
    world, folder = tree
    moved = world.root / "elsewhere" / "it's here"
    moved.parent.mkdir()
    folder.rename(moved)
    warehouse.build([moved / "run.parquet"], world.root / "a 'quoted' name.duckdb")
    assert ask(world.root / "a 'quoted' name.duckdb", "SELECT count(*) FROM leaderboard") == [(len(synthetic.SKILL),)]


def test_building_again_replaces_and_leaves_nothing_else(tree):
    world, folder = tree
    out = world.root / "results.duckdb"
    for _ in range(2):
        warehouse.build([folder / "run.parquet"], out)
        assert ask(out, "SELECT count(*) FROM runs") == [(1,)]
    assert sorted(p.name for p in world.root.iterdir()) == ["results.duckdb", "synthetic"]


def empty_database(out):
    duckdb.connect(str(out)).close()


def orphan_score(world, folder):
    path = folder / "scores/moc/s0.parquet"
    rows = tables.read(tables.SCORES, path).to_pylist()
    tables.write(tables.SCORES, [{**r, "sample": 9} if i == 0 else r for i, r in enumerate(rows)], path)
    return (
        r"table scores: 1 keys without a row in table generations, first task, method, seed, point, prompt_id, sample ="
        r" synthetic, moc, 0, .*, 9"
    )


def missing_generations(world, folder):
    (folder / "generations/moc/s0.parquet").unlink()
    return r"table scores: 60 keys without a row in table generations"


def overlapping_files(world, folder):
    path = folder / "costs/train/moc/policy/s0.parquet"
    (folder / "costs/train/moc/again.parquet").write_bytes(path.read_bytes())
    return (
        r"table costs: two rows with task, stage, method, seed, job = synthetic, train, moc, 0, policy; two of its"
        r" files overlap"
    )


def unknown_table(world, folder):
    path = folder / "scores/moc/s0.parquet"
    data = pq.read_table(path)
    pq.write_table(data.replace_schema_metadata({"moa.table": "skores", "moa.version": "1"}), path)
    return r"moc/s0.parquet: holds table 'skores', which moa/store/tables.py does not know"


def truncated(world, folder):
    path = folder / "scores/moc/s0.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    return r"moc/s0.parquet: not a readable Parquet file"


def other_task(world, folder):
    path = folder / "fluency.parquet"
    rows = tables.read(tables.FLUENCY, path).to_pylist()
    tables.write(tables.FLUENCY, [{**r, "task": "imdb"} for r in rows], path)
    return r"fluency.parquet: holds rows of task 'imdb', expected 'synthetic'"


def foreign_prompt(world, folder):
    path = folder / "prompts.parquet"
    rows = tables.read(tables.PROMPTS, path).to_pylist()
    tables.write(tables.PROMPTS, rows[:-1], path)
    return r"table generations: 1 keys without a row in table prompts, first task, prompt_id = synthetic, "


@pytest.mark.parametrize(
    "damage",
    [orphan_score, missing_generations, overlapping_files, unknown_table, truncated, other_task, foreign_prompt],
)
def test_inconsistent_files(tree, damage):
    world, folder = tree
    message = damage(world, folder)
    synthetic.describe(world)
    out = world.root / "results.duckdb"
    empty_database(out)
    before = out.read_bytes()
    with pytest.raises(MoaError, match=message):
        warehouse.build([folder / "run.parquet"], out)
    assert out.read_bytes() == before
    assert sorted(p.name for p in world.root.iterdir()) == ["results.duckdb", "synthetic"]


def test_changed_missing_and_twice(tree):
    world, folder = tree
    run = folder / "run.parquet"
    with pytest.raises(MoaError, match="task 'synthetic' is in .* as well"):
        warehouse.build([run, run], world.root / "x.duckdb")
    path = folder / "fluency.parquet"
    original = path.read_bytes()
    rows = tables.read(tables.FLUENCY, path).to_pylist()
    tables.write(tables.FLUENCY, [{**r, "n": 7} for r in rows], path)
    with pytest.raises(MoaError, match=r"fluency.parquet: changed since .*run.parquet described it"):
        warehouse.build([run], world.root / "x.duckdb")
    path.unlink()
    with pytest.raises(MoaError, match=r"fluency.parquet: listed by .*run.parquet but not there"):
        warehouse.build([run], world.root / "x.duckdb")
    path.write_bytes(original)
    warehouse.build([run], world.root / "x.duckdb")
    with pytest.raises(MoaError, match="no run.parquet given"):
        warehouse.build([], world.root / "x.duckdb")


def test_another_task_that_is_broken_is_left_out_but_never_the_one_that_ran(tree, caplog):
    world, folder = tree
    broken = shutil.copytree(folder, world.root / "more" / "half") / "run.parquet"
    for row in ("moc", "pama"):  # under another name, half rerun
        (broken.parent / f"scores/{row}/s0.parquet").unlink()
    rows = tables.read(tables.RUNS, broken).to_pylist()
    tables.write(tables.RUNS, [{**rows[0], "task": "half"}], broken)
    out = world.root / "results.duckdb"
    warehouse.build([broken, folder / "run.parquet"], out, "synthetic")
    assert (
        ask(out, "SELECT DISTINCT task FROM runs") == ask(out, "SELECT DISTINCT task FROM policies") == [("synthetic",)]
    )
    assert "task 'half' is left out of the database" in caplog.text
    with pytest.raises(MoaError, match="pama/s0.parquet: listed by|holds rows of task"):
        warehouse.build([broken, folder / "run.parquet"], out, "half")
    with pytest.raises(MoaError, match="no run.parquet of task 'imdb'"):
        warehouse.build([folder / "run.parquet"], out, "imdb")


def test_disk_full_ends_in_a_clear_message_and_keeps_the_old_file(tree):
    world, folder = tree
    out = world.root / "results.duckdb"
    empty_database(out)
    before = out.read_bytes()
    code = (
        "import resource, sys, pathlib\n"
        "from moa.errors import MoaError\n"
        "from moa.stages import warehouse\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "try: warehouse.build([pathlib.Path(sys.argv[1])], pathlib.Path(sys.argv[2]))\n"
        "except MoaError as error: sys.exit(f'error: {error}')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(folder / "run.parquet"), str(out)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert ran.returncode == 1 and "the database cannot be written" in ran.stderr and "free some space" in ran.stderr, (
        ran.stderr
    )
    assert "Traceback" not in ran.stderr
    assert out.read_bytes() == before
    assert sorted(p.name for p in world.root.iterdir()) == ["results.duckdb", "synthetic"]


def test_kill_9_leaves_the_old_file_and_the_next_build_cleans_up(tree):
    world, folder = tree
    out = world.root / "results.duckdb"
    warehouse.build([folder / "run.parquet"], out)
    before = out.read_bytes()
    code = (
        "import pathlib\nfrom moa.stages import warehouse\nprint('start', flush=True)\nwhile True:"
        f" warehouse.build([pathlib.Path({str(folder / 'run.parquet')!r})], pathlib.Path({str(out)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        other.stdout.readline()
        time.sleep(0.3)
        other.kill()
    assert ask(out, "SELECT count(*) FROM leaderboard") == [(len(synthetic.SKILL),)]
    assert len(before) == len(out.read_bytes())
    warehouse.build([folder / "run.parquet"], out)
    assert sorted(p.name for p in world.root.iterdir()) == ["results.duckdb", "synthetic"]


def test_the_provenance_row(tree):
    world, folder = tree
    (row,) = tables.read(tables.RUNS, folder / "run.parquet").to_pylist()
    files = json.loads(row["files"])
    assert files["prompts.parquet"] == provenance.file_hash(folder / "prompts.parquet")
    assert files["policies/moc/policy/s0"] == provenance.file_hash(folder / "policies/moc/policy/s0")
    assert not any(name.startswith(("/", "..")) for name in files)
    assert json.loads(row["config"])["task"] == "synthetic" and row["objectives"] == ["sentiment", "conciseness"]
    assert "duckdb" in json.loads(row["versions"]) and "GiB memory" in row["hardware"]
    with pytest.raises(MoaError, match="nothing.parquet: no such file or folder"):
        manifest.describe(synthetic.experiment(world), {}, [folder / "nothing.parquet"], folder)


def test_the_commands_of_manifest_and_warehouse(tree, monkeypatch):
    world, folder = tree
    files = [p for p in sorted(folder.rglob("*.parquet")) if p.name != "run.parquet"]
    (folder / "run.parquet").unlink()
    section = synthetic.experiment(world).model_dump_json()
    command(monkeypatch, "manifest", "--section", section, "--files", *files, "--out", folder / "run.parquet")
    command(
        monkeypatch,
        "warehouse",
        "--section",
        '{"task": "synthetic"}',
        "--runs",
        folder / "run.parquet",
        "--out",
        world.root / "results.duckdb",
        "--mark",
        world.root / "mark",
    )
    told = subprocess.run(["sha256sum", "--check", world.root / "mark"], capture_output=True, text=True, check=True)
    assert told.stdout == f"{world.root / 'results.duckdb'}: OK\n"
    # The methods themselves say which policies they use; the synthetic tree has the same idea of it.
    expected = sorted(
        ("synthetic", row, owner, name) for row in synthetic.SKILL for owner, name, _ in world.policies(row)
    )
    assert ask(world.root / "results.duckdb", "FROM policies ORDER BY ALL") == expected
    assert ask(world.root / "results.duckdb", "SELECT count(*) FROM leaderboard") == [(7,)]


def command(monkeypatch, stage, *arguments):
    monkeypatch.setattr(sys, "argv", [stage, *map(str, arguments)])
    monkeypatch.delitem(sys.modules, f"moa.stages.{stage}")
    runpy.run_module(f"moa.stages.{stage}", run_name="__main__")


def test_the_code_hash_covers_every_module():
    names = manifest.modules()
    for name in (
        "moa.store.tables",
        "moa.metrics.fronts",
        "moa.stages.evaluate",
        "moa.methods.pama",
        "moa.rewards.vader",
    ):
        assert name in names
    assert logic.code_hash(*names) != logic.code_hash("moa.store.tables")


def test_the_page_of_tables_is_up_to_date():
    assert list(page.FILES) == [table.name for table in tables.ALL]
    committed = (ROOT / "docs/tables.md").read_text(encoding="utf-8")
    assert committed == page.render(), "run: python -m moa.docs"
    assert (
        "| preference | DOUBLE[] | weights over the objectives in the config's order, sum 1 | the policy takes no"
        " preference |" in committed
    )
