"""Every method has a page, and every page the same parts; long pages have others between them."""

import re

import pytest

from moa.methods import catalogue
from tests.workflow import snake

PAGES = snake.ROOT / "docs" / "methods"
PARTS = ["Overview", "Equations", "Differences and choices", "Logged", "Run", "Our number beside the published one"]


@pytest.mark.parametrize("method", catalogue.names())
def test_the_parts_of_a_page(method: str) -> None:
    text = (PAGES / f"{method}.md").read_text()
    assert f"`moa/methods/{method}.py`" in text
    parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert sorted(part for part in parts if part in PARTS) == sorted(PARTS), f"{method}.md has {parts}"
    assert parts[0] == "Overview" and parts.index("Equations") < parts.index("Differences and choices") < parts.index(
        "Logged"
    ) < parts.index("Run")


@pytest.mark.parametrize("method", catalogue.names())
def test_differences_are_numbered(method: str) -> None:
    """A reader refers to a difference by its number."""
    text = (PAGES / f"{method}.md").read_text()
    section = re.search(r"^## Differences and choices$(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", section[1], re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1)) and numbers, f"{method}.md numbers them {numbers}"
