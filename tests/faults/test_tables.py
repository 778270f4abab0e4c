"""The one reader and the one writer: whatever is wrong is refused with file, table and column.

Nothing torn is ever seen.
"""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.errors import MoaError
from moa.store import files, tables

ROOT = Path(__file__).parent.parent.parent


def value(column, i):
    kind = column.type
    if pa.types.is_list(kind):
        return ["a", "b"] if kind.value_type == tables.STRING else [0.25, 0.75]
    return {tables.STRING: f"x{i}", tables.INT: i, tables.FLOAT: i + 0.5, tables.SCORE: i + 0.5, tables.BOOL: bool(i)}[
        kind
    ]


def rows(table, count=3):
    return [{name: value(column, i) for name, column in table.columns.items()} for i in range(count)]


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
    plain = path.with_name("plain")
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode, "readable by whom the user's umask allows"


@pytest.mark.parametrize("table", tables.ALL, ids=lambda t: t.name)
def test_nulls_where_they_mean_something(table, path):
    allowed = [name for name, column in table.columns.items() if column.null]
    given = [{**row, **dict.fromkeys(allowed)} for row in rows(table)]
    tables.write(table, given, path)
    assert tables.read(table, path).to_pylist() == given


def refused_both_ways(table, broken, path, message):
    """The writer refuses `broken` and leaves nothing; the reader refuses a file that another program wrote with it."""
    with pytest.raises(MoaError, match=message):
        tables.write(table, broken, path)
    assert not path.exists()
    raw(table, broken.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(MoaError, match=f"{path.name}: .*{message}"):
        tables.read(table, path)
    path.unlink()


@pytest.mark.parametrize("table", tables.ALL, ids=lambda t: t.name)
def test_every_column_missing_renamed_or_retyped(table, path):
    data = tables.from_rows(table, rows(table))
    for i, name in enumerate(table.columns):
        refused_both_ways(
            table, data.drop_columns([name]), path, rf"columns of table {table.name}: missing \['{name}'\]"
        )
        renamed = data.rename_columns([f"{n}_" if n == name else n for n in data.schema.names])
        refused_both_ways(
            table, renamed, path, rf"columns of table {table.name}: missing \['{name}'\], unknown \['{name}_'\]"
        )
        for other in (pa.array([b"1"] * 3), pa.array(["1"] * 3, pa.large_string()), pa.array([1] * 3, pa.int32())):
            refused_both_ways(
                table, data.set_column(i, name, other), path, f"column {name} of table {table.name} is {other.type}"
            )
        with pytest.raises(MoaError, match=rf"table {table.name}, row 0: missing \['{name}'\], unknown \['surplus'\]"):
            tables.write(table, [{**{k: v for k, v in rows(table)[0].items() if k != name}, "surplus": 1}], path)
    refused_both_ways(table, data.select(data.schema.names[::-1]), path, f"columns of table {table.name}")


@pytest.mark.parametrize("table", tables.ALL, ids=lambda t: t.name)
def test_every_null_that_means_nothing(table, path):
    loose = pa.schema([pa.field(f.name, f.type) for f in table.schema])
    for name, column in table.columns.items():
        given = rows(table)
        given[1][name] = None
        if not column.null:
            refused_both_ways(
                table,
                pa.Table.from_pylist(given, schema=loose),
                path,
                f"column {name} of table {table.name} holds 1 nulls",
            )


@pytest.mark.parametrize("table", tables.ALL, ids=lambda t: t.name)
def test_every_number_that_is_none(table, path):
    for name, column in table.columns.items():
        for bad in (float("nan"), float("inf"), float("-inf")):
            given = rows(table)
            given[2][name] = bad
            if pa.types.is_floating(column.type):
                refused_both_ways(
                    table,
                    tables.from_rows(table, given),
                    path,
                    f"column {name} of table {table.name} is NaN or infinite, first in value 2",
                )


@pytest.mark.parametrize(
    ("bad", "message"),
    [(float("nan"), "is NaN or infinite"), (float("inf"), "is NaN or infinite"), (None, "holds nulls inside 1 lists")],
)
def test_nothing_inside_a_preference(bad, message, path):
    given = rows(tables.POINTS)
    given[1]["preference"] = [bad, 1.0]
    with pytest.raises(MoaError, match=f"column preference of table points {message}"):
        tables.write(tables.POINTS, given, path)


@pytest.mark.parametrize("table", tables.ALL, ids=lambda t: t.name)
def test_two_rows_with_one_key(table, path):
    given = rows(table)
    given.append({**given[0], **{k: v for k, v in given[1].items() if k not in table.key}})
    with pytest.raises(MoaError, match=f"table {table.name} has rows with the same {', '.join(table.key)}"):
        tables.write(table, given, path)


@pytest.mark.parametrize("preference", [[0.5, 0.6], [1.5, -0.5], [0.0, 0.0], [], [0.2, 0.2], [float(2**60), 1.0]])
@pytest.mark.parametrize(
    "table", [tables.GENERATIONS, tables.REFERENCE_RESPONSES, tables.POINTS, tables.QUALITY], ids=lambda t: t.name
)
def test_a_preference_off_the_simplex(table, preference, path):
    given = rows(table)
    given[1]["preference"] = preference
    with pytest.raises(MoaError, match=r"table.parquet: preference \[.*\] is off the simplex"):
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
        with pytest.raises(
            MoaError, match=f"{path.name}: not a readable Parquet file .*; delete it and run snakemake again"
        ):
            tables.read(tables.PROMPTS, path)
    for foreign in (b"task,prompt_id\n", b"PAR1" * 50, os.urandom(500)):
        path.write_bytes(foreign)
        with pytest.raises(MoaError, match="not a readable Parquet file"):
            tables.read(tables.PROMPTS, path)
    raw(tables.PROMPTS, pa.table({"a": [1]}), path)
    with pytest.raises(MoaError, match="holds table 'none', expected 'prompts'"):
        tables.read(tables.PROMPTS, path)
    old = tables.from_rows(tables.PROMPTS, rows(tables.PROMPTS)).replace_schema_metadata(
        {"moa.table": "prompts", "moa.version": "0"}
    )
    raw(tables.PROMPTS, old, path)
    with pytest.raises(MoaError, match=f"schema version 0, this is {tables.VERSION}"):
        tables.read(tables.PROMPTS, path)


def test_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "prompts.parquet").mkdir()
    with pytest.raises(MoaError, match=r"prompts.parquet: not a readable Parquet file"):
        tables.read(tables.PROMPTS, tmp_path / "prompts.parquet")


