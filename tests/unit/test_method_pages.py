"""Every method has a page, and every page the same parts in the same order; its settings are the code's."""

import re
from importlib import import_module

import pytest

from moa.methods import catalogue
from tests.workflow import snake

PAGES = snake.ROOT / "docs" / "methods"
PARTS = ["Overview", "Equations", "Settings", "Differences and choices", "What holds", "Logged", "Run"]


def part(method: str, name: str) -> str:
    """Return one part of a method's page."""
    text = (PAGES / f"{method}.md").read_text(encoding="utf-8")
    return text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("method", catalogue.names())
def test_the_parts_of_a_page(method: str) -> None:
    text = (PAGES / f"{method}.md").read_text(encoding="utf-8")
    assert f"`moa/methods/{method}.py`" in text
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == PARTS


def test_every_page_is_a_method_s() -> None:
    assert sorted(page.stem for page in PAGES.glob("*.md")) == sorted(catalogue.names())


@pytest.mark.parametrize("method", catalogue.names())
def test_differences_are_numbered(method: str) -> None:
    """A reader refers to a difference by its number."""
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", part(method, "Differences and choices"), re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1)) and numbers


@pytest.mark.parametrize("method", catalogue.names())
def test_the_settings_are_all_there(method: str) -> None:
    """The first column of the page's table names the keys of the method's section, all of them and no other."""
    named = re.findall(r"^\| (`.+?`) \|", part(method, "Settings"), re.MULTILINE)
    keys = [key for cell in named for key in re.findall(r"`(\w+)`", cell)]
    assert sorted(keys) == sorted(set(import_module(f"moa.methods.{method}").Method.schema.model_fields) - {"kind"})


@pytest.mark.parametrize("method", sorted(set(catalogue.names()) - {"reference", "external"}))
def test_what_holds_has_numbers_and_their_study(method: str) -> None:
    """Except where nothing is compared: the reference is the zero of the scale, an external row is its owner's."""
    holds = part(method, "What holds")
    assert re.search(r"^\|.*\d\.\d.*\|$", holds, re.MULTILINE)
    assert re.search(r"\(\.\./\.\./studies/\w+/README\.md\)", holds)
