"""Finds a method by the name of its file; there is no list to keep."""

from functools import cache
from importlib import import_module
from pathlib import Path

from pydantic import ValidationError

from moa.errors import MoaError, nearest, short
from moa.experiment.mistakes import removed_key, removed_value
from moa.experiment.removed import REMOVED
from moa.experiment.schema import Experiment
from moa.method import Method

LENDER = "single_objective"  # the kind of the rows that lend policies
NOT_METHODS = {"__init__", "catalogue"}


@cache
def names() -> tuple[str, ...]:
    """Return the names of all methods, sorted."""
    return tuple(sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in NOT_METHODS))


def load(row: str, section: dict[str, object], objectives: list[str]) -> Method:
    """Return the method of a row of the config; unknown names, keys and wrong types are MoaErrors."""
    kind = _kind(row, section)
    if kind not in names() and f"run.methods={kind}" in REMOVED:
        raise MoaError(removed_value(f"methods.{row}", kind, f"run.methods={kind}"))
    if kind not in names():
        raise MoaError(f"methods.{row}: there is no method '{short(kind)}'.{nearest(short(kind), names())}")
    cls: type[Method] = import_module(f"moa.methods.{kind}").Method
    try:
        settings = cls.schema.model_validate(section)
    except ValidationError as error:
        raise MoaError(
            "\n".join(_explain(row, kind, e, list(cls.schema.model_fields)) for e in error.errors())
        ) from None
    return cls(row, settings, objectives)


def _kind(row: str, section: dict[str, object]) -> str:
    return str(section.get("kind") or row)


def _explain(row: str, kind: str, error: object, known: list[str]) -> str:
    assert isinstance(error, dict)
    key, given = ".".join(str(part) for part in error["loc"]), error.get("input")
    if error["type"] == "extra_forbidden":
        entry = f"methods.{kind}.{key}"
        if entry in REMOVED:
            return removed_key(f"methods.{row}.{key}", entry)
        return f"methods.{row}: unknown key '{short(key)}'.{nearest(short(key), known)}"
    for entry in (f"methods.{kind}.{key}={given}", f"ppo.{key}={given}"):  # a row's `whiten` is its `ppo.whiten`
        if entry in REMOVED:
            return removed_value(f"methods.{row}.{key}", given, entry)
    return f"methods.{row}.{key}: {error['msg'].removeprefix('Value error, ')} (got {short(repr(given))})"


def rows(experiment: Experiment) -> dict[str, Method]:
    """Return every row that the run needs: those selected, and those that only lend policies to them."""
    objectives, evaluation = list(experiment.objectives), experiment.evaluation_preferences()
    found: dict[str, Method] = {}
    todo = list(experiment.run.methods)
    while todo:
        row = todo.pop(0)
        if row in found:
            continue
        found[row] = load(row, experiment.methods.get(row, {}), objectives)
        _check_lender(found[row], experiment)
        todo += [p.row for p in found[row].policies(evaluation)]
    return found


def _check_lender(method: Method, experiment: Experiment) -> None:
    """Refuse a row that borrows from another kind of row: what stands there is not one policy per objective."""
    borrowed = method.borrows()
    if borrowed is None:
        return
    key, lender = borrowed
    lenders = [row for row in {LENDER, *experiment.methods} if _kind(row, experiment.methods.get(row, {})) == LENDER]
    if lender not in lenders:
        raise MoaError(
            f"methods.{method.row}.{key}: '{lender}' is no row of kind {LENDER}, which trains one policy per objective;"
            f" name one.{nearest(lender, lenders)}"
        )
