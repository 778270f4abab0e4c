"""A second value for every key: the experiment in which keys are changed, and what to change where a rule does not do.

Nothing here is run: plans are made, and two plans are compared (moa/docs/reruns.py).
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from moa.docs.words import branches, section_of
from moa.errors import MoaError
from moa.experiment import schema
from moa.methods import catalogue
from moa.plan import Plan

Tree = dict[str, Any]
HERE = Path(__file__)
# Everything that a run can have: hub data, a warm start, every method.
EXPERIMENT: Tree = {
    "task": "probe",
    "run": {"methods": list(catalogue.names()), "seeds": [0]},
    "data": {"source": "owner/data", "text": "text"},
    "model": {"source": "scratch", "scratch": {}, "sft": {}},
    "conditioning": {"warm_start": {}},
    "objectives": {"first": {"reward": "a"}, "second": {"reward": "b", "judge": "d"}},
    "rewards": {
        "a": {"kind": "vader"},
        "b": {"kind": "conciseness"},
        "c": {"kind": "readability"},
        "d": {"kind": "linear", "data": {"source": "owner/rows", "label": "label"}},
    },
    "preferences": {"training": {"divisions": 2}, "evaluation": {"divisions": 2}},
    "methods": {"external": {"adapter": "owner/adapter"}, "mine": {"kind": "single_objective"}},
}
REWARDS: Tree = {  # the least that a kind needs
    "classifier": {"source": "owner/model"},
    "linear": {"data": {"source": "owner/rows", "label": "label"}},
    "transformer": {
        "source": "owner/model",
        "data": {"source": "owner/rows", "chosen": "chosen", "rejected": "rejected"},
    },
    "python": {"function": "rewards.mine:score"},
    "endpoint": {
        "url": "https://api.example.com/v1",
        "model": "judge",
        "template": "How helpful is {response}, from 0 to 10?",
        "low": 0,
        "high": 10,
    },
}
PROMPTS = {"text": None, "prompt": "prompt", "response": "response"}
OTHER = {"response": None, "responses": {"source": "owner/other", "prompt": "prompt", "response": "response"}}
PAIRS = {"objective": "first", "pairs": {"source": "owner/pairs", "prompt": "prompt"}}
POINTS = {"divisions": None, "points": [[0.5, 0.5]]}
THREE = {"objectives": {"third": {"reward": "c"}}}
RIC13 = {"divisions": None, "preset": "ric13"}
# What else must stand in the experiment for a key, or all keys of a section, to be allowed.
CONTEXTS: Tree = {
    "data.prompt": {"data": PROMPTS},
    "data.response": {"data": PROMPTS},
    "data.responses": {"data": PROMPTS | OTHER},
    "data.responses.": {"data": PROMPTS | OTHER},
    "data.prompt_start": {"data": {"prompt_end": "end"}},
    "conditioning.chat_template_kwargs": {"conditioning": {"chat": True}},
    "model.sft": {"model": {"source": "owner/model", "scratch": None}},
    "ppo.advantages": {"ppo": {"group_size": 4}},
    "preferences.dirichlet": {"run": {"methods": ["linear", "pama", "single_objective"]}},  # none with a running mean
    "preferences.training.preset": THREE,
    "preferences.evaluation.preset": THREE,
    "preferences.training.points": {"preferences": {"training": POINTS}},
    "preferences.evaluation.points": {"preferences": {"evaluation": POINTS}},
    "methods.external.model": {"methods": {"external": {"adapter": None, "model": "owner/model"}}},
    "methods.external.responses": {"methods": {"external": {"adapter": None, "responses": str(HERE)}}},
    "methods.mine.kind": {"run": {"methods": ["linear", "mine"]}, "methods": {"mine": {"kind": "linear"}}},
    "methods.modpo.pairs.": {"methods": {"modpo": PAIRS}},
    "methods.modpo.pairs.prompt_end": {"methods": {"modpo": {"pairs": {"prompt": None, "prompt_end": "end"}}}},
}
LABELS: Tree = {  # of rewards.<kind>.data
    "target": {"label": None, "target": "target"},
    "chosen": {"label": None, "chosen": "chosen", "rejected": "rejected"},
    "rejected": {"label": None, "chosen": "chosen", "rejected": "rejected"},
}
# Values that no rule would find.
VALUES: Tree = {
    "conditioning.chat_template_kwargs": {"enable_thinking": False},
    "run.methods": ["linear", "pama"],
    "run.seeds": [0, 1],
    **{f"rewards.{name}.url": "https://other.example.com/v1" for name in "ac"},
    **{f"rewards.{name}.pattern": r"score (\d+)" for name in "ac"},
    "objectives.first.reward": "c",
    "objectives.first.judge": "c",
    "evaluation.reference_point": {"first": 0.0},
    "preferences.training.points": [[0.2, 0.8]],
    "preferences.evaluation.points": [[0.2, 0.8]],
    "methods.external.responses": str(HERE.with_name("words.py")),
    "methods.mine.kind": "gdpo",
    "methods.modpo.objective": "first",
    "methods.morlhf.corners": "mine",
    "methods.mod.ingredients": "mine",
    "methods.rewarded_soups.ingredients": "mine",
}
# Changes of more than the key itself.
CHANGES: Tree = {
    "model.source": {"model": {"source": "owner/model", "scratch": None}},
    "model.scratch": {"model": {"source": "owner/model", "scratch": None}},
    "data.responses": {"data": {"response": "response", "responses": None}},
    "preferences.training.preset": {"preferences": {"training": RIC13}},
    "preferences.evaluation.preset": {"preferences": {"evaluation": RIC13}},
    "methods.modpo.pairs": {"methods": {"modpo": PAIRS}},
}


def merged(tree: Tree, *changes: Tree) -> Tree:
    """Return a tree with others laid on top of it, key by key."""
    for change in changes:
        both = {
            k: merged(tree[k], v) for k, v in change.items() if isinstance(v, dict) and isinstance(tree.get(k), dict)
        }
        tree = {**tree, **change, **both}
    return tree


def planned(*changes: Tree) -> Plan:
    """Return the plan of the experiment with changes."""
    return _planned(json.dumps(merged(EXPERIMENT, *changes)))


@cache
def _planned(experiment: str) -> Plan:
    return Plan(schema.parse(json.loads(experiment)), "probe")


def context(path: str) -> Tree:
    """Return what a key needs beside it: what its sections need (entries that end in a dot), and its own."""
    parts = path.split(".")
    sections = [CONTEXTS.get(".".join(parts[:i]) + ".", {}) for i in range(1, len(parts))]
    return merged({}, *sections, CONTEXTS.get(path, {}))


def reward(kind: str, name: str, key: str = "") -> Tree:
    """Return the experiment's reward `name` as one of a kind, with what `key` of its data needs."""
    spec = {"kind": kind, **REWARDS.get(kind, {})}
    return {"rewards": {name: merged(spec, {"data": LABELS[key]}) if key in LABELS else spec}}


