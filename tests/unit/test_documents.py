"""What people read stays short, plain and connected: words, sentences, lines and links of every written document.

Generated pages (docs/experiment.md, docs/tables.md), the studies and CHANGELOG.md are not counted.
"""

import re
from pathlib import Path

import pytest

from moa.report import example

ROOT = Path(__file__).parents[2]
GENERATED = {"docs/experiment.md", "docs/tables.md"}
WRITTEN = sorted(
    path
    for path in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")
    + tuple(str(file.relative_to(ROOT)) for file in (ROOT / "docs").rglob("*.md"))
    if path not in GENERATED
)
PAGES = [path for path in WRITTEN if path.startswith("docs/methods/")]
LATER = {"docs/reliability.md", "docs/speed.md"}  # pages beyond the cap, each asked for by itself
MOST_WORDS, MOST_IN_RESULTS, MOST_IN_A_PAGE, MOST_IN_A_PARAGRAPH = 16_000, 1_500, 700, 90
LINES_OF_README, FIRST_SCREEN, COLUMNS, WORDS_PER_SENTENCE = 120, 25, 120, 20
# by somebody who follows CONTRIBUTING.md
MADE_BY_THE_READER = {"moa/methods/uniform.py", "moa/methods/distilled.py", "moa/trainers/distilled.py"}
SHORT_FORMS = re.compile(r"\b(e\.g|i\.e|vs|et al|eq)\.")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
ITEM = re.compile(r"^\s*(?:[-*]|\d+\.)\s+")
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
PATH = re.compile(
    r"(?<![\w/.:-])((?:moa|docs|tests|experiments|workflow|profiles|studies|benchmarks)/[\w./*-]*\w/?"
    r"|\w+\.md|config\.yaml|Snakefile)"
)


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def words(text: str) -> int:
    """Count what has a letter or a digit in it: the bars of a table are no words."""
    return sum(bool(re.search(r"\w", part)) for part in text.split())


def paragraphs(text: str) -> list[str]:
    """Return the prose: every paragraph and list item as one line; no headings, tables, code, comments or images."""
    found: list[list[str]] = [[]]
    for line in COMMENT.sub("", FENCE.sub("", text)).splitlines():
        if not line.strip() or re.match(r"\s*(?:#|\||!\[)", line):
            found.append([])
            continue
        if ITEM.match(line):
            found.append([])
        found[-1].append(ITEM.sub("", line).strip())
    return [LINK.sub(r"\1", " ".join(lines)) for lines in found if lines]


def sentences(paragraph: str) -> list[str]:
    """Split at full stops, question marks and exclamation marks that end a word."""
    shielded = SHORT_FORMS.sub(r"\1", paragraph)
    return [part for part in re.split(r"(?<=[.!?])[*)\"]*\s+", shielded) if words(part)]


def blocks(text: str) -> list[str]:
    """Return what stands between empty lines, a list as one; no tables, code, comments, headings."""
    plain = LINK.sub(r"\1", COMMENT.sub("", FENCE.sub("", text)))
    parts = [part.splitlines() for part in re.split(r"\n\s*\n", plain)]
    found = [[line for line in lines if not re.match(r"\s*(?:#|\||!\[)", line)] for lines in parts]
    return ["\n".join(lines) for lines in found if lines]


def slug(heading: str) -> str:
    """Return a heading's anchor, as the hosts of Markdown make it."""
    plain = LINK.sub(r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def cells(row: str) -> list[str]:
    """Return the cells of a table's row."""
    return row.removeprefix("| ").removesuffix(" |").split(" | ")


def anchors(text: str) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)}


def links(path: str) -> list[tuple[str, str]]:
    """Return the relative links of a document: the target's path from the repository's root, and the anchor."""
    found = []
    for _, target in LINK.findall(FENCE.sub("", text_of(path))):
        if not re.match(r"\w+:", target):
            name, _, anchor = target.partition("#")
            resolved = (ROOT / path).parent / name if name else ROOT / path
            found.append((str(resolved.resolve().relative_to(ROOT)), anchor))
    return found


def test_how_words_and_sentences_are_counted() -> None:
    text = (
        "# A heading\n\nOne two, e.g. three. Four [five](x.md#six)!\n\n"
        "| a | table |\n|---|---|\n\n```\ncode here\n```\n1. An item\n   goes on.\n- Another.\n"
    )
    assert paragraphs(text) == ["One two, e.g. three. Four five!", "An item goes on.", "Another."]
    assert blocks(text) == ["One two, e.g. three. Four five!", "1. An item\n   goes on.\n- Another."]
    assert [len(sentences(p)) for p in paragraphs(text)] == [2, 1, 1]  # "e.g." ends no sentence
    assert words("| a | 0.5 ± 0.1 | - |") == 3  # a, 0.5, 0.1
    assert slug("Where `whiten` is: one, two") == "where-whiten-is-one-two"


