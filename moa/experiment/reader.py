"""The one reader of experiment files, YAML or JSON, for `moa` and for the workflow.

What YAML would decide without a word is an error here, with its line: a key that stands twice, a key that is no text, a
tag, a second document. Scalars are read as YAML 1.2 has them: `no`, `on` and dates are text, 1e-5 is a number, 010 is
ten. What would never end is refused: files that are no files, nesting, and anchors that multiply.
"""

import json
import re
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from moa.errors import MoaError, short

LARGEST = 2**20  # bytes of a file
DEEPEST = 32  # sections within sections; the schema has six
MOST = 100_000  # values, after anchors are written out
TAGS = yaml.SafeLoader("")  # the tag that a scalar has where none is written
WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
INTEGER = re.compile(r"[-+]?[0-9]{1,40}")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
YTE = "__use_yte__"
SPECIAL = {"inf": float("inf"), "nan": float("nan")}
MAPPING, SEQUENCE, STRING = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:str"
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read(path: Path) -> dict[str, Any]:
    """Return the keys of an experiment file as they stand in it; `moa.experiment.schema` validates them.

    Raises:
        MoaError: no such file, not a regular one, not UTF-8, not YAML, or not one mapping of keys; one line, which
            names the place in the file.
    """
    try:
        return _mapping(_text(path))
    except MoaError as error:
        raise MoaError(f"{path}: {error}") from None


def check_options(arguments: Sequence[str]) -> None:
    """Refuse a key that stands twice among Snakemake's `--config KEY=VALUE`, or in such a value: it keeps the last.

    Raises:
        MoaError: names the key.
    """
    taking, given = False, set[str]()
    for argument in arguments:
        option, _, value = argument.partition("=")
        if argument.startswith("-"):
            taking, argument = option in ("--config", "-C"), value
        key, equals, text = argument.partition("=")
        if not taking or not equals:
            continue
        if key in given:
            raise MoaError(f"--config: the key {short(key)!r} stands twice; give it once, a section with all its keys")
        given.add(key)
        if text.lstrip().startswith(("{", "[")):
            try:
                _Builder().value(_compose(text), 0)
            except MoaError as error:
                raise MoaError(f"--config {short(key)}: {error}") from None


