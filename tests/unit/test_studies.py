"""The notebook: every study is whole, listed, and names nothing that is not there."""

import re
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "studies"
FOLDERS = sorted(path for path in STUDIES.iterdir() if path.is_dir())
PAGES = [STUDIES / "README.md", *(folder / "README.md" for folder in FOLDERS), ROOT / "benchmarks" / "README.md"]
COMMIT = "6641591"
SECTIONS = ["Question", "Answer", "Tables", "Figure", "How it was run", "What is not settled"]
NAMED = re.compile(r"(?<![\w/])(?:benchmarks|docs|experiments|moa|profiles|studies|tests|workflow)/[\w./*-]*[\w*]")

study = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def sections(text: str) -> list[str]:
    """Return the parts between headings, code blocks left out."""
    return re.split(r"(?m)^(?=#+ )", re.sub(r"(?ms)^```.*?^```", "", text))


def missing(page: Path) -> list[str]:
    """Return what a page links to, or names by path, that is not in the tree.

    A part that names the commit may name what was there.
    """
    text = page.read_text(encoding="utf-8")
    linked = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    gone = [link for link in linked if link and not (page.parent / link).exists()]
    named = [name for part in sections(text) if COMMIT not in part for name in NAMED.findall(part)]
    return gone + [name for name in named if not any(ROOT.glob(name))]


def test_a_path_that_is_gone_is_found_unless_the_commit_stands_beside_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\n`moa/gone.py`, tests/unit/test_*.py and [a](no.md)\n\n## B\n\nAt 6641591 `moa/archive.py`.\n"
    )
    assert missing(page) == ["no.md", "moa/gone.py"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_no_page_names_what_is_not_there(page: Path) -> None:
    assert missing(page) == []


@study
def test_a_page_has_its_sections_in_order(folder: Path) -> None:
    found = re.findall(r"(?m)^## (.+)$", (folder / "README.md").read_text(encoding="utf-8"))
    assert found == [name for name in SECTIONS if name in found]
    assert set(SECTIONS) - set(found) <= {"Figure"}


@study
def test_an_archive_opens_or_its_lack_is_explained(folder: Path) -> None:
    tables = sorted(folder.glob("archive/**/*.parquet"))
    if not tables:
        assert "There is no archive" in (folder / "README.md").read_text(encoding="utf-8")
    assert [path for path in tables if pq.read_table(path).num_rows == 0] == []


@study
def test_the_commands_are_bash_and_refuse_another_commit(folder: Path) -> None:
    script = folder / "run.sh"
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    # no command but the first can have run: the folder is no checkout at all
    refused = subprocess.run(
        ["bash", script], cwd="/", env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    frozen = f"needs commit {COMMIT}: see studies/README.md"
    later = f"needs a checkout with studies/{folder.name}: see studies/README.md"
    assert refused.stderr.splitlines()[-1] in (frozen, later)


def test_the_first_page_lists_every_study() -> None:
    text = (STUDIES / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"(?m)^\| \[(\w+)\]\((\w+)/README\.md\) \|", text)
    assert sorted(name for name, _ in listed) == [folder.name for folder in FOLDERS]
    assert all(name == target for name, target in listed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_paragraphs_are_short(page: Path) -> None:
    """At most 90 words; a table or a list's item is not a paragraph."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    blocks = [block for block in re.split(r"\n\n|\n(?=[-*] )", text) if not block.lstrip().startswith("|")]
    assert [block[:60] for block in blocks if len(block.split()) > 90] == []