def at(path: str, value: Any) -> Tree:
    """Return the tree that holds one value."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return dict(value)


def changes(path: str, field: FieldInfo, value: Any) -> Iterator[Tree]:
    """Give changes that may turn the value of a key into another one; the first that is allowed will do."""
    if path in CHANGES or path in VALUES:
        yield CHANGES.get(path) or at(path, VALUES[path])
    for candidate in _candidates(field.annotation, value):
        if candidate != value:
            yield at(path, candidate)


def _candidates(annotation: Any, value: Any) -> list[Any]:
    found: list[Any] = []
    for member in branches(annotation):
        branch = get_args(member)[0] if get_origin(member) is Annotated else member
        if get_origin(branch) is Literal:
            found += get_args(branch)
        elif branch is bool:
            found += [True, False]
        elif branch is int:
            found += [2 * value, value // 2, value + 1] if value else [1, 7, 10]
        elif branch is float:
            found += [2 * value, value / 2] if value else [0.5]
        elif branch is str:
            found += [
                "other",
                "owner/other",
                "{preference}; {prompt}",
                "; {prompt}",
                "{prompt}; {response}",
                "other:score",
            ]
        elif get_origin(branch) is list:
            found.append(["other"])
        elif get_origin(branch) is tuple:
            found += [[1, 50], [0.1, 0.9]]
        elif section_of(branch) is not None:
            found.append({} if value is None else None)
    return found


def second(path: str, field: FieldInfo, value: Any, *given: Tree) -> Plan:
    """Return the plan of an experiment in which a key has a second value.

    Raises:
        MoaError: no value that is tried is allowed, and CONTEXTS and VALUES name none.
    """
    refused = "nothing to try"
    for change in changes(path, field, value):
        try:
            return planned(*given, change)
        except MoaError as error:
            refused = str(error)
    raise MoaError(f"{path}: no second value found; name one in {HERE.name} ({refused})")