def test_all_documents_together() -> None:
    counted = {path: words(text_of(path)) for path in WRITTEN if path not in LATER}
    assert sum(counted.values()) <= MOST_WORDS, sorted(counted.items(), key=lambda item: -item[1])


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= LINES_OF_README


def test_the_results_are_short() -> None:
    assert words(text_of("docs/results.md")) <= MOST_IN_RESULTS


@pytest.mark.parametrize("page", PAGES)
def test_a_method_page_is_short_and_starts_with_its_equation(page: str) -> None:
    text = text_of(page)
    assert words(text) <= MOST_IN_A_PAGE
    first = text.splitlines()[:FIRST_SCREEN]
    fences = [i for i, line in enumerate(first) if line.startswith("```")]
    assert len(fences) >= 2, f"no equation within the first {FIRST_SCREEN} lines"
    assert any("=" in line or "~" in line for line in first[fences[0] : fences[1]])


@pytest.mark.parametrize("path", WRITTEN)
def test_paragraphs_and_sentences_are_short(path: str) -> None:
    prose = paragraphs(text_of(path))
    long = [block for block in blocks(text_of(path)) if words(block) > MOST_IN_A_PARAGRAPH]
    assert not long, f"more than {MOST_IN_A_PARAGRAPH} words: {long}"
    every = [words(sentence) for paragraph in prose for sentence in sentences(paragraph)]
    assert sum(every) / len(every) <= WORDS_PER_SENTENCE, f"{sum(every) / len(every):.1f} words per sentence"


@pytest.mark.parametrize("path", WRITTEN)
def test_lines_are_not_wide(path: str) -> None:
    """Outside tables and code, which cannot be wrapped."""
    wide = [line for line in FENCE.sub("", text_of(path)).splitlines() if len(line) > COLUMNS and line[0] != "|"]
    assert not wide


@pytest.mark.parametrize("path", WRITTEN)
def test_links_lead_somewhere(path: str) -> None:
    for target, anchor in links(path):
        assert (ROOT / target).exists(), f"{path}: no {target}"
        if anchor:
            assert anchor in anchors(text_of(target)), f"{path}: {target} has no heading #{anchor}"


@pytest.mark.parametrize("path", WRITTEN)
def test_named_files_exist(path: str) -> None:
    """Files of the repository that a document names, in prose, tables and code."""
    prose = LINK.sub(r"\1", text_of(path))
    for name in set(PATH.findall(prose)) - MADE_BY_THE_READER:
        near = [ROOT / name, (ROOT / path).parent / name]
        assert any(p.exists() for p in near) or list(ROOT.glob(name)), f"{path}: no {name}"


def test_every_document_is_reached_from_the_readme_or_the_index() -> None:
    reached, open_ends = set(), ["README.md", "docs/index.md"]
    while open_ends:
        path = open_ends.pop()
        if path in {*WRITTEN, *GENERATED} - reached:
            reached.add(path)
            open_ends += [target for target, _ in links(path)]
    assert reached == {*WRITTEN, *GENERATED}


def test_the_architecture_names_every_room() -> None:
    rooms = {p.stem for p in (ROOT / "moa").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert rooms - {"__init__", "__main__"} == set(re.findall(r"`moa/(\w+)(?:/|\.py)`", text_of("ARCHITECTURE.md")))


SOUGHT = {
    "MOC's equation": ("docs/methods/moc.md", "c* = argmin over the simplex of c' M c"),
    "PAMA's Theorem 1": ("docs/methods/pama.md", "Theorem 1"),
    "where a preference becomes text": ("moa/lm/conditioning.py", "def build("),
    "where hypervolume is computed": ("moa/metrics/fronts.py", "def hypervolume("),
    "what reruns when a key changes": ("docs/experiment.md", "rerun"),
    "how to add a method": ("CONTRIBUTING.md", "## Add a method"),
}


@pytest.mark.parametrize("question", SOUGHT)
def test_what_a_reader_seeks_is_one_link_from_the_readme(question: str) -> None:
    file, holds = SOUGHT[question]
    assert file in {target for target, _ in links("README.md")}
    assert holds in text_of(file)


def test_the_readme_shows_one_policy_at_five_preferences() -> None:
    """As `python -m moa.report.example` wrote it after a run."""
    block = text_of("README.md").partition(example.BEGIN)[2].partition(example.END)[0]
    rows = [cells(line) for line in block.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == 5
    weights = [[float(cell) for cell in row[:2]] for row in rows]
    assert weights == [[0.0, 1.0], [0.25, 0.75], [0.5, 0.5], [0.75, 0.25], [1.0, 0.0]]  # config.yaml's grid
    assert all(row[2] and row[2] != "(blank)" for row in rows)
