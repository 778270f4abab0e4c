"""Hashes of code, blind to comments, docstrings and formatting: what a result depends on beside its inputs."""

import ast
import hashlib
import json
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from moa.store.files import atomically
from moa.store.provenance import ROOT

PARSED = Path(".moa/logic.json")  # what was parsed before; parsing is a third of a plan's time
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"  # whose trees have one form
# Their whole effect on a stage is the validated section that it receives as a parameter, defaults filled in.
SCHEMA = "schema keys strict model training rewards endpoint pairs names reader mistakes removed"  # of moa.experiment
DECLARATIONS = frozenset({"moa.methods.catalogue", *(f"moa.experiment.{name}" for name in SCHEMA.split())})
# modules that decide how a job ends, never what it writes
NEUTRAL = frozenset({"moa.errors", "moa.store.files", "moa.store.sections", "moa.job.memory", "moa.job.process"})


def _without_docstrings(tree: ast.AST) -> ast.AST:
    """Drop every bare string: of modules, classes and functions, and those under a settings' keys."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [item for item in node.body if not _is_text(item)] or [ast.Pass()]
    return tree


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _imports(tree: ast.AST, package: str) -> list[str]:
    """Return the absolute names that a module of `package` (the dotted name of its folder) imports."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [module, *(f"{module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


@cache
def _node(name: str, root: Path) -> tuple[str, list[str]] | None:
    """Return `_parse` of module `name`, or None where `root` has no such module.

    Nobody edits code between the jobs of one plan.
    """
    found = _find(name, root)
    if found is None:
        return None
    logic, imports = _parse(*found)
    return logic, list(dict.fromkeys(imports))


def _parse(path: Path, package: str) -> tuple[str, list[str]]:
    """Return a digest of a module's logic and what it imports; a text that was parsed before is not parsed again."""
    text = path.read_bytes()
    key = hashlib.sha256(b"\0".join([package.encode(), PYTHON.encode(), text])).hexdigest()
    known = _known()
    if key not in known:
        tree = ast.parse(text)
        imports = _imports(tree, package)
        known[key] = (hashlib.sha256(ast.dump(_without_docstrings(tree)).encode()).hexdigest(), imports)
    return known[key]


@cache
def _known() -> dict[str, tuple[str, list[str]]]:
    """Return what earlier plans have parsed; a file that is no such table counts as none."""
    try:
        found = json.loads(PARSED.read_text(encoding="utf-8"))
        return {key: (str(digest), [str(name) for name in names]) for key, (digest, names) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _keep() -> None:
    """Write down what was parsed, for the next plan; a folder that cannot be written keeps nothing."""
    with suppress(OSError):
        PARSED.parent.mkdir(parents=True, exist_ok=True)
        atomically(PARSED, lambda path: path.write_text(json.dumps(_known()), encoding="utf-8"))


def _find(name: str, root: Path) -> tuple[Path, str] | None:
    """Return the file of module `name` below `root` and the package whose modules it may import relatively."""
    path = root.joinpath(*name.split("."))
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py"), name.rpartition(".")[0]
    return (path / "__init__.py", name) if (path / "__init__.py").is_file() else None


def code_hash(*modules: str, root: Path = ROOT) -> str:
    """Return 12 hex digits over the logic of `modules` and of every module that they import, transitively.

    Only modules of the same top-level packages below `root` count. Comments, docstrings and formatting do not. Dynamic
    imports, templates and SQL are not followed: the rule names those itself. Declarations (the config schema) are left
    out, because stages receive their effect as a parameter.
    """
    packages, before = {name.split(".")[0] for name in modules}, len(_known())
    todo, seen = list(modules), dict[str, str]()
    while todo:
        name = todo.pop()
        if name in seen or name.split(".")[0] not in packages or name in DECLARATIONS | NEUTRAL:
            continue
        if (node := _node(name, root)) is not None:
            seen[name], imports = node
            todo += imports
    if len(_known()) > before:
        _keep()
    return hashlib.sha256(repr(sorted(seen.items())).encode()).hexdigest()[:12]
