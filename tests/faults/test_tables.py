"""The one reader and the one writer: whatever is wrong is refused with file, table and column; nothing torn is ever seen."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa import tables
from moa.errors import MoaError

ROOT = Path(__file__).parent.parent.parent
VALUES = {"VARCHAR": "x", "BIGINT": 1, "DOUBLE": 0.5, "FLOAT": 0.5, "BOOLEAN": True}


def value(column, i):
    kind = column.type
    if pa.types.is_list(kind):
        return ["a", "b"] if kind.value_type == tables.STRING else [0.25, 0.75]
    return {tables.STRING: f"x{i}", tables.INT: i, tables.FLOAT: i + 0.5, tables.SCORE: i + 0.5, tables.BOOL: bool(i)}[kind]


def rows(table, count=3):
    return [{name: value(column, i) for name, column in table.columns.items()} for i in range(count)]


def columns(*, where):
    return [pytest.param(table, name, id=f"{table.name}-{name}") for table in tables.ALL for name, column in table.columns.items() if where(column)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "table.parquet"


def raw(table, data, path):
    """Write past the checks, as a foreign or broken program would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(data, path)
    return path


@pytest.mark.parametrize("table", tables.ALL, ids=lambda t: t.name)
def test_what_is_written_is_what_is_read(table, path):
    given = rows(table)
    tables.write(table, given, path)
    assert tables.read(table, path).to_pylist() == given
    assert tables.read(table, path).schema.metadata[b"moa.table"].decode() == table.name
    tables.write(table, [], path)
    assert tables.read(table, path).num_rows == 0
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o022) or 0o022) or path.stat().st_mode & 0o444


@pytest.mark.parametrize("table", tables.ALL, ids=lambda t: t.name)
def test_nulls_where_they_mean_something(table, path):
    allowed = [name for name, column in table.columns.items() if column.null]
    given = [{**row, **dict.fromkeys(allowed)} for row in rows(table)]
    tables.write(table, given, path)
    assert tables.read(table, path).to_pylist() == given


@pytest.mark.parametrize(("table", "name"), columns(where=lambda c: True))
def test_a_column_that_is_missing_or_renamed_or_retyped(table, name, path):
    data = tables.from_rows(table, rows(table))
    position = data.schema.get_field_index(name)
    other = pa.array([b"x"] * 3)
    for broken in (
        data.drop_columns([name]),
        data.rename_columns([f"{n}_" if n == name else n for n in data.schema.names]),
        data.set_column(position, name, other),
    ):
        with pytest.raises(MoaError, match=f"table {table.name}.*{name}|{name}.*table {table.name}"):
            tables.write(table, broken, path)
        assert not path.exists()
        raw(table, broken.replace_schema_metadata(table.schema.metadata), path)
        with pytest.raises(MoaError, match=f"(?s){path.name}.*{name}"):
            tables.read(table, path)
        path.unlink()
    for row in ({k: v for k, v in rows(table)[0].items() if k != name}, {**rows(table)[0], "surplus": 1}):
        with pytest.raises(MoaError, match=f"table {table.name}, row 0: missing .*{name if 'surplus' not in row else 'surplus'}"):
            tables.write(table, [row], path)


@pytest.mark.parametrize(("table", "name"), columns(where=lambda c: not c.null))
def test_a_null_that_means_nothing(table, name, path):
    given = rows(table)
    given[1][name] = None
    with pytest.raises(MoaError, match=f"column {name} of table {table.name} holds 1 nulls"):
        tables.write(table, given, path)
    loose = pa.schema([pa.field(f.name, f.type) for f in table.schema], metadata=table.schema.metadata)
    raw(table, pa.Table.from_pylist(given, schema=loose), path)
    with pytest.raises(MoaError, match=f"{path.name}: column {name} of table {table.name} holds 1 nulls"):
        tables.read(table, path)


def numeric(column):
    return pa.types.is_floating(column.type)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("table", "name"), columns(where=numeric))
def test_a_number_that_is_none(table, name, bad, path):
    given = rows(table)
    given[2][name] = bad
    with pytest.raises(MoaError, match=f"column {name} of table {table.name} is NaN or infinite in row 2"):
        tables.write(table, given, path)
    assert not path.exists()


