"""Runs the workflow in a copy of the repository, and reads its plans."""

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TINY = "tests/tiny.yaml"
PATIENCE = 1800.0  # seconds; the machine may have other work
DEVICES: str | None = None  # CUDA_VISIBLE_DEVICES as the tests were given it
# Snakemake's imports take longer than a small plan: its runs are forks of a process that has them. Where a run is
# killed (test_crash.py), and where `moa` starts it, it starts by itself.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["snakemake.cli"])
ROWS = ("reference", "single_objective", "morlhf", "rewarded_soups", "linear", "pama", "moc")  # tests/tiny.yaml
POLICIES = (
    "single_objective/sentiment",
    "single_objective/conciseness",
    "morlhf/w0.5-0.5",
    "linear/policy",
    "pama/policy",
    "moc/policy",
)


def copy_project(to: Path) -> Path:
    """Copy what a run needs; results and the virtual environment stay behind."""
    for name in ("moa", "workflow", "profiles", "tests"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "config.yaml", "pyproject.toml"):
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, to / name)
    (to / ".moa").mkdir()
    (to / ".moa" / "logic.json").write_text(_parsed(), encoding="utf-8")
    return to


@cache
def _parsed() -> str:
    """Return what a plan would keep of the package's modules, so that no copy of it has to parse them again."""
    from moa.store import logic  # not by a fork that will import its copy's

    assert Path(".moa", "logic.json") == logic.PARSED
    for path in (ROOT / "moa").rglob("*.py"):
        logic.code_hash(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    return json.dumps(logic._known())


@dataclass(frozen=True)
class Run:
    """A run that has ended: where, and what it printed."""

    directory: Path
    output: str


def run_to_end(directory: Path) -> Run:
    """Run everything; a failed job's log is in the assertion."""
    done = snakemake(directory, "--cores", "2")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-8000:]
    return Run(directory, output)


def environment() -> dict[str, str]:
    """Jobs of a test see no hub, no parent but their own Snakemake, and the GPUs that the tests were given."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MOA_PARENT", "CUDA_VISIBLE_DEVICES")}
    return {
        **kept,
        **({} if DEVICES is None else {"CUDA_VISIBLE_DEVICES": DEVICES}),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", *arguments]


def snakemake(directory: Path, *arguments: str, configfile: str | None = TINY) -> subprocess.CompletedProcess[str]:
    """Run snakemake in `directory` and return what it said; the caller judges the status."""
    full = [*arguments, *(["--configfile", configfile] if configfile else [])]
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder, name) for name in ("out", "err")]
        process = FORKS.Process(target=_snakemake, args=(directory, full, environment(), said))
        process.start()
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            raise AssertionError("snakemake has not ended")
        return subprocess.CompletedProcess(full, process.exitcode, *(path.read_text("utf-8") for path in said))


def _snakemake(directory: Path, arguments: list[str], variables: Mapping[str, str], said: list[Path]) -> None:
    """Be the command `python -m snakemake` in a fork that ends with it."""
    for number, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(directory)
    sys.argv = ["snakemake", *arguments]
    sys.orig_argv[1:] = ["-m", *sys.argv]
    assert "moa" not in sys.modules
    sys.path.insert(0, str(directory))
    from snakemake import cli

    cli.main()


def moa(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moa.cli", *arguments],
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def plan(directory: Path, *arguments: str, configfile: str | None = TINY) -> set[str]:
    """Return the jobs of a dry-run as 'rule' or 'rule row/policy', without aggregate targets."""
    made = snakemake(directory, "-n", *arguments, configfile=configfile)
    assert made.returncode == 0, made.stdout + made.stderr
    return jobs(made.stdout + made.stderr)


def jobs(text: str) -> set[str]:
    """Read the jobs out of what snakemake printed."""
    found = set()
    for block in re.split(r"\n(?=(?:local)?rule \w+:\n)", text):
        head = re.match(r"(?:local)?rule (\w+):\n", block)
        if not head or "_" not in head[1] or head[1] == "reference_scores":
            continue
        wildcards = re.search(r"^    wildcards: (.*)$", block, re.MULTILINE)
        values = dict(part.split("=", 1) for part in wildcards[1].split(", ")) if wildcards else {}
        name = "/".join(values[key] for key in ("row", "policy", "reward") if key in values)
        found.add(f"{head[1]} {name}".strip())
    return found


def of(rule: str, *names: str) -> set[str]:
    return {f"{rule} {name}" for name in names}


END = {"evaluate_task", "describe_run", "build_warehouse", "build_report"}


def after(*rows: str) -> set[str]:
    """Return what follows new policies of these rows: answers, scores, and the shared end."""
    return of("generate_responses", *rows) | of("score_responses", *rows) | END


EVERYTHING = (
    {"prepare_prompts", "score_texts", "train_base", "score_reference"} | of("train_policy", *POLICIES) | after(*ROWS)
)
