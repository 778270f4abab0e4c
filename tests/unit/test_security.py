"""SECURITY.md claims what tests show: every row of its table names files that hold tests."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = "| claim | test |\n|---|---|\n"


def claims() -> list[tuple[str, list[str]]]:
    """Return every claim with the files of its tests."""
    table = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition(HEAD)[2].partition("\n\n")[0]
    rows = [line.strip("|").rsplit("|", 1) for line in table.splitlines()]
    return [(claim.strip(), [name.strip() for name in tests.split(",")]) for claim, tests in rows]


def test_the_table_is_read() -> None:
    assert len(claims()) >= 7 and all(claim and tests for claim, tests in claims())


@pytest.mark.parametrize(("claim", "tests"), claims(), ids=[claim[:40] for claim, _ in claims()])
def test_a_claim_has_its_tests(claim: str, tests: list[str]) -> None:
    for name in tests:
        assert re.fullmatch(r"tests/\w+/test_\w+\.py", name), f"{claim}: name files of tests, with commas between"
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        assert any(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in tree.body), name


def test_what_is_not_defended_against_is_said() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    undefended = text.partition("## What it does not defend against")[2].partition("\n## ")[0]
    assert "reward function" in undefended and "persuade" in undefended