def test_nan_inside_a_preference(path):
    given = rows(tables.POINTS)
    given[1]["preference"] = [float("nan"), 1.0]
    with pytest.raises(MoaError, match="column preference of table points is NaN or infinite"):
        tables.write(tables.POINTS, given, path)


@pytest.mark.parametrize("table", tables.ALL, ids=lambda t: t.name)
def test_two_rows_with_one_key(table, path):
    given = rows(table)
    given.append({**given[0], **{k: v for k, v in given[1].items() if k not in table.key}})
    with pytest.raises(MoaError, match=f"table {table.name} has rows with the same {', '.join(table.key)}"):
        tables.write(table, given, path)


@pytest.mark.parametrize("preference", [[0.5, 0.6], [1.5, -0.5], [0.0, 0.0], [], [0.2, 0.2], [float(2**60), 1.0]])
@pytest.mark.parametrize("table", [tables.GENERATIONS, tables.REFERENCE_RESPONSES, tables.POINTS, tables.QUALITY], ids=lambda t: t.name)
def test_a_preference_off_the_simplex(table, preference, path):
    given = rows(table)
    given[1]["preference"] = preference
    with pytest.raises(MoaError, match=rf"table.parquet: preference \[.*\] is off the simplex"):
        tables.write(table, given, path)
    raw(table, tables.from_rows(table, given), path)
    with pytest.raises(MoaError, match="off the simplex"):
        tables.read(table, path)


def test_preferences_of_any_length_and_within_rounding(path):
    given = rows(tables.POINTS, 4)
    for row, preference in zip(given, ([1 / 3] * 3, [0.1] * 10, None, [0.25, 0.75 + 1e-9]), strict=True):
        row["preference"] = preference
    tables.write(tables.POINTS, given, path)
    assert tables.read(tables.POINTS, path)["preference"].to_pylist() == [row["preference"] for row in given]


def test_a_slice_of_a_table_is_checked_by_its_own_rows(path):
    """Arrow slices share buffers with the whole."""
    given = rows(tables.POINTS, 4)
    given[0]["preference"] = None
    given[1]["preference"] = [0.9, 0.9]
    whole = tables.from_rows(tables.POINTS, given)
    tables.write(tables.POINTS, whole.slice(2), path)
    with pytest.raises(MoaError, match=r"preference \[0.9, 0.9\] is off the simplex"):
        tables.write(tables.POINTS, pa.concat_tables([whole.slice(2), whole.slice(0, 2)]), path)


def test_wrong_value_for_a_column(path):
    given = rows(tables.COSTS)
    given[0]["tokens"] = "many"
    with pytest.raises(MoaError, match="table costs: "):
        tables.write(tables.COSTS, given, path)


def test_missing_foreign_truncated_and_outdated_files(path):
    with pytest.raises(MoaError, match=f"{path.name}: no such file; run the stage that makes table prompts"):
        tables.read(tables.PROMPTS, path)
    tables.write(tables.PROMPTS, rows(tables.PROMPTS, 200), path)
    with pytest.raises(MoaError, match="holds table 'prompts', expected 'texts'; delete it and run snakemake again"):
        tables.read(tables.TEXTS, path)
    whole = path.read_bytes()
    for cut in (0, 1, 4, 20, len(whole) // 2, len(whole) - 8, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(MoaError, match=f"{path.name}: not a readable Parquet file .*; delete it and run snakemake again"):
            tables.read(tables.PROMPTS, path)
    for foreign in (b"task,prompt_id\n", b"PAR1" * 50, os.urandom(500)):
        path.write_bytes(foreign)
        with pytest.raises(MoaError, match="not a readable Parquet file"):
            tables.read(tables.PROMPTS, path)
    raw(tables.PROMPTS, pa.table({"a": [1]}), path)
    with pytest.raises(MoaError, match="holds table 'none', expected 'prompts'"):
        tables.read(tables.PROMPTS, path)
    old = tables.from_rows(tables.PROMPTS, rows(tables.PROMPTS)).replace_schema_metadata({"moa.table": "prompts", "moa.version": "0"})
    raw(tables.PROMPTS, old, path)
    with pytest.raises(MoaError, match="schema version '?0'?, this is 1"):
        tables.read(tables.PROMPTS, path)


def test_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "prompts.parquet").mkdir()
    with pytest.raises(MoaError, match=r"prompts.parquet: not a readable Parquet file"):
        tables.read(tables.PROMPTS, tmp_path / "prompts.parquet")


