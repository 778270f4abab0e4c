"""What a job is given as a file: its name is its content, what was damaged is noticed, and JSON does as before."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from moa.errors import MoaError
from moa.job import command
from moa.store import sections

LONG = json.dumps({"training": [[i / 20_000, 1 - i / 20_000] for i in range(10_001)]})


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def parsed(*arguments: str) -> Namespace:
    return command.parser("A stage.", "files*", row=str).parse_args([*arguments, "--row", "moc"])


def test_a_section_that_no_command_line_holds_arrives_whole() -> None:
    """Linux lets one argument be 128 KiB."""
    path = sections.keep(LONG)
    assert len(LONG) > 128 * 1024 and len(path) < 60
    assert parsed("--section", path).section == LONG


def test_the_name_is_the_content() -> None:
    first, second = sections.keep('{"a": 1}'), sections.keep('{"a": 2}')
    assert first != second and sections.keep('{"a": 1}') == first
    assert sorted(map(str, sections.FOLDER.iterdir())) == sorted([first, second])


def test_a_job_that_is_started_by_hand_may_have_the_json_itself() -> None:
    assert parsed("--section", '{"task": "t"}').section == '{"task": "t"}'
    Path("mine.json").write_text('{"task": "t"}')
    assert parsed("--section", "mine.json").section == '{"task": "t"}'


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_text('{"a": 7}'), "does not hold what the plan wrote"),
        (lambda path: path.write_text('{"a"'), "not a section of an experiment"),
        (lambda path: path.write_bytes(b"\xff\xff"), "not a section of an experiment"),
        (lambda path: path.write_text("[" * 100_000), "not a section of an experiment"),
        (lambda path: path.write_text("[1]"), "does not hold what the plan wrote"),
    ],
)
def test_a_damaged_section_is_one_line_and_the_next_plan_writes_it_anew(damage, said: str) -> None:  # type: ignore[no-untyped-def]
    path = Path(sections.keep('{"a": 1}'))
    damage(path)
    with pytest.raises(MoaError) as caught:
        parsed("--section", str(path))
    assert str(caught.value).startswith(f"--section {path}: {said}") and "\n" not in str(caught.value)
    assert "run snakemake again, which writes it anew" in str(caught.value)
    assert sections.keep('{"a": 1}') == str(path) and path.read_text() == '{"a": 1}'


def test_a_list_of_files_goes_as_one_argument() -> None:
    """Five thousand paths of forty characters are 200 000 characters."""
    paths = [f"results/{'t' * 20}/policies/{i:07}" for i in range(5_000)]
    found = parsed("--section", "{}", "--files", sections.listed(paths))
    assert [str(path) for path in found.files] == paths
    assert parsed("--section", "{}", "--files", sections.listed([])).files == []
    assert parsed("--section", "{}", "--files", "a", "b").files == [Path("a"), Path("b")]
