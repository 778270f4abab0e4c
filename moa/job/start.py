"""Begins an experiment file, and runs one: the workflow's files are in the package, or at the top of a checkout."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import moa
from moa.errors import MoaError, nearest
from moa.experiment import reader
from moa.store import terminal

PACKAGE = Path(moa.__file__).resolve().parent
BUNDLED = PACKAGE / "bundled"  # setup.py puts Snakefile, workflow, profiles, config.yaml and experiments there
RUN = "MOA_RUN"  # in the environment of what `moa run` starts
DEFAULT = "default"  # config.yaml, the embedded experiment
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
LOOKS = (
    *("--dry-run", "--dryrun", "--lint", "--unlock", "--list", "--list-rules", "--list-target-rules", "-l"),
    *("--dag", "--rulegraph", "--filegraph", "--summary", "--detailed-summary", "-S", "-D"),
)


def root() -> Path:
    """Return the folder that holds Snakefile, workflow, profiles, config.yaml and experiments."""
    return BUNDLED if BUNDLED.is_dir() else PACKAGE.parent


def experiments() -> dict[str, Path]:
    """Return the experiment files that a new one can begin from, by name."""
    found = sorted((root() / "experiments").glob("*.yaml"))
    return {DEFAULT: root() / "config.yaml"} | {path.stem: path for path in found}


def init(path: Path, source: str = DEFAULT) -> None:
    """Write an experiment file that begins as a copy of `source`; its task is called like the file.

    Raises:
        MoaError: the file exists, its name is no task's, or there is no such experiment to begin from.
    """
    known = experiments()
    if source not in known:
        raise MoaError(f"--from {source}: no such experiment.{nearest(source, known)}")
    if path.suffix not in (".yaml", ".yml") or not NAME.fullmatch(path.stem):
        raise MoaError(f"{path}: the name becomes the task's: letters, digits and _, then .yaml, e.g. mine.yaml")
    text = known[source].read_text(encoding="utf-8")
    text, count = re.subn(r"(?m)^task: \w+", f"task: {path.stem}", text, count=1)
    assert count, f"{known[source]} names no task"
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise MoaError(f"{path}: exists already and is kept; give another name") from None
    except OSError as error:
        raise MoaError(f"{path}: cannot be written ({error.strerror}); name a file in a folder that exists") from None


def check(experiment: Path, arguments: Sequence[str] = ()) -> None:
    """Refuse to run what is no file.

    Snakemake reads the file first, with other manners: it ends in a trace, waits for a pipe, or runs what it holds. So
    every file that it would read is read here before.
    """
    if str(experiment).startswith("-"):
        raise MoaError(
            f"{experiment}: name the experiment file first, then Snakemake's arguments: moa run mine.yaml -n"
        )
    if not experiment.is_file():
        raise MoaError(f"{experiment}: no such experiment file; `moa init {experiment.name}` writes one")
    for path in [experiment, *_named(arguments)]:
        reader.read(path)


def command(experiment: Path, arguments: Sequence[str]) -> list[str]:
    """Return the command of a run, by this interpreter's own Snakemake; it finds the default profile by itself.

    An experiment among the arguments (`--configfile`) stands instead of `experiment`: each is complete.
    """
    chosen = [] if _named(arguments) else ["--configfile", str(experiment)]
    snakefile = str(root() / "Snakefile")
    # --configfile takes several files, so an option stands between it and a target; of --cores the last one counts.
    given = ["--snakefile", snakefile, *chosen, "--cores", "all"]
    return [sys.executable, "-m", "snakemake", *given, *arguments]


def _named(arguments: Sequence[str]) -> list[Path]:
    """Return the experiment files among Snakemake's arguments."""
    found, taking = [], False
    for argument in arguments:
        option, _, value = argument.partition("=")
        if argument.startswith("-"):
            taking = option in ("--configfile", "--configfiles")
            found += [Path(value)] if taking and value else []
        elif taking:
            found.append(Path(argument))
    return found


def plans_only(arguments: Sequence[str]) -> bool:
    """Return whether Snakemake would only print its plan, or something about it, and run no job."""
    return any(a.partition("=")[0] in LOOKS or re.fullmatch(r"-[A-Za-z]*n[A-Za-z]*", a) for a in arguments)


def run(experiment: Path, arguments: Sequence[str]) -> int:
    """Run the workflow in the working folder and return Snakemake's status; the command is printed first."""
    given = command(experiment, arguments)
    terminal.note(" ".join(["snakemake", *given[3:]]))
    with subprocess.Popen(given, env=environment()) as child:
        # A terminal sends Ctrl-C to both: Snakemake ends its jobs, and this process waits until it has.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        status = child.wait()
        signal.signal(signal.SIGINT, before)  # what follows, the leaderboard, may be interrupted again
        return status


def environment() -> dict[str, str]:
    """Return the environment of Snakemake and its jobs: this very package, and no module of the working folder first.

    A user's random.py must not replace the standard library's; `python:` rewards are looked for there by themselves.
    """
    before = os.environ.get("PYTHONPATH")
    checkout = [] if BUNDLED.is_dir() else [str(PACKAGE.parent)]
    path = os.pathsep.join([*checkout, *([before] if before else [])])
    return {**os.environ, "PYTHONSAFEPATH": "1", RUN: "1", **({"PYTHONPATH": path} if path else {})}