def test_flipped_bytes_never_pass_as_other_values(path):
    """Parquet has no checksum here: a flipped byte is an error, or harmless, or changes a value. The manifest's sha256 catches the last."""
    tables.write(tables.FLUENCY, [{"task": "t", "low": 0.5, "high": 4.0, "median": 2.0, "n": 6}], path)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            tables.read(tables.FLUENCY, path)
        except MoaError:
            continue


def child(code, *arguments, **options):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_disk_full_is_a_clear_message_and_leaves_nothing(path):
    tables.write(tables.PROMPTS, rows(tables.PROMPTS), path)
    before = path.read_bytes()
    code = (
        "import os, resource, sys, pathlib\n"
        "from moa import tables\n"
        "from moa.stages import common\n"
        "def main(arguments):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "    rows = [{'task': 't', 'prompt_id': str(i), 'split': 'train', 'prompt': os.urandom(100).hex()} for i in range(1000)]\n"
        "    tables.write(tables.PROMPTS, rows, arguments.out)\n"
        "common.run(main, common.parser('a stage', 'out'))\n"
    )
    with child(code, "--section", "{}", "--out", path) as process:
        _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no space left to write" in error and "table.parquet" in error and "free some space and run the same command again" in error, error
    assert "Traceback" not in error
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_kill_9_of_a_writer_leaves_no_torn_file(path):
    """Twenty writers, each killed at another moment while it writes versions of a file over and over."""
    code = (
        "import sys, pathlib\n"
        "from moa import tables\n"
        "print('start', flush=True)\n"
        "version = 0\n"
        "while True:\n"
        "    version += 1\n"
        "    rows = [{'task': 't', 'prompt_id': f'{version}-{i}', 'split': 'train', 'prompt': 'x' * 200} for i in range(300)]\n"
        "    tables.write(tables.PROMPTS, rows, pathlib.Path(sys.argv[1]))\n"
    )
    path.parent.mkdir()
    processes = [child(code, path.parent / f"{i}.parquet") for i in range(20)]
    try:
        for process in processes:
            process.stdout.readline()
        for i, process in enumerate(processes):
            time.sleep(0.003 * i)
            process.send_signal(signal.SIGKILL)
    finally:
        for process in processes:
            process.kill()
            print(process.communicate())
    print([p.name for p in path.parent.iterdir()], [p.stderr for p in processes][:2])
    written = sorted(path.parent.glob("[0-9]*.parquet"))
    assert len(written) > 10
    for file in written:
        found = tables.read(tables.PROMPTS, file)
        assert found.num_rows == 300 and len({i.partition("-")[0] for i in found["prompt_id"].to_pylist()}) == 1, file
    for i in range(20):
        tables.write(tables.PROMPTS, [], path.parent / f"{i}.parquet")
    assert sorted(p.name for p in path.parent.iterdir()) == sorted(f"{i}.parquet" for i in range(20)), "temporary files of the killed are gone"


def test_the_temporary_file_of_a_living_writer_is_left_alone(path):
    path.parent.mkdir()
    living = path.with_name(f".{path.name}.{os.getppid()}.tmp")
    other = path.with_name(f".other.parquet.{2**22 + 1}.tmp")
    dead = path.with_name(f".{path.name}.{2**22 + 1}.tmp")  # above the greatest process id
    for file in (living, other, dead):
        file.write_text("x")
    tables.write(tables.PROMPTS, [], path)
    assert living.exists() and other.exists() and not dead.exists()


def test_a_failing_writer_leaves_what_was_there(path):
    tables.atomically(path, lambda temporary: temporary.write_text("first"))

    def fails(temporary):
        temporary.write_text("half")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        tables.atomically(path, fails)
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_equal_tables_are_equal_bytes(tmp_path):
    for name in ("1", "2"):
        tables.write(tables.QUALITY, rows(tables.QUALITY, 50), tmp_path / name)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
