"""Says what is wrong with an experiment file in the reader's words: pydantic names union branches that nobody wrote."""

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from moa.errors import nearest, short
from moa.experiment.removed import REMOVED
from moa.experiment.rewards import Strict


def _branches(annotation: Any) -> list[Any]:
    """Return what a value of `annotation` may be: the members of a union (None aside), else the annotation itself."""
    if get_origin(annotation) is Annotated:
        return _branches(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [branch for member in get_args(annotation) for branch in _branches(member) if branch is not type(None)]
    return [annotation]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Strict)


def _kinds(annotation: Any) -> list[str]:
    """Return the values of a section's `kind`, by which pydantic names a branch of a tagged union."""
    return (
        list(get_args(annotation.model_fields["kind"].annotation))
        if _is_section(annotation) and "kind" in annotation.model_fields
        else []
    )


def _locate(root: type[Strict], location: Sequence[Any]) -> tuple[str, Any]:
    """Return the key as the reader wrote it, and the type of what stands there.

    Pydantic's location holds, beside keys and indices, the name of every union branch that it went into
    (rewards.sentiment.vader.x) and '[key]' where the name of an entry itself is at fault; the reader wrote neither.
    """
    annotation: Any = root
    parts: list[str] = []
    for part in location:
        branches = _branches(annotation)
        if part == "[key]":
            break
        if len(branches) > 1:
            annotation = next((b for b in branches if part in _kinds(b)), Any)
            continue
        parts.append(short(str(part)))
        if _is_section(branches[0]):
            field = branches[0].model_fields.get(part)
            annotation = field.annotation if field else Any
        else:
            annotation = next(reversed(get_args(branches[0])), Any)
    return ".".join(parts), annotation


def removed_key(key: str, entry: str) -> str:
    """Return what to write instead of a key that is gone."""
    return f"key '{key}' was removed: {REMOVED[entry]}"


def removed_value(key: str, value: object, entry: str) -> str:
    """Return what to write instead of a value that is gone."""
    return f"{key}: '{value}' was removed: {REMOVED[entry]}"


def explain(root: type[Strict], error: Any) -> str:
    """Return one sentence on an error of pydantic's in `root`.

    It names the key, what is wrong, and the nearest valid name where a name is wrong. For a key or value that was
    removed it says what to write instead.
    """
    location, context = error["loc"], error.get("ctx", {})
    key, _ = _locate(root, location)
    given = error.get("input")
    shown = f" (got {short(repr(given))})" if isinstance(given, str | int | float | bool) else ""
    match error["type"]:
        case "extra_forbidden" if key in REMOVED:
            return removed_key(key, key)
        case "literal_error" if f"{key}={given}" in REMOVED:
            return removed_value(key, given, f"{key}={given}")
        case "extra_forbidden":
            _, section = _locate(root, location[:-1])
            known = [name for branch in _branches(section) if _is_section(branch) for name in branch.model_fields]
            return f"unknown key '{key}'.{nearest(short(str(location[-1])), known)}"
        case "missing":
            return f"key '{key}' is missing"
        case "union_tag_invalid":
            _, union = _locate(root, location)
            kinds = [kind for branch in _branches(union) for kind in _kinds(branch)]
            tag = short(context["tag"])
            return f"{key}.kind: there is no kind '{tag}'.{nearest(tag, kinds)}"
        case "union_tag_not_found":
            return f"key '{key}.kind' is missing"
        case "string_pattern_mismatch" if location[-1] == "function":
            return f"{key}: expected package.module:function{shown}"
        case "string_pattern_mismatch":
            return f"{key}: a name is made of letters, digits and underscores, and begins with a letter{shown}"
        case "string_type" if shown:
            return f"{key}: expected text{shown}; put it in quotes"
        case "model_type" | "dict_type":
            return f"{key}: expected a section of keys, got {'nothing' if given is None else type(given).__name__}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message}{shown}" if key else message
