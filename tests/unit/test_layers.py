"""Imports point down only: read from the syntax trees, those for annotations and inside functions included."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "moa"
# From the bottom to the top. Rooms of one line may import each other's modules; a room its own.
LAYERS = (
    ("errors",),
    ("experiment",),
    ("store",),
    ("job",),
    ("method",),
    ("tasks", "metrics"),
    ("lm",),
    ("rewards",),
    ("rl",),
    ("methods",),
    ("trainers",),
    ("plan",),
    ("report",),
    ("stages",),
    ("ahead",),
    ("docs",),
    ("testbed",),
    ("respond", "api"),
    ("cli", "__main__"),
)
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}


def room(module: str) -> str:
    """Return 'rl' of 'moa.rl.loop', 'plan' of 'moa.plan'."""
    return module.split(".")[1]


def imports(path: Path) -> list[tuple[int, str]]:
    """Return line and name of every module of the package that a file imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "moa":
            found += [(node.lineno, f"moa.{alias.name}") for alias in node.names if alias.name != "__version__"]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("moa."):
            found.append((node.lineno, str(node.module)))
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names if alias.name.startswith("moa.")]
    return found


def files() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def test_every_module_has_a_room() -> None:
    assert {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in files()} == set(HEIGHT)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    upward = [f"{path.name}:{line} imports {name}" for line, name in imports(path) if HEIGHT[room(name)] > HEIGHT[own]]
    assert not upward
