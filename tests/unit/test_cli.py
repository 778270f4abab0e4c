"""The command line: the order of its commands, mistakes in one line, a new experiment file, Snakemake's arguments."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest
import yaml

from moa import __version__, cli
from moa.cli import running
from moa.errors import MoaError
from moa.experiment import schema
from moa.job import start
from tests import synthetic

ROOT = Path(__file__).parents[2]
COMMANDS = [
    "doctor",
    "init",
    "check",
    "run",
    "convert",
    "respond",
    "chat",
    "export",
    "leaderboard",
    "summary",
    "figure",
    "compare",
    "sql",
    "unlock",
]


@dataclass
class Ended:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def moa(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run the command in this process: what it imports is imported already."""

    def run(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["moa", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown, code = capsys.readouterr(), ended.value.code
        if isinstance(code, str):  # the interpreter would print it and leave with 1
            return Ended(1, shown.out, f"{shown.err}{code}\n")
        return Ended(code or 0, shown.out, shown.err)

    return run


def test_the_commands_stand_in_the_order_in_which_a_user_meets_them() -> None:
    """One line each; without a command the same help. In a process of its own, as it is called."""
    command = [sys.executable, "-m", "moa"]
    environment = {**os.environ, "COLUMNS": "80"}
    shown, alone = (
        subprocess.run([*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        for options in (["--help"], [])
    )
    lines = re.findall(r"^│ ([a-z]+) {2,}\S.*│$", shown.stdout, re.MULTILINE)
    assert (
        lines == COMMANDS == [command.callback.__name__ for command in cli.app.registered_commands if command.callback]
    )
    section = shown.stdout.partition("Commands")[2]
    assert sum(line.startswith("│") for line in section.splitlines()) == len(COMMANDS)
    assert alone.stdout.strip() == shown.stdout.strip()


def test_the_version(moa: Callable[..., Ended]) -> None:
    shown = moa("--version")
    assert (shown.returncode, shown.stdout) == (0, f"moa {__version__}\n")
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compar",), "No such command 'compar'. Did you mean 'compare'?"),
        (("summary", "--databse", "x"), "No such option: --databse"),
        (("respond", "hello"), "Missing option '--policy'"),
        (("run",), "Missing argument 'experiment'"),
        (("run", "-n"), "-n: name the experiment file first, then Snakemake's arguments: moa run mine.yaml -n"),
        (("run", "nothing.yaml"), "nothing.yaml: no such experiment file; `moa init nothing.yaml` writes one"),
        (("check", "nothing.yaml"), "nothing.yaml: no such experiment file"),
        (("summary", "--database", "nothing.duckdb"), "nothing.duckdb: no such database; run snakemake first"),
        (("compare", "nothing"), "nothing: no such archive or database"),
        (("init", "a b.yaml"), "a b.yaml: the name becomes the task's: letters, digits and _, then .yaml"),
        (("init", "--from", "imbd"), "--from imbd: no such experiment. Did you mean 'imdb'?"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moa: Callable[..., Ended],
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = moa(*arguments)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert refused.stderr.startswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []


def test_what_a_terminal_would_obey_is_shown_as_escapes(tmp_path: Path, moa: Callable[..., Ended]) -> None:
    """A database may come from anywhere, names of its tasks and rows with it."""
    database = synthetic.warehouse(tmp_path)
    with duckdb.connect(str(database)) as connection:
        for table in ("runs", "leaderboard", "metrics", "costs"):
            connection.execute(f"UPDATE {table} SET task = task || chr(27) || '[2J[bold]'")
        connection.execute("UPDATE leaderboard SET method = method || chr(27) || '[31m'")
    for command in ("leaderboard", "summary"):
        shown = moa(command, "--database", database)
        assert shown.returncode == 0, shown.stderr
        assert "\x1b" not in shown.stdout
        assert r"synthetic\u001b[2J[bold]" in shown.stdout and r"moc\u001b[31m" in shown.stdout
    refused = moa("summary", "other", "--database", database)
    assert r"Known: synthetic\u001b[2J[bold]." in refused.stderr and "\x1b" not in refused.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.warehouse(tmp_path_factory.mktemp("results"), ("sentiment", "conciseness"), seeds=(0,))


BROKEN = [
    ("sql", "FROM scores"),
    ("sql", "--format", "csv", "FROM scores"),
    ("sql", "--format", "json", "FROM scores"),
    ("leaderboard",),
    ("summary",),
]


@pytest.mark.parametrize("arguments", BROKEN, ids=" ".join)
def test_output_that_cannot_be_written(
    arguments: tuple[str, ...], results: Path, monkeypatch: pytest.MonkeyPatch, moa: Callable[..., Ended]
) -> None:
    """A full disk is one line; a reader that has gone, and a stream that the shell closed, are none."""
    given = (*arguments[:1], "--database", results, *arguments[1:])
    gone, writable = os.pipe()
    os.close(gone)
    full = "error: the output: No space left on device; see that it may be written, and has space\n"
    for stream, said in ((open("/dev/full", "w"), full), (os.fdopen(writable, "w"), "")):  # noqa: SIM115
        monkeypatch.setattr(sys, "stdout", stream)
        ended = moa(*given)
        assert (ended.returncode, ended.stderr) == (1, said)
        with contextlib.suppress(BrokenPipeError):  # which typer hides from the interpreter's end
            stream.close()
    monkeypatch.setattr(sys, "stdout", None)
    assert moa(*given).returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_command_prints_in_every_encoding(
    encoding: str, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moa: Callable[..., Ended]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    database = shutil.copy(results, "results")
    with duckdb.connect(str(database)) as connection:
        for table in ("runs", "leaderboard", "metrics", "costs"):
            connection.execute(f"UPDATE {table} SET task = 'caf\u00e9 \u6f22\u202e'")
    start.init(Path("mine.yaml"))
    seen = {"ascii": r"caf\xe9 \u6f22\u202e", "latin-1": r"caf\u00e9 \u6f22\u202e".replace(r"\u00e9", "\u00e9")}
    named = seen.get(encoding, "caf\u00e9 \u6f22" + r"\u202e")
    for arguments, holds in (
        (("sql", "FROM runs"), named),
        (("leaderboard",), named),
        (("summary",), named),
        (("--help",), "Commands"),
        (("check", "mine.yaml"), "task 'mine'"),
        (("init", "yours.yaml"), "yours.yaml written"),
        (("unlock",), "nothing to unlock"),
        (("--version",), __version__),
    ):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        ended = moa(*arguments)
        stream.flush()
        assert ended.returncode == 0, ended.stderr
        assert holds in stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def test_an_argument_that_is_no_text(tmp_path: Path, moa: Callable[..., Ended]) -> None:
    """A byte that is not UTF-8 reaches Python as a lone surrogate."""
    for arguments in (("sql", "SELECT '\udcff'"), ("check", "caf\udce9.yaml"), ("respond", "--policy", "x", "\udcff")):
        refused = moa(*arguments)
        assert refused.returncode == 1 and "not UTF-8; give text and names of files in UTF-8" in refused.stderr
        assert r"\udc" in refused.stderr and refused.stderr.count("\n") == 1


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, moa: Callable[..., Ended]) -> None:
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt  # the signal itself is ignored in the background of a shell

    monkeypatch.setattr(running, "_describe", interrupted)
    ended = moa("check", "x.yaml")
    assert (ended.returncode, ended.stderr) == (130, "error: interrupted\n")


def test_a_figure_of_the_only_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moa: Callable[..., Ended]) -> None:
    database = synthetic.warehouse(tmp_path)
    monkeypatch.chdir(tmp_path)
    shown = moa("figure", "--database", database)
    assert (shown.returncode, shown.stdout) == (0, "synthetic.svg written\n"), shown.stderr
    assert "<svg" in (tmp_path / "synthetic.svg").read_text(encoding="utf-8")
    refused = moa("figure", "--database", database, "--out", tmp_path / "results.duckdb" / "x.svg")
    assert "results.duckdb/x.svg: cannot be written (File exists); name another file with --out" in refused.stderr
    assert "give a name that ends in .svg" in moa("figure", "--database", database, "--out", "x.png").stderr


@pytest.mark.parametrize("source", sorted(start.experiments()))
def test_a_new_experiment_is_the_old_one_under_its_own_name(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start.init(Path("mine.yaml"), source)
    made, original = Path("mine.yaml").read_text(encoding="utf-8"), start.experiments()[source]
    lines = zip(made.splitlines(), original.read_text(encoding="utf-8").splitlines(), strict=True)
    assert [new.split("#")[0].strip() for new, old in lines if new != old] == ["task: mine"]
    assert schema.load(Path("mine.yaml")).task == "mine"


def test_every_key_of_a_new_experiment_is_explained_or_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every section of the default begins with a comment, or holds one."""
    monkeypatch.chdir(tmp_path)
    start.init(Path("mine.yaml"))
    text = Path("mine.yaml").read_text(encoding="utf-8")
    sections = re.split(r"(?m)^(?=\w+:)", text)[1:]
    names = [re.match(r"\w+", section).group() for section in sections]  # type: ignore[union-attr]
    assert names == list(yaml.safe_load(text))
    assert [section.split(":")[0] for section in sections if "#" not in section] == []


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("precious")
    with pytest.raises(MoaError, match="mine.yaml: exists already and is kept; give another name"):
        start.init(path)
    assert path.read_text() == "precious"
    with pytest.raises(MoaError, match="cannot be written .*; name a file in a folder that exists"):
        start.init(tmp_path / "nothing" / "mine.yaml")


def test_snakemakes_arguments_are_passed_on() -> None:
    """A target after the experiment is none of its files: --configfile takes several."""
    found = start.command(Path("mine.yaml"), ["train", "--cores", "1"])
    assert found[:3] == [sys.executable, "-m", "snakemake"]
    assert found[3:] == [
        *("--snakefile", str(ROOT / "Snakefile")),
        *("--configfile", "mine.yaml", "--cores", "all"),
        *("train", "--cores", "1"),
    ]
    for given in (["--configfile", "other.yaml"], ["-n", "--configfile=other.yaml"]):
        assert "mine.yaml" not in start.command(Path("mine.yaml"), given)


@pytest.mark.parametrize(
    ("arguments", "plan"),
    [("-n", 1), ("-np", 1), ("-pn", 1), ("-p", 0), ("--dry-run", 1), ("--nolock", 0), ("train", 0)],
)
def test_a_dry_run_is_told_from_a_run(arguments: str, plan: int) -> None:
    assert start.plans_only([arguments]) == bool(plan)