def overridden(data: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `data` with `changes` on top, section by section; a value that is no section is replaced whole."""
    made = dict(data)
    for key, value in changes.items():
        before = made.get(key)
        made[key] = overridden(before, value) if isinstance(before, dict) and isinstance(value, Mapping) else value
    return made


def _text(path: Path) -> str:
    try:
        kept = path.stat()
        if not stat.S_ISREG(kept.st_mode):
            raise MoaError("cannot be read as an experiment file: it is a folder, a pipe or a device, not a file")
        if kept.st_size > LARGEST:
            raise MoaError(f"cannot be read as an experiment file: {kept.st_size} bytes, and {LARGEST} are the most")
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)  # of a file that says 0 bytes and goes on
    except FileNotFoundError:
        raise MoaError("no such experiment file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise MoaError(f"cannot be read as an experiment file: {error}") from None
    if content.startswith(BYTE_ORDER_MARKS):
        raise MoaError("cannot be read as an experiment file: it is UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MoaError(f"cannot be read as an experiment file: {error}; save it as UTF-8") from None


def _mapping(text: str) -> dict[str, Any]:
    """Return what a file's text holds."""
    json_file = _is_json(text)
    # Raw tabs in JSON are space between values; YAML knows none there.
    node = _compose(text.replace("\t", " ") if json_file else text)
    if node is None:
        raise MoaError("expected a mapping of keys, got nothing: the file is empty; `moa init` writes one")
    made = _Builder().value(node, 0)
    if not isinstance(made, dict):
        raise MoaError(f"expected a mapping of keys, got {type(made).__name__}")
    made = json.loads(text) if json_file else made  # its numbers and escapes are JSON's own
    _refuse_strange(made, "")
    if YTE in made:
        raise MoaError(f"the key '{YTE}' makes Snakemake run what stands in the file as Python; leave it out")
    return made


def _refuse_strange(value: Any, key: str) -> None:
    """Refuse characters that no file's name, terminal or table can hold: control characters, halves of a pair."""
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_strange(name, key)
            _refuse_strange(item, f"{key}.{name}".removeprefix("."))
    elif isinstance(value, list):
        for item in value:
            _refuse_strange(item, key)
    elif isinstance(value, str):
        strange = next((c for c in value if c not in "\t\n\r" and unicodedata.category(c) in ("Cc", "Cs")), None)
        if strange is not None:
            raise MoaError(f"{short(key) or 'a key'}: the character U+{ord(strange):04X} is not allowed")


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _compose(text: str) -> yaml.Node | None:
    """Return the tree of the only document; depth is looked at first, because composing recurses."""
    depth = documents = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            documents += isinstance(event, yaml.DocumentStartEvent)
            if depth > DEEPEST:
                raise MoaError(f"line {event.start_mark.line + 1}: nested more than {DEEPEST} deep")
            if documents > 1:
                raise MoaError(
                    f"line {event.start_mark.line + 1}: a second document begins; one file is one experiment"
                )
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise MoaError(f"not valid YAML: {_problem(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise MoaError(f"not valid YAML: line {line}: the character U+{error.character:04X} is not allowed") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an escape beyond Unicode
        raise MoaError(f"not valid YAML: {' '.join(str(error).split())[:200]}") from None


def _problem(error: yaml.MarkedYAMLError) -> str:
    """Return an error of the YAML parser in one line."""
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    tab = "; indent with spaces, not with tabs" if "'\\t'" in str(error.problem) else ""
    return where + " ".join(map(short, filter(None, (error.context, error.problem)))) + tab


class _Builder:
    """Makes values of a tree's nodes, and counts them: anchors may multiply what a short file holds."""

    def __init__(self) -> None:
        self.values = 0

    def value(self, node: yaml.Node, depth: int) -> Any:
        line = node.start_mark.line + 1
        self.values += 1
        if self.values > MOST or depth > DEEPEST:  # an anchor may hold itself
            raise MoaError(
                f"line {line}: more than {MOST} values, or nested more than {DEEPEST} deep, with its anchors"
            )
        if isinstance(node, yaml.MappingNode):
            _only(node, MAPPING)
            return self.section(node, depth)
        if isinstance(node, yaml.SequenceNode):
            _only(node, SEQUENCE)
            return [self.value(item, depth + 1) for item in node.value]
        return _scalar(node)

    def section(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for name, item in node.value:
            line = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode):
                raise MoaError(f"line {line}: a key is text, not a list or a section")
            key = _scalar(name)
            if name.value == "<<" and name.style is None:
                raise MoaError(f"line {line}: `<<` merges nothing here; write the keys out")
            if not isinstance(key, str):
                raise MoaError(f"line {line}: the key {short(name.value)!r} is no text to YAML; put it in quotes")
            if key in lines:
                where = f"line {line}" if lines[key] == line else f"lines {lines[key]} and {line}"
                raise MoaError(f"key {short(key)!r} stands twice, in {where}; keep one of them")
            lines[key] = line
            made[key] = self.value(item, depth + 1)
        return made


def _only(node: yaml.Node, tag: str) -> None:
    """Refuse what has a tag: nothing that a file names is made of it."""
    if node.tag != tag:
        raise MoaError(f"line {node.start_mark.line + 1}: the tag {short(node.tag)!r} means nothing here; leave it out")


def _scalar(node: yaml.ScalarNode) -> Any:
    """Return the value of a scalar by YAML 1.2's core schema."""
    text = node.value
    _only(node, TAGS.resolve(yaml.ScalarNode, text, (node.style is None, node.style is not None)))
    if node.style is not None:
        return text
    if text.lower() in WORDS and text in (text.lower(), text.upper(), text.capitalize()):
        return WORDS[text.lower()]
    if INTEGER.fullmatch(text):
        return int(text)
    if FLOAT.fullmatch(text):
        return float(text)
    sign, dot, word = text.rpartition(".")
    if dot and sign in ("", "-", "+") and word in (word.lower(), word.upper(), word.capitalize()):
        special = SPECIAL.get(word.lower())
        return text if special is None else -special if sign == "-" else special
    return text
