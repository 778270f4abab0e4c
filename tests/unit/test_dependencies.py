"""What set-up installs: requirements, pyproject, lock and bill of materials agree, and nothing comes without a hash."""

import functools
import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SET_UP = ("requirements-torch.txt", "requirements-cuda.txt", "requirements.lock.txt")
LOCKS = (*SET_UP, "requirements-tools.txt")


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def script(name: str) -> Any:
    """Load one of the scripts that make runs."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Locked(NamedTuple):
    version: str
    hashes: set[str]
    needed: Requirement  # with its marker


@functools.cache
def locked(path: str) -> dict[str, Locked]:
    """Read a lock as pip does: lines that end in a backslash go on, comments do not count."""
    found = {}
    joined = re.sub(r"\\\n", " ", text(path))
    for line in filter(None, (line.strip() for line in joined.splitlines() if not line.startswith("#"))):
        needed = Requirement(line.partition("--hash=")[0])
        (pin,) = needed.specifier
        hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})(?= |$)", line)
        assert pin.operator == "==" and hashes and len(hashes) == line.count("--hash"), f"{path}: {line[:80]}"
        assert needed.name not in found, f"{path} names {needed.name} twice"
        found[needed.name] = Locked(pin.version, set(hashes), needed)
    return found


def lock() -> dict[str, Locked]:
    """Return everything that set-up may install."""
    parts = [locked(path) for path in SET_UP]
    together = {name: entry for part in parts for name, entry in part.items()}
    assert len(together) == sum(map(len, parts)), "a package is in two files of the lock"
    return together


def pins(path: str) -> dict[str, str]:
    """Return the versions that a file of requirements names."""
    lines = (line.partition("#")[0].strip() for line in text(path).splitlines())
    named = [Requirement(line) for line in lines if line and not line.startswith("-r ")]
    return {canonicalize_name(needed.name): str(needed.specifier).removeprefix("==") for needed in named}


@pytest.mark.parametrize("path", LOCKS)
def test_every_package_of_a_lock_has_one_version_and_hashes(path: str) -> None:
    assert all(name == canonicalize_name(name) for name in locked(path))


def test_the_lock_has_what_requirements_and_pyproject_name() -> None:
    entries = lock()
    versions = {name: entry.version for name, entry in entries.items()}
    for path in ("requirements.txt", "requirements-dev.txt"):
        for name, version in pins(path).items():
            assert versions.get(name) == version, f"{path}: {name}=={version}; run `make lock` and `make sbom`"
    for needed in map(Requirement, tomllib.loads(text("pyproject.toml"))["project"]["dependencies"]):
        assert needed.specifier.contains(versions[canonicalize_name(needed.name)]), needed


def test_the_lock_is_for_both_pythons_and_both_systems() -> None:
    """What this project supports; only CUDA's packages, and few others, are for some machines alone."""
    rest = locked("requirements.lock.txt")
    for python in ("3.11", "3.12"):
        for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")):
            here = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": system}
            here |= {"platform_machine": machine, "implementation_name": "cpython", "extra": ""}
            left_out = {
                n for n, entry in rest.items() if entry.needed.marker and not entry.needed.marker.evaluate(here)
            }
            assert left_out <= {"greenlet"}  # SQLAlchemy asks for it by the machine's name
            cuda = [entry.needed.marker for entry in locked("requirements-cuda.txt").values()]
            assert all(marker and marker.evaluate(here) == (system == "linux") for marker in cuda)


def test_torch_may_be_the_index_s_build_or_the_one_for_cpus() -> None:
    """24 wheels of 2.13.0 in the package index and 4 of 2.13.0+cpu: Python 3.11 and 3.12, x86_64 and aarch64."""
    (torch,) = locked("requirements-torch.txt").values()
    assert torch.needed.name == "torch" and torch.needed.marker is None and len(torch.hashes) == 24 + 4


