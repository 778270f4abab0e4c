"""A thousand experiment files that nobody would write: each is a plan, or lines that say what is wrong with it.

They are made from the schema. Keys are missing, doubled, renamed or of a wrong type; numbers are extreme; text is odd;
and YAML, JSON and their bytes are broken in the ways in which files break.
"""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from moa.docs import reruns
from moa.docs.words import branches, section_of
from moa.errors import MoaError
from moa.experiment import reader, rewards, schema
from moa.experiment.rewards import Strict
from moa.methods import catalogue
from moa.plan import Plan

FILES = 1000
GOOD: dict[str, Any] = {
    "task": "tiny",
    "run": {"methods": ["reference", "mine", "pama"], "seeds": [0]},
    "data": {"source": "embedded"},
    "model": {"source": "scratch", "scratch": {}, "sft": {}},
    "objectives": {"sentiment": {"reward": "vader"}, "short": {"reward": "short", "judge": "other"}},
    "rewards": {"vader": {"kind": "vader"}, "short": {"kind": "conciseness"}, "other": {"kind": "length"}},
    "preferences": {"evaluation": {"points": [[0, 1], [0.5, 0.5], [1, 0]]}},
    "methods": {"mine": {"kind": "moc"}},
}
NUMBERS = [0, -1, 1, 3, 0.5, -0.0, 1e-308, 1e308, float("nan"), float("inf"), 2**31, 2**32, 2**63, 10**12, 10**30]
WORDS = ["", " ", "all", "index", "con", "no", "null", "1", "1e999", "0.5", "{prompt}", "{preference} {prompt}", "a/b"]
WORDS += [".", "..", "/", "~nobody-has-this-name/x", "/dev/zero", "/dev/null", "org/name", "x" * 300, "x/" * 3000]
WORDS += [
    "\u202etac",
    "\ufdd0",
    "\U0001f600",
    "e\u0301",
    "\u0130",
    "a: b",
    "- a",
    "&a *a",
    "<<",
    "!!str",
    "'",
    '"',
    "%",
    "@",
]
SHAPES: list[Any] = [
    None,
    True,
    [],
    {},
    [[]],
    {"": None},
    [None],
    [[0.5, 0.5], [0.5, 0.5]],
    {"kind": "moc"},
    ["moc", "Moc"],
]
VALUES = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(WORDS),
    st.sampled_from(SHAPES),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
)
MARKS = [
    "\t",
    "\ufeff",
    "\0",
    "&a ",
    "*a",
    "!!python/name:os.system ",
    "! ",
    "---\n",
    "...\n",
    "? ",
    "<<: *a\n",
    "[" * 40,
]
MARKS += [
    "{" * 40,
    '"',
    "'",
    "|\n",
    "\u2028",
    "\x85",
    "\x7f",
    "\\ud800",
    "%YAML 9.9\n",
    "- ",
    ": ",
    "#",
    "\r",
    "no",
    "010",
]


def keys(model: type[Strict], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Give the path of every key of a section and of the sections in it."""
    for name, field in model.model_fields.items():
        yield (*path, name)
        for branch in branches(field.annotation):
            if (inner := section_of(branch)) is not None:
                yield from keys(inner, (*path, name))


def every_key() -> list[tuple[str, ...]]:
    """Return every key that the schema knows; of rewards and rows too, whatever their kind."""
    found = [*keys(schema.Experiment, ()), *keys(schema.Objective, ("objectives", "sentiment"))]
    for model in get_args(get_args(rewards.Reward)[0]):
        found += keys(model, ("rewards", "short"))
    for name in catalogue.names():
        found += keys(
            catalogue.load(name, {}, ["a", "b"]).schema if name != "external" else EXTERNAL, ("methods", "mine")
        )
    return sorted({*found, ("methods", "mine", "kind"), ("run", "methods"), ("nonsense",), ("ppo", "stepz")})


EXTERNAL = catalogue.load("external", {"adapter": "owner/name"}, ["a", "b"]).schema
KEYS = every_key()


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """Return the good experiment with some keys missing, renamed, or of another value."""
    data: dict[str, Any] = json.loads(json.dumps(GOOD))
    for _ in range(draw(st.integers(0, 3))):
        path, value = draw(st.sampled_from(KEYS)), draw(VALUES)
        section = data
        for name in path[:-1]:
            inner = section.get(name)
            section[name] = inner = inner if isinstance(inner, dict) else {}
            section = inner
        how = draw(st.sampled_from(["set", "set", "set", "drop", "rename"]))
        if how == "drop":
            section.pop(path[-1], None)
        elif how == "rename":
            section[draw(st.sampled_from(WORDS))] = section.pop(path[-1], value)
        else:
            section[path[-1]] = value
    return data


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Return the bytes of a file: the experiment as YAML or JSON, then perhaps a line twice, or marks anywhere."""
    data = draw(changed())
    if draw(st.booleans()):
        text = yaml.safe_dump(data, allow_unicode=draw(st.booleans()), sort_keys=False, width=1000)
    else:
        text = json.dumps(data, indent=draw(st.sampled_from([None, 1, "\t"])))
    lines = text.splitlines(keepends=True)
    if draw(st.integers(0, 4)) == 0:
        place = draw(st.integers(0, len(lines) - 1))
        lines.insert(draw(st.integers(0, len(lines))), lines[place])
    text = "".join(lines)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.sampled_from(MARKS)) + text[place:]
    form = draw(st.sampled_from(["utf-8"] * 8 + ["utf-16", "latin-1"]))
    content = text.encode(form, errors="replace")
    cut = draw(st.integers(0, 20))
    return codecs.BOM_UTF8 + content if cut == 1 else content[: len(content) // 2] if cut == 2 else content


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        made = tmp_path_factory.mktemp("fuzz")
        patch.chdir(made)  # a source may be '.'
        yield made


OUTCOMES: list[str] = []


@settings(
    max_examples=FILES,
    deadline=None,
    phases=[Phase.generate],  # shrinking would take minutes, and the file is short
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(content=files())
def test_a_file_is_a_plan_or_lines_that_say_why_not(folder: Path, content: bytes) -> None:
    path = folder / "mine.yaml"
    path.write_bytes(content)
    try:
        plan = Plan(schema.parse(reader.read(path), str(path)), str(path))
        for section in reruns.jobs(plan).values():
            assert section is not None
        OUTCOMES.append("plan")
    except MoaError as error:
        OUTCOMES.append(str(error))
        for line in str(error).split("\n"):
            assert line.startswith(f"{path}: "), line[:300]
            assert len(line) < 1500 and not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", line), line[:300]


def test_the_files_above_were_of_every_kind() -> None:
    """Plans and refusals both; a fuzz whose files all fail in the same way shows nothing."""
    if not OUTCOMES:
        pytest.skip("shows what the fuzz above did")
    told = "\n".join(OUTCOMES)
    assert len(OUTCOMES) >= FILES and OUTCOMES.count("plan") > FILES / 20
    for words in (
        "stands twice",
        "unknown key",
        "is missing",
        "not valid YAML",
        "UTF-8",
        "Input should be",
    ):
        assert words in told, words
