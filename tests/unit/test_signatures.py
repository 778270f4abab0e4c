"""No function of the package takes more than five parameters: what belongs together is a dataclass."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST = 5
# Callbacks whose parameters a library dictates.
DICTATED = {
    ("moa/lm/training.py", "on_step_begin"),  # transformers
    ("moa/lm/training.py", "on_log"),  # transformers
    ("moa/trainers/trl_grpo.py", "__call__"),  # TRL: columns of the data set
    ("moa/cli/results.py", "compare"),  # typer: a parameter is an option of the command line
    ("moa/cli/exporting.py", "export"),  # typer
}


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Every parameter but self and cls, keyword-only ones and the stars included."""
    given = function.args
    names = [a.arg for a in (*given.posonlyargs, *given.args)]
    names = names[1:] if names[:1] in (["self"], ["cls"]) else names
    return names + [a.arg for a in (*given.kwonlyargs, *filter(None, (given.vararg, given.kwarg)))]


def offenders(source: str) -> Iterator[tuple[int, str, int]]:
    """Yield (line, name, parameters) of every function that takes too many."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and len(parameters(node)) > MOST:
            yield node.lineno, node.name, len(parameters(node))


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f(a, b, c, d, e): ...", None),
        ("def f(a, b, c, d, e, f): ...", 6),
        ("class C:\n    def f(self, a, b, c, d, e): ...", None),
        ("def f(a, b, c, *, d, e, f=1): ...", 6),
        ("async def f(a, b, /, c, *d, **e): ...", None),
        ("def f(a, b, c, d, *e, **g): ...", 6),
    ],
)
def test_what_counts(source: str, count: int | None) -> None:
    assert [n for _, _, n in offenders(source)] == ([] if count is None else [count])


def test_signatures() -> None:
    found, dictated = [], set()
    for path in sorted((ROOT / "moa").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for line, function, count in offenders(path.read_text(encoding="utf-8")):
            if (name, function) in DICTATED:
                dictated.add((name, function))
            else:
                found.append(f"{name}:{line} {function} takes {count}")
    assert not found, "\n".join(found)
    assert dictated == DICTATED, "an exemption that nothing needs any more"
