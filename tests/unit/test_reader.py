"""The reader of experiment files: what stands in them and nothing else, or one line that says where it is wrong."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from moa.errors import MoaError
from moa.experiment import reader

ROOT = Path(__file__).parents[2]
EXAMPLES = [ROOT / "config.yaml", ROOT / "tests/tiny.yaml", *sorted((ROOT / "experiments").glob("*.yaml"))]


def read(tmp_path: Path, content: str | bytes) -> Any:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return reader.read(path)


def complaint(tmp_path: Path, content: str | bytes) -> str:
    with pytest.raises(MoaError) as caught:
        read(tmp_path, content)
    path, _, said = str(caught.value).partition(": ")
    assert path == str(tmp_path / "mine.yaml") and "\n" not in said and len(said) < 300
    return said


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_our_own_files_mean_what_they_meant(path: Path) -> None:
    assert reader.read(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("task: a\nppo:\n  steps: 3\nrun: {}\nppo:\n  epochs: 1\n", "ppo", (2, 5)),
        ("ppo:\n  kl:\n    target: 0.1\n    place: heads\n    target: 0.2\n", "target", (3, 5)),
        ("run: {seeds: [0],\n  methods: [moc],\n  seeds: [1]}\n", "seeds", (1, 3)),
        ("rewards:\n- {a: 1,\n   'a': 2}\n", "a", (2, 3)),
        ('{"ppo": {"steps": 1,\n\t"epochs": 2,\n\t"steps": 3}}', "steps", (1, 3)),
        ("x: &a {b: 1,\n b: 2}\ny: *a\n", "b", (1, 2)),
    ],
)
def test_a_key_that_stands_twice(tmp_path: Path, text: str, key: str, lines: tuple[int, int]) -> None:
    said = f"key '{key}' stands twice, in lines {lines[0]} and {lines[1]}; keep one of them"
    assert complaint(tmp_path, text) == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-n", "--config", "run={seeds: [0], seeds: [1]}"], "--config run: key 'seeds' stands twice, in line 1"),
        (["--config=ppo={kl: {target: 1, target: 2}}", "-n"], "--config ppo: key 'target' stands twice, in line 1"),
        (["-C", "task=a", 'run={"a": 1}', "task=b"], "--config: the key 'task' stands twice; give it once"),
        (["--config", "run={seeds: [0]}", "-n", "--config", "run={methods: [moc]}"], "the key 'run' stands twice"),
    ],
)
def test_an_option_whose_key_stands_twice(arguments: list[str], said: str) -> None:
    with pytest.raises(MoaError, match=re.escape(said)):
        reader.check_options(arguments)


def test_options_that_are_no_sections_are_not_looked_into() -> None:
    reader.check_options(
        ["--config", "a={b: 1}", "c=x=y", "-R", "a=1", "a=1", "--cores", "2", "--configfile", "x", "x"]
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),  # Norway, an objective, a label
        ("On", "On"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("NULL", None),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),  # ninety to YAML 1.1
        ("010", 10),  # eight to YAML 1.1
        ("1e-5", 1e-5),  # text to YAML 1.1
        ("-1.5E3", -1500.0),
        (".5", 0.5),
        ("12", 12),
        ("-.inf", float("-inf")),
        ("'12'", "12"),
        ("0x10", "0x10"),
        ("12e4567", float("inf")),
        ("[no, 1]", ["no", 1]),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_scalars_are_yaml_1_2s(tmp_path: Path, text: str, value: object) -> None:
    assert read(tmp_path, f"a: {text}\n") == {"a": value}
    assert type(read(tmp_path, f"a: {text}\n")["a"]) is type(value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "expected a mapping of keys, got nothing: the file is empty; `moa init` writes one"),
        ("# only words\n", "expected a mapping of keys, got nothing"),
        ("- task\n", "expected a mapping of keys, got list"),
        ("[]", "expected a mapping of keys, got list"),
        ("task", "expected a mapping of keys, got str"),
        ("a:\n\tb: 1\n", "not valid YAML: line 2, column 1: while scanning for the next token found character '\\t'"),
        ("1: x\n", "line 1: the key '1' is no text to YAML; put it in quotes"),
        ("a: {true: x}\n", "line 1: the key 'true' is no text to YAML; put it in quotes"),
        ("a:\n  null: x\n", "line 2: the key 'null' is no text"),
        ("? [a, b]\n: 1\n", "line 1: a key is text, not a list or a section"),
        ("a: 1\n---\nb: 2\n", "line 2: a second document begins; one file is one experiment"),
        ("a: !!python/name:os.system x\n", "line 1: the tag 'tag:yaml.org,2002:python/name:os.system' means nothing"),
        ("a: !!int '1'\n", "line 1: the tag 'tag:yaml.org,2002:int' means nothing here; leave it out"),
        ("a: 1\nb: !mine [1]\n", "line 2: the tag '!mine' means nothing here; leave it out"),
        ("a: &a {b: 1}\nc: {<<: *a}\n", "line 2: `<<` merges nothing here; write the keys out"),
        ("a: [1, 2\n", "not valid YAML: line 2, column 1: while parsing a flow sequence expected ',' or ']'"),
        ("a: b: c\n", "not valid YAML: line 1, column 5: mapping values are not allowed here"),
        ("a: 1\nb: *c\n", "not valid YAML: line 2, column 4: found undefined alias 'c'"),
        ("a: 1\nb: \x07\n", "not valid YAML: line 2: the character U+0007 is not allowed"),
        ('a: {b: "\\0"}\n', "a.b: the character U+0000 is not allowed"),
        ('{"a": ["\\ud800"]}', "a: the character U+D800 is not allowed"),
        ("task: a\n".encode("utf-16"), "cannot be read as an experiment file: it is UTF-16; save it as UTF-8"),
        ("task: é\n".encode("latin-1"), "cannot be read as an experiment file: 'utf-8' codec can't decode"),
        ("a: " + "[" * 33 + "]" * 33, "line 1: nested more than 32 deep"),
        ("a: " + "{b: " * 20_000 + "}" * 20_000, "line 1: nested more than 32 deep"),
        ("".join(f"{' ' * i}a:\n" for i in range(1000)), "line 33: nested more than 32 deep"),
        ('{"a": ' * 5_000 + "1" + "}" * 5_000, "line 1: nested more than 32 deep"),
        ("a: &a [*a]\n", "line 1: more than 100000 values, or nested more than 32 deep, with its anchors"),
        (
            "__use_yte__: true\na: ?open('x', 'w')\n",
            "the key '__use_yte__' makes Snakemake run what stands in the file",
        ),
        (b"#" * (2**20 + 1), "cannot be read as an experiment file: 1048577 bytes, and 1048576 are the most"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_mistake_is_one_line_that_names_its_place(tmp_path: Path, content: str | bytes, said: str) -> None:
    assert complaint(tmp_path, content).startswith(said)


def test_anchors_that_multiply_are_counted_and_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine times nine, three times over, are seven thousand values."""
    monkeypatch.setattr(reader, "MOST", 5_000)
    names = "abcd"
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip(names, names[1:], strict=False)]
    assert "more than 5000 values" in complaint(tmp_path, "\n".join(lines))
    assert read(tmp_path, "a: &a {x: 1}\nb: [*a, *a]\n") == {"a": {"x": 1}, "b": [{"x": 1}, {"x": 1}]}


