"""A database that another program writes to, or that somebody else has made or damaged, is never replaced."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from moa.errors import MoaError
from moa.stages import warehouse
from tests import synthetic


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files of a run and the database that was built of them."""
    root = tmp_path_factory.mktemp("pristine")
    folder = synthetic.build(root)
    warehouse.build([folder / "run.parquet"], root / "results.duckdb")
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "results")


def build(root: Path) -> None:
    warehouse.build([root / synthetic.TASK / "run.parquet"], root / "results.duckdb")


@contextmanager
def client(database: Path, read_only: bool = False) -> Iterator[None]:
    """Hold the database open in another process."""
    code = (
        f"import duckdb, time; c = duckdb.connect({str(database)!r}, read_only={read_only});"
        f" {read_only} or c.execute('CREATE TABLE theirs AS SELECT 1');"
        " print('open', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "open\n"
            yield
        finally:
            other.kill()


WRITER = r"results.duckdb: another process has opened the database for writing; close it and run .*PID"


def test_a_reader_does_not_stop_it_and_a_writer_does(root: Path) -> None:
    with client(root / "results.duckdb", read_only=True):
        build(root)
    with client(root / "results.duckdb"), pytest.raises(MoaError, match=WRITER):
        build(root)


def test_a_writer_that_comes_while_it_builds_keeps_its_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, make = (root / "results.duckdb").read_bytes(), warehouse._build
    with ExitStack() as stack:

        def slowly(*arguments: Any) -> None:
            make(*arguments)
            stack.enter_context(client(root / "results.duckdb"))

        monkeypatch.setattr(warehouse, "_build", slowly)
        with pytest.raises(MoaError, match=WRITER):
            build(root)
    assert (root / "results.duckdb").read_bytes() == before
    assert sorted(p.name for p in root.iterdir()) == [
        "results.duckdb",
        "results.duckdb.wal",  # of the writer, which was killed
        synthetic.TASK,
    ]


def a_table(database: Path) -> str:
    with duckdb.connect(str(database)) as connection:
        connection.execute("CREATE TABLE notes AS SELECT 1 AS x; CREATE VIEW best AS FROM notes")
    return r"results.duckdb: holds 'best', 'notes', which moa did not make and a new database would not have; export it"


def no_database(database: Path) -> str:
    database.write_bytes(b"a letter to my mother")
    return r"results.duckdb: damaged, or not a database, and it is kept; move it away or delete it, and run snakemake"


def nothing_in_it(database: Path) -> str:
    database.write_bytes(b"")
    return r"results.duckdb: damaged, or not a database"


def cut(database: Path) -> str:
    database.write_bytes(database.read_bytes()[:5000])
    return r"results.duckdb: damaged, or not a database"


def a_folder(database: Path) -> str:
    database.unlink()
    (database / "inner").mkdir(parents=True)
    return r"results.duckdb: not a file, and it is kept; move it away and run snakemake again"


def left_changes(database: Path) -> str:
    """A client was killed while it wrote: what it had committed stands in a file of its own."""
    code = (
        f"import duckdb, os; c = duckdb.connect({str(database)!r}); c.execute('CREATE TABLE mine AS SELECT 1');"
        " os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    return r"results.duckdb.wal: changes of a program that was killed; open and close results.duckdb once with duckdb"


@pytest.mark.parametrize("kept", [a_table, no_database, nothing_in_it, cut, a_folder, left_changes])
def test_what_it_did_not_make_is_never_replaced(root: Path, kept: Callable[[Path], str]) -> None:
    """One line says what to do, and every byte is still there."""
    message = kept(root / "results.duckdb")
    before = {path: path.read_bytes() for path in root.glob("results*") if path.is_file()}
    with pytest.raises(MoaError, match=message) as caught:
        build(root)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in root.glob("results*") if path.is_file()} == before
    assert (root / "results.duckdb").is_dir() == (kept is a_folder)
