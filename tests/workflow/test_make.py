"""`make run`: goes on after a crash by itself, and ends with the leaderboard. Set-up takes torch by its hash."""

import hashlib
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pip
import pytest

from tests.workflow import snake


def ready(directory: Path) -> Path:
    """Add a Makefile whose set-up is done: it uses the environment of these tests."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for path in (snake.ROOT / "Makefile", snake.ROOT / "pyproject.toml", *snake.ROOT.glob("requirements*.txt")):
        shutil.copy(path, directory / path.name)
    python = directory / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    for done in (".torch", ".ready"):
        (directory / ".venv" / done).touch()
    return directory


@pytest.fixture
def made(finished: Path) -> Path:
    return ready(finished)


def make(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=directory,
        env=snake.environment() | environment,
        capture_output=True,
        text=True,
        timeout=snake.PATIENCE,
        check=False,
    )


def test_make_run_after_a_crash(made: Path) -> None:
    """A dead snakemake's lock and a half-written output are removed, the rest is made, the leaderboard printed."""
    locks = made / ".snakemake" / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    (locks / "0.output.lock").write_text("results/results.duckdb\n")
    (made / "results" / ".results.duckdb.1.tmp").write_text("half")
    (made / "reports" / "index.html").unlink()
    run = make(made, "run", f"ARGS=--configfile {snake.TINY}")
    output = run.stdout + run.stderr
    assert run.returncode == 0, output
    assert "removed the lock of a snakemake that is gone (1 files); removed 1 half-written outputs" in run.stdout
    assert snake.jobs(output) == {"build_report"}
    assert output.count("hypervolume on the normalised scale") == 1
    assert f"Report: {made / 'reports' / 'index.html'}" in output
    again = make(made, "run", f"ARGS=--configfile {snake.TINY}")
    assert "Nothing to be done" in again.stdout + again.stderr
    assert again.stdout.count("hypervolume on the normalised scale") == 1


def test_make_run_stops_at_a_mistake(made: Path) -> None:
    run = make(made, "run", f"ARGS=--configfile {snake.TINY} --config task=a/b")
    assert run.returncode != 0
    assert "task: a name is made of letters" in run.stderr
    assert "hypervolume" not in run.stdout


@pytest.mark.parametrize("mark", ["-n", "--dry-run --quiet"])
def test_a_dry_run_prints_no_leaderboard(mark: str, project: Path) -> None:
    """Nor the error that there is none yet; make prints the commands that it runs."""
    run = make(ready(project), "run", f"ARGS=--configfile {snake.TINY} {mark}")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "moa run config.yaml" in run.stdout and "hypervolume" not in run.stdout
    assert not (project / "results" / "tiny").exists()
    assert f"--configfile {snake.TINY}" in run.stderr and "--configfile config.yaml" not in run.stderr


def wheel(folder: Path, name: str, version: str, *needed: str) -> str:
    """Write a package that is nothing but its name and what it asks for; return its line of a lock."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    asks = "".join(f"Requires-Dist: {package}\n" for package in needed)
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{asks}")
        made.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(f"{about}/RECORD", "")
    return f"{name.replace('_', '-')}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def test_torch_is_installed_by_its_hash_and_cuda_s_packages_where_it_asks_for_them(tmp_path: Path) -> None:
    """Offline, with packages made here: a swapped torch, the known one, and one that is a build with CUDA."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shutil.copy(snake.ROOT / "Makefile", tmp_path)
    found, torch, cuda = tmp_path / "wheels", tmp_path / "requirements-torch.txt", tmp_path / "requirements-cuda.txt"
    venv.create(tmp_path / ".venv")  # with this environment's pip, which is all that it sees of it
    (site,) = (tmp_path / ".venv").glob("lib/python*/site-packages")
    (site / "pip").symlink_to(Path(pip.__file__).parent)
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(found), "PIP_CONFIG_FILE": "/dev/null"}

    def installed() -> tuple[subprocess.CompletedProcess[str], set[str]]:
        run = make(tmp_path, ".venv/.torch", f"PYTHON={sys.executable}", **offline)
        return run, {path.name.removesuffix(".dist-info") for path in site.glob("*.dist-info")}

    cuda.write_text(wheel(found, "nvidia_cublas", "13.1.1"))
    torch.write_text(wheel(found, "torch", "2.13.0", "filelock"))
    wheel(found, "torch", "2.13.0", "another")  # under the same name
    run, packages = installed()
    assert run.returncode != 0 and "DO NOT MATCH THE HASHES" in run.stderr, run.stdout + run.stderr
    assert not any(name.startswith(("torch", "nvidia")) for name in packages)

    torch.write_text(wheel(found, "torch", "2.13.0", "filelock"))
    run, packages = installed()
    assert run.returncode == 0, run.stdout + run.stderr
    assert "torch-2.13.0" in packages and "nvidia_cublas-13.1.1" not in packages
    assert "is up to date" in installed()[0].stdout

    torch.write_text(wheel(found, "torch", "2.13.1", "filelock", 'nvidia-cublas==13.1.1; platform_system == "Linux"'))
    run, packages = installed()
    assert run.returncode == 0, run.stdout + run.stderr
    assert {"torch-2.13.1", "nvidia_cublas-13.1.1"} <= packages
