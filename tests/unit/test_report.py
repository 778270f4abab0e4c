"""The HTML report of a synthetic run.

Nothing hostile gets out of its cell, nothing is fetched, and what must be said is said.
"""

import base64
import hashlib
import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from moa.errors import MoaError
from moa.report import leaderboard, summary
from moa.stages.report import build
from tests import synthetic


class Elements(HTMLParser):
    """Collects tags, attributes, script bodies and visible text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts:
            self.scripts[-1] += data
        else:
            self.text.append(data)


def parse(page: str) -> Elements:
    made = Elements()
    made.feed(page)
    return made


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("report")
    return {p.name: p.read_text(encoding="utf-8") for p in build(synthetic.warehouse(folder), folder / "reports")}


@pytest.fixture(scope="module")
def task(pages: dict[str, str]) -> Elements:
    return parse(pages["synthetic.html"])


def test_hostile_responses_stay_text(pages: dict[str, str], task: Elements) -> None:
    assert [
        text for text in synthetic.HOSTILE if text.strip() and html.escape(text, quote=False) in pages["synthetic.html"]
    ], "some hostile response must be among the examples, or this test says nothing"
    assert "img" not in task.tags and "iframe" not in task.tags
    assert not [a for a in task.attributes if a[1].startswith("on")]
    assert not [body[:80] for body in task.scripts if "alert(1)" in body], (
        "generated text never enters a script, not even as data"
    )


@pytest.mark.parametrize("name", ["index.html", "synthetic.html"])
def test_pages_fetch_nothing_and_run_only_their_own_scripts(pages: dict[str, str], name: str) -> None:
    found = parse(pages[name])
    assert not [
        a
        for a in found.attributes
        if a[1] in ("src", "href", "action") and re.match(r"(https?:)?//|javascript:", a[2].strip(), re.IGNORECASE)
    ]
    policy = next(
        value
        for tag, attribute, value in found.attributes
        if tag == "meta" and attribute == "content" and "default-src" in value
    )
    assert "default-src 'none'" in policy
    bodies = re.findall(r"<script(?![^>]*application/json)[^>]*>(.*?)</script>", pages[name], re.DOTALL)
    for body in bodies:
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "unsafe-eval" not in policy and "script-src 'unsafe-inline'" not in policy


def test_what_must_be_said_is_said(task: Elements) -> None:
    text = " ".join(" ".join(task.text).split())
    for words in (
        "not steerable",
        "degenerate",
        "Do the objectives conflict?",
        "hypervolume",
        "tau",
        "reference point",
    ):
        assert words in text, words


def test_pages_are_deterministic(pages: dict[str, str], tmp_path: Path) -> None:
    """Timings and versions come from the database, so the same database gives the same bytes."""
    database = synthetic.warehouse(tmp_path)
    first = {p.name: p.read_bytes() for p in build(database, tmp_path / "a")}
    assert first == {p.name: p.read_bytes() for p in build(database, tmp_path / "b")}
    assert max(map(len, first.values())) < 8_000_000


def test_three_objectives_have_their_pages(tmp_path: Path) -> None:
    database = synthetic.warehouse(tmp_path, objectives=("sentiment", "conciseness", "readability"))
    page = next(p for p in build(database, tmp_path / "reports") if p.name == "synthetic.html").read_text(
        encoding="utf-8"
    )
    assert page.count("readability") > 10
    # Six preferences, an objective's weights 0, 1/2 and 1 occurring 3, 2 and 1 times: 3 + 1 of 15 pairs are tied,
    # sqrt(11 / 15) = 0.856
    assert page.count(" of 0.86<span") == 3 * len(set(synthetic.SKILL) - {*synthetic.FREE, "single_objective"})
    moc = next(cells for cells in leaderboard.rows(database)["synthetic"] if cells[0] == "moc")
    assert moc[4].endswith(" of 0.856") and summary.summary(database, "synthetic").count("; at most 0.86") == 4


def test_an_unknown_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MoaError, match="other"):
        build(synthetic.warehouse(tmp_path), tmp_path / "reports", asked="other")


def test_cut_responses_are_told(task: Elements) -> None:
    text = " ".join("".join(task.text).split())
    assert re.search(
        r"Cut responses\s*sentiment: its judge could not read up to \d[\d.]* % of a row's responses whole", text
    )
