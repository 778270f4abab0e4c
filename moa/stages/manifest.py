"""Writes down where a task's results come from: config, code, git, packages, machine, and the hash of every file."""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from moa import __version__
from moa.errors import MoaError
from moa.experiment.schema import Experiment
from moa.job import command
from moa.plan import Plan
from moa.store import provenance, tables
from moa.store.logic import code_hash

Used = Mapping[str, Sequence[Mapping[str, str]]]


def describe(experiment: Experiment, policies: Used, files: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Return the row of table runs.

    Args:
        experiment: the complete experiment.
        policies: row -> the policies that it answers with, each {owner, policy}.
        files: tables and model folders of the run.
        folder: where run.parquet will stand; paths are stored relative to it, so that the tree can be moved.
    """
    for path in files:
        if not path.exists():
            raise MoaError(f"{path}: no such file or folder; run snakemake again to make it")
    hashes = {Path(os.path.relpath(path, folder)).as_posix(): provenance.file_hash(path) for path in files}
    return {
        "task": experiment.task,
        "config": experiment.model_dump_json(),
        "objectives": list(experiment.objectives),
        "code": code_hash(*modules()),
        "git": provenance.git_state(),
        "versions": json.dumps({"moa": __version__, **provenance.versions()}, sort_keys=True),
        "hardware": hardware(),
        "files": json.dumps(hashes, sort_keys=True),
        "policies": json.dumps(policies, sort_keys=True),
    }


def modules() -> list[str]:
    """Return the names of all modules of the package."""
    paths = sorted((provenance.ROOT / "moa").rglob("*.py"))
    return [".".join(p.relative_to(provenance.ROOT).with_suffix("").parts) for p in paths]


def used_policies(experiment: Experiment) -> dict[str, list[dict[str, str]]]:
    """Return the policies that every row answers with."""
    plan = Plan(experiment, "the run")
    return {row: [{"owner": p.row, "policy": p.name} for p in plan.policies_of(row)] for row in plan.rows}


def hardware() -> str:
    """Return processor, cores, memory and GPUs; no name of the machine."""
    memory = psutil.virtual_memory().total / 2**30
    parts = [_processor(), f"{psutil.cpu_count(logical=True)} logical cores", f"{memory:.0f} GiB memory", *_gpus()]
    return ", ".join(parts)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    names = (
        [
            line.partition(":")[2].strip()
            for line in information.read_text().splitlines()
            if line.startswith("model name")
        ]
        if information.exists()
        else []
    )
    return next((n for n in names if n), platform.processor() or platform.machine())


def _gpus() -> list[str]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return ["no GPU"]
    return [line.strip().replace(", ", " ") for line in shown.splitlines() if line.strip()]


def main(arguments: argparse.Namespace) -> None:
    experiment = Experiment.model_validate_json(arguments.section)
    row = describe(experiment, used_policies(experiment), arguments.files, arguments.out.parent)
    tables.write(tables.RUNS, [row], arguments.out)


if __name__ == "__main__":
    command.run(main, command.parser(__doc__, "files*", "out"))
