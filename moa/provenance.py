"""What a result depends on: code hashes blind to comments, hashes of files, the state of git and packages."""

import ast
import hashlib
import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Their whole effect on a stage is the validated section that it receives as a parameter, defaults filled in.
DECLARATIONS = frozenset({"moa.config", "moa.rewards.specs", "moa.methods.catalogue"})
PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate", "snakemake", "duckdb", "pyarrow", "moocore")


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _imports(tree: ast.AST) -> list[str]:
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "moa":
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "moa"]
    return found


@cache
def _parse(path: Path) -> tuple[str, tuple[str, ...]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = tuple(_imports(tree))
    return ast.dump(_without_docstrings(tree)), imports


def code_hash(*modules: str) -> str:
    """Return 12 hex digits over the logic of `modules` and of every moa module that they import, transitively.

    Comments, docstrings and formatting do not count. Dynamic imports, templates and SQL are not followed: the rule
    names those itself. Declarations (the config schema) are left out, because stages receive their effect as a parameter.
    """
    todo, seen = list(modules), dict[str, str]()
    while todo:
        name = todo.pop()
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        if name in seen or name in DECLARATIONS or not path.exists():
            continue
        seen[name], imports = _parse(path)
        todo += imports
    return hashlib.sha256(repr(sorted(seen.items())).encode()).hexdigest()[:12]


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, or of the sorted names and hashes of a folder's files."""
    if path.is_dir():
        names = sorted(p for p in path.rglob("*") if p.is_file())
        return hashlib.sha256("".join(f"{p.relative_to(path)}:{file_hash(p)}\n" for p in names).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def text_hash(*parts: str) -> str:
    """Return 16 hex digits that identify `parts` by their content."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def git_state() -> str:
    """Return the commit and whether the tree differs from it, e.g. '1a2b3c4d5e6f+dirty'; 'unknown' outside git."""
    try:
        commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+dirty" if dirty else "")


def versions() -> dict[str, str]:
    """Return the versions of Python, the platform and the packages that results depend on."""
    return {"python": platform.python_version(), "platform": platform.platform(), **{name: importlib.metadata.version(name) for name in PACKAGES}}