def test_the_bill_lists_the_lock() -> None:
    """Every package, its version and the hashes of its files, and nothing else."""
    bill = json.loads(text("docs/sbom.cdx.json"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "moa"
    listed = {}
    for part in bill["components"]:
        (files,) = part["externalReferences"]
        assert part["purl"] == f"pkg:pypi/{part['name']}@{part['version']}"
        listed[part["name"]] = (part["version"], {one["content"] for one in files["hashes"] if one["alg"] == "SHA-256"})
    assert len(listed) == len(bill["components"])
    assert listed == {name: (entry.version, entry.hashes) for name, entry in lock().items()}, "run `make sbom`"


def test_make_installs_nothing_without_a_hash() -> None:
    """Beside the project itself, and torch's download, which the next line installs by hash."""
    makefile = text("Makefile").replace("\\\n", " ")
    hashed = "--quiet --no-deps --require-hashes"
    installs = re.findall(r"pip (?:install|download) .*", makefile)
    free = [line for line in installs if not line.removeprefix("pip install ").startswith(hashed)]
    assert [re.sub(r"\s+\$\$\(.*", " torch", line) for line in free] == [
        "pip install --quiet --no-deps --no-build-isolation -e .",
        "pip download --quiet --no-deps --only-binary :all: --dest .venv/torch torch",
    ]
    assert "uv pip" not in makefile and len(installs) == 5


def test_the_lock_s_script_sorts_packages_into_their_files() -> None:
    """An entry goes on while lines are indented; comments are none."""
    made = script("lock")
    entries = made.locked(
        "# head\nabc==1 \\\n    --hash=sha256:a\nnvidia-x==2 ; sys_platform == 'linux' \\\n    --hash=b\n"
    )
    assert entries == ["abc==1 \\\n    --hash=sha256:a", "nvidia-x==2 ; sys_platform == 'linux' \\\n    --hash=b"]
    for path in LOCKS:
        assert {entry.split("==")[0] for entry in made.locked(text(path))} == set(locked(path))
    assert all(made.OF_CUDA.match(f"{name}==1") for name in locked("requirements-cuda.txt"))
    assert not any(made.OF_CUDA.match(f"{name}==1") for name in locked("requirements.lock.txt"))
    assert not set(made.ELSEWHERE) & set(lock())


def test_an_audit_says_what_is_known_and_who_was_not_asked() -> None:
    """As pip-audit 2.10 writes it: `vulns` of a package that its service knows, else `skip_reason`."""
    report = script("audit").report
    clean = {"name": "idna", "version": "3.20", "vulns": []}
    known = {"id": "PYSEC-2025-1", "aliases": ["CVE-2025-1"], "fix_versions": ["2.1", "3.0"], "description": "..."}
    unfixed = {"id": "GHSA-x", "aliases": [], "fix_versions": [], "description": "..."}
    holed = {"name": "torch", "version": "2.0", "vulns": [known, unfixed]}
    silent = {"name": "own", "skip_reason": "Dependency not found on PyPI and could not be audited: own (1.0)"}
    assert report([clean]) == (["audit: 0 known vulnerabilities in 1 packages"], 0)
    assert report([clean, holed]) == (
        [
            "torch 2.0: PYSEC-2025-1, CVE-2025-1, fixed in 2.1, 3.0",
            "torch 2.0: GHSA-x, not fixed yet",
            "audit: 2 known vulnerabilities in 2 packages",
        ],
        1,
    )
    assert report([clean, silent]) == (
        ["audit: the service has no answer for own", "audit: 0 known vulnerabilities in 1 packages"],
        1,
    )
    lines, status = report([silent, silent | {"name": "other"}])
    assert status == 1 and lines == [
        "audit: the service has no answer for any of 2 packages; it cannot be reached from here"
    ]


def test_nothing_that_gates_asks_the_audit() -> None:
    makefile = text("Makefile")
    assert "make audit" not in text(".ci/run")
    for target in ("lint", "test", "run", "setup"):
        (line,) = re.findall(rf"^{target}:.*$", makefile, re.MULTILINE)
        assert line == f"{target}: $(READY)"