def test_json_is_read_as_json(tmp_path: Path) -> None:
    """Its numbers and pairs of surrogates are not YAML's; tabs indent it; a mark of the byte order may begin it."""
    data = {"a": 1e-5, "b": ["\U0001f600", None, True, -1], "c": {"no": "\\/"}}
    for indent in (None, 2, "\t"):
        assert read(tmp_path, "\ufeff" + json.dumps(data, indent=indent)) == data


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/stdin"])
def test_what_never_ends_is_not_read(name: str) -> None:
    with pytest.raises(MoaError, match="it is a folder, a pipe or a device, not a file|cannot be read"):
        reader.read(Path(name))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mine.yaml")
    with pytest.raises(MoaError, match=r"mine.yaml: cannot be read as an experiment file: it is a folder, a pipe or a"):
        reader.read(tmp_path / "mine.yaml")


def test_changes_on_top_replace_values_and_join_sections() -> None:
    data = {"ppo": {"steps": 1, "kl": {"target": 0.1}}, "run": {"seeds": [0, 1]}, "model": None}
    changes = {"ppo": {"kl": {"place": "heads"}}, "run": {"seeds": ["3"]}, "model": {"dtype": "bfloat16"}, "task": "a"}
    assert reader.overridden(data, changes) == {
        "ppo": {"steps": 1, "kl": {"target": 0.1, "place": "heads"}},
        "run": {"seeds": ["3"]},
        "model": {"dtype": "bfloat16"},
        "task": "a",
    }
    assert data["model"] is None and data["ppo"] == {"steps": 1, "kl": {"target": 0.1}}
