"""`pip install .`: what the wheel holds, what it needs, and that it runs in an empty folder without the repository."""

import ast
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from moa import __version__
from tests.workflow import snake

PACKAGED = ("moa", "workflow", "profiles", "experiments")  # folders
BESIDE = ("Snakefile", "config.yaml", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
PINNED = [
    Requirement(line.partition("#")[0])
    for line in (snake.ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line.partition("#")[0].strip()
]
NEEDED = {
    canonicalize_name(needed.name): needed
    for needed in map(
        Requirement,
        tomllib.loads((snake.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"],
    )
}


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command without the paths that lead these tests to the repository."""
    kept = {key: value for key, value in snake.environment().items() if key != "PYTHONPATH"}
    command = list(map(str, arguments))
    return subprocess.run(
        command, cwd=cwd, env=kept, capture_output=True, text=True, timeout=snake.PATIENCE, check=False
    )


@dataclass(frozen=True)
class Installed:
    """An environment with the package, and the wheel that it came from."""

    wheel: Path
    binaries: Path

    def moa(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return run(self.binaries / "moa", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build the wheel from a copy of the repository, and install it beside the packages that these tests run with.

    Offline: setuptools is that of this environment, and dependencies are found through a .pth file, which does not
    bring this environment's own editable moa with it.
    """
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed; requirements-dev.txt names it")
    folder = tmp_path_factory.mktemp("package")
    clone = folder / "clone"
    for name in PACKAGED:
        shutil.copytree(snake.ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BESIDE:
        shutil.copy2(snake.ROOT / name, clone / name)
    (clone / "build" / "lib" / "moa" / "methods").mkdir(parents=True)
    (clone / "build" / "lib" / "moa" / "methods" / "gone.py").touch()  # of an earlier build
    offline = ("--quiet", "--no-deps", "--no-build-isolation")
    made = run(sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", folder, clone, cwd=folder)
    assert made.returncode == 0, made.stderr
    (wheel,) = folder.glob("*.whl")
    made = run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    assert made.returncode == 0, made.stderr
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    (site / "tested.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    python = folder / "venv" / "bin" / "python"
    made = run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=folder)
    assert made.returncode == 0, made.stderr
    return Installed(wheel, python.parent)


def test_the_wheel_holds_the_package_and_what_it_runs(installed: Installed) -> None:
    """Every file of the repository that a run reads, and neither tests nor benchmarks nor documents."""
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = {name for name in wheel.namelist() if not name.startswith(f"moa-{__version__}.dist-info/")}
    expected = {"moa/bundled/Snakefile", "moa/bundled/config.yaml"}
    for top, prefix in (("moa", ""), *((name, "moa/bundled/") for name in PACKAGED[1:])):
        paths = (path for path in (snake.ROOT / top).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        expected |= {prefix + path.relative_to(snake.ROOT).as_posix() for path in paths}
    assert names == expected
    assert {"moa/report/templates/style.css", "moa/report/queries/01_leaderboard.sql"} <= names
    assert {"moa/bundled/workflow/rules/common.smk", "moa/bundled/profiles/default/profile.yaml"} <= names


def test_the_wheel_names_its_dependencies_and_its_command(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        metadata = wheel.read(f"moa-{__version__}.dist-info/METADATA").decode()
        commands = wheel.read(f"moa-{__version__}.dist-info/entry_points.txt").decode()
    required = {canonicalize_name(Requirement(r).name) for r in re.findall(r"^Requires-Dist: (.+)$", metadata, re.M)}
    assert "torch" in required and required == set(NEEDED)
    assert "moa = moa.cli:main" in commands


@pytest.mark.parametrize("pinned", PINNED, ids=lambda pinned: pinned.name)
def test_what_the_tests_ran_with_is_within_the_package_s_ranges(pinned: Requirement) -> None:
    """`name==x.y.z` in requirements.txt, `name>=x.y,<x+1` in pyproject.toml."""
    (pin,) = pinned.specifier
    major, minor = pin.version.split(".")[:2]
    needed = NEEDED[canonicalize_name(pinned.name)]
    assert pin.operator == "==" and needed.specifier.contains(pin.version)
    assert {str(part) for part in needed.specifier} == {f">={major}.{minor}", f"<{int(major) + 1}"}


def test_nothing_else_is_required() -> None:
    assert set(NEEDED) == {canonicalize_name(pinned.name) for pinned in PINNED}
    assert not {"pytest", "ruff", "mypy", "hypothesis", "setuptools"} & set(NEEDED)


def test_every_import_is_a_named_dependency() -> None:
    modules = importlib.metadata.packages_distributions()
    for path in (snake.ROOT / "moa").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {name.split(".")[0] for name in found} - {"moa", *sys.stdlib_module_names}:
                names = set(map(canonicalize_name, modules[top]))
                assert names & set(NEEDED), f"{path.relative_to(snake.ROOT)} imports {top}, of {names}"


def test_a_new_experiment_is_planned_in_an_empty_folder(installed: Installed, tmp_path: Path) -> None:
    """With the package's own Snakefile and profile; only mine.yaml, sections and .snakemake are left behind."""
    assert installed.moa("--version", cwd=tmp_path).stdout == f"moa {__version__}\n"
    begun = installed.moa("init", cwd=tmp_path)
    assert begun.returncode == 0 and "moa run mine.yaml" in begun.stdout, begun.stderr
    plan = installed.moa("run", "mine.yaml", "-n", cwd=tmp_path)
    output = plan.stdout + plan.stderr
    assert plan.returncode == 0, output
    bundled = installed.binaries.parent / "lib"
    snakefile = re.search(r"^snakemake --snakefile (\S+) --configfile mine.yaml --cores all -n$", output, re.M)
    assert snakefile is not None and Path(snakefile[1]).is_relative_to(bundled), output
    profile = re.search(r"specific profile (\S+) for setting", output)
    assert profile is not None and Path(profile[1]).is_relative_to(bundled), output
    assert {"prepare_prompts", "build_warehouse", "build_report"} < snake.jobs(output)
    assert "results/mine/base" in output and "hypervolume on" not in output
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.yaml", ".snakemake", ".moa"}
    made = {path.name for path in (tmp_path / ".moa").iterdir()}
    assert made == {"sections", "logic.json"}  # what the printed commands read, and what the plan has parsed


def test_jobs_run_in_the_working_folder_with_its_own_rewards(installed: Installed, tmp_path: Path) -> None:
    """A `python:` reward beside the experiment scores; a random.py there replaces nothing."""
    tiny = (snake.ROOT / snake.TINY).read_text(encoding="utf-8")
    own = "vader: {kind: python, function: 'praise:score', low: 0, high: 1}"
    (tmp_path / "mine.yaml").write_text(tiny.replace("vader: {kind: vader}", own), encoding="utf-8")
    (tmp_path / "praise.py").write_text(
        "def score(prompts, responses):\n    return [float('good' in response) for response in responses]\n"
    )
    (tmp_path / "random.py").write_text("raise RuntimeError('not the standard library')\n")
    done = installed.moa("run", "mine.yaml", "--cores", "1", "results/tiny/text_scores.parquet", cwd=tmp_path)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-8000:]
    assert snake.jobs(output) == {"prepare_prompts", "score_texts"}
    assert "hypervolume on" not in output, "no database yet, so no leaderboard, and no error that there is none"
    with duckdb.connect() as connection:
        scores = connection.execute(
            "SELECT DISTINCT score FROM read_parquet(?) WHERE objective = 'sentiment' ORDER BY 1",
            [str(tmp_path / "results" / "tiny" / "text_scores.parquet")],
        ).fetchall()
    assert scores == [(0.0,), (1.0,)]
    refused = installed.moa("run", "mine.yaml", "-n", "--config", "task=a/b", cwd=tmp_path)
    assert refused.returncode == 1 and "task: a name is made of letters" in refused.stderr


def test_a_checkout_runs_its_own_workflow(project: Path) -> None:
    """`python -m moa` in a copy of the repository, wherever another moa is installed."""
    shown = run(sys.executable, "-m", "moa", "run", snake.TINY, "-n", cwd=project)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert f"--snakefile {project / 'Snakefile'}" in shown.stderr
    assert f"Snakefile: {project / 'Snakefile'}" in shown.stdout + shown.stderr
