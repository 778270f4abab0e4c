"""A field of the schema in words that a user knows: its type, its default, where that comes from, what it means."""

import ast
import copy
import inspect
import json
import textwrap
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import AfterValidator, JsonValue
from pydantic.fields import FieldInfo

from moa.experiment.rewards import Strict

PLURALS = {"number": "numbers", "text": "texts", "name": "names", "list": "lists"}
SOURCE = " Source: "
SECTION = "its defaults"


GUARD = 100  # a bound so far off catches a slip of the keyboard, and tells the reader nothing


def fields_of(section: type[Strict]) -> dict[str, FieldInfo]:
    """Return a section's fields, each described by the string under it.

    Pydantic would read the sources at every start of every job, for this page alone.
    """
    said = {key: text for one in reversed(section.__mro__) if issubclass(one, Strict) for key, text in _said(one)}
    fields = {name: copy.copy(field) for name, field in section.model_fields.items()}
    for name, field in fields.items():
        field.description = said.get(name)
    return fields


def _said(section: type) -> list[tuple[str, str]]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(tree, ast.ClassDef)
    return [
        (ast.unparse(key.target), str(text.value.value))
        for key, text in pairwise(tree.body)
        if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    ]


def branches(annotation: Any) -> list[Any]:
    """Return the members of a union, or the annotation itself."""
    if get_origin(annotation) in (Union, UnionType):
        return [branch for member in get_args(annotation) for branch in branches(member)]
    return [annotation]


def section_of(annotation: Any) -> type[Strict] | None:
    """Return the section that stands under a key; None where a value does."""
    return next((b for b in branches(annotation) if isinstance(b, type) and issubclass(b, Strict)), None)


def type_of(field: FieldInfo) -> str:
    """Return a field's type in words."""
    return _type(field.annotation, field.metadata)


def _type(annotation: Any, metadata: list[Any]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        given = [item.metadata if isinstance(item, FieldInfo) else [item] for item in arguments[1:]]
        return _type(arguments[0], [m for part in given for m in part])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_type(branch, metadata) for branch in branches(annotation)))
    if origin is Literal:
        return " | ".join(str(value) for value in arguments)
    if origin is list:
        least = "" if not any(isinstance(m, MinLen) for m in metadata) else ", at least one"
        return f"list of {_plural(_type(arguments[0], []))}{least}"
    if origin is tuple:
        return f"two {_plural(_type(arguments[0], []))}"
    if origin is dict:
        return "section" if arguments[1] is Any else f"names, each with a {_type(arguments[1], [])}"
    if annotation in (int, float):
        return f"{'whole number' if annotation is int else 'number'}{_bounds(metadata)}"
    if section_of(annotation) is not None:
        return "section"
    if annotation is str:  # whose only other constraint is a pattern
        return "name" if any(not isinstance(m, MinLen | MaxLen | AfterValidator) for m in metadata) else "text"
    return {bool: "true or false", Path: "file", JsonValue: "value", type(None): "null"}[annotation]


def _plural(words: str) -> str:
    return " or ".join(" ".join(PLURALS.get(word, word) for word in part.split(" ")) for part in words.split(" or "))


def _bounds(metadata: list[Any]) -> str:
    least = next((m.ge for m in metadata if isinstance(m, Ge) and float(str(m.ge)) > -GUARD), None)
    above = next((m.gt for m in metadata if isinstance(m, Gt)), None)
    most = next((m.le for m in metadata if isinstance(m, Le) and float(str(m.le)) < GUARD), None)
    below = next((m.lt for m in metadata if isinstance(m, Lt)), None)
    lower = f"of at least {least}" if least is not None else f"above {above}" if above is not None else ""
    upper = f"at most {most}" if most is not None else f"below {below}" if below is not None else ""
    return "".join(
        f"{sign} {part}" for sign, part in zip(("", "," if lower else ""), (lower, upper), strict=True) if part
    )


def default_of(field: FieldInfo) -> str:
    """Return a field's default as it would stand in an experiment file."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Strict):
        given = value.model_dump(exclude_unset=True)
        return value_of(given) if given else SECTION
    return value_of(value)


def value_of(value: Any) -> str:
    """Return a value as YAML on one line."""
    match value:
        case bool() | None:
            return json.dumps(value)
        case float():
            return f"{value:g}"
        case str():
            return value if value.replace("_", "").replace("-", "").isalnum() else json.dumps(value)
        case list() | tuple():
            return f"[{', '.join(map(value_of, value))}]"
        case dict():
            return f"{{{', '.join(f'{k}: {value_of(v)}' for k, v in value.items())}}}"
    return str(value)


def meaning_of(field: FieldInfo) -> str:
    """Return what a field means; '' where nobody has said it."""
    return _text(field).partition(SOURCE)[0]


def source_of(field: FieldInfo) -> str:
    """Return where a field's default comes from; '' where it has none of its own."""
    stated = _text(field).partition(SOURCE)[2].removesuffix(".")
    none = default_of(field) in ("required", "null", "{}", SECTION)
    return stated or ("" if none else "ours")


def _text(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())