@pytest.mark.parametrize("table", [tables.FLUENCY, tables.GENERATIONS], ids=lambda t: t.name)
def test_a_flipped_byte_is_an_error_or_changes_nothing(table, path):
    given = rows(table, 20 if table is tables.GENERATIONS else 1)
    tables.write(table, given, path)
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            assert tables.read(table, path).to_pylist() == given, position
        except MoaError as error:
            assert path.name in str(error)
            refused += 1
    assert refused > len(whole) / 7 / 4  # pages and most of the footer; statistics and descriptions are not used


def child(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_disk_full_is_a_clear_message_and_leaves_nothing(path):
    tables.write(tables.PROMPTS, rows(tables.PROMPTS), path)
    before = path.read_bytes()
    code = (
        "import os, resource, sys, pathlib\nfrom moa.store import tables\nfrom moa.job import command\ndef"
        " main(arguments):\n    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n    rows = [{'task': 't',"
        " 'prompt_id': str(i), 'split': 'train', 'prompt': os.urandom(100).hex()} for i in range(1000)]\n   "
        " tables.write(tables.PROMPTS, rows, arguments.out)\ncommand.run(main, command.parser('a stage', 'out'))\n"
    )
    with child(code, "--section", "{}", "--out", path) as process:
        _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert (
        "no space left to write" in error
        and "table.parquet" in error
        and "free some space and run the same command again" in error
    ), error
    assert "Traceback" not in error
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_kill_9_of_a_writer_leaves_no_torn_file(path):
    """Fourteen writers, each killed at another moment while it writes versions of a file over and over."""
    code = (
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from moa.store import tables\n"
        "def write(path):\n"
        "    version = 0\n"
        "    while True:\n"
        "        version += 1\n"
        "        rows = [{'task': 't', 'prompt_id': f'{version}-{i}', 'split': 'train', 'prompt': 'x' * 200} for i in"
        " range(300)]\n"
        "        tables.write(tables.PROMPTS, rows, path)\n"
        "for i in range(14):\n"
        "    path = Path(sys.argv[1]) / f'{i}.parquet'\n"
        "    pid = os.fork()\n"  # this process itself uses no Arrow, so that its copies may
        "    if not pid:\n"
        "        write(path)\n"
        "    while not path.exists():\n"
        "        time.sleep(0.001)\n"
        "    time.sleep(0.002 * i)\n"
        "    os.kill(pid, signal.SIGKILL)\n"
        "    os.waitpid(pid, 0)\n"
    )
    path.parent.mkdir()
    with child(code, path.parent) as process:
        _, error = process.communicate(timeout=100)
    assert process.returncode == 0, error
    left = [p for p in path.parent.iterdir() if p.suffix == ".tmp"]
    versions = set()
    for i in range(14):
        found = tables.read(tables.PROMPTS, path.parent / f"{i}.parquet")
        version = {name.partition("-")[0] for name in found["prompt_id"].to_pylist()}
        assert found.num_rows == 300 and len(version) == 1, i
        versions |= version
        tables.write(tables.PROMPTS, [], path.parent / f"{i}.parquet")
    assert left and len(versions) > 1, "some were killed in the middle, and not all in their first version"
    assert not [p for p in path.parent.iterdir() if p.suffix == ".tmp"], "the next writer removes what the killed left"


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
    files.atomically(path, lambda temporary: temporary.write_text("first"))

    def fails(temporary):
        temporary.write_text("half")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        files.atomically(path, fails)
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_reader_keeps_the_old_file_while_the_new_one_takes_its_place(path):
    tables.write(tables.PROMPTS, rows(tables.PROMPTS, 2), path)
    before = path.read_bytes()
    with path.open("rb") as reader:
        tables.write(tables.PROMPTS, rows(tables.PROMPTS, 5), path)
        assert reader.read() == before
    assert tables.read(tables.PROMPTS, path).num_rows == 5


def test_equal_tables_are_equal_bytes(tmp_path):
    for name in ("1", "2"):
        tables.write(tables.QUALITY, rows(tables.QUALITY, 50), tmp_path / name)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
