"""Makes docs/experiment.md: every key of the experiment file, of every reward and of every method, from the schema."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from moa.docs import probes, reruns, words
from moa.experiment import rewards, schema
from moa.experiment.rewards import Strict
from moa.method import LoopSettings, Settings
from moa.plan import Plan

HEAD = """# The experiment file

Generated from the schema by `python -m moa.docs`; a test keeps it up to date.

An experiment file is one task, complete in itself; `config.yaml` is a commented one. `moa check mine.yaml` names every
mistake in yours.

**Source** of a default: a paper, with the section of [papers.md](papers.md); a study, under `studies/`; or *ours*.

**Reruns**: `train →` means training and everything after it. It is computed: the key is changed in an experiment that
has everything, and the jobs that then receive something else are named. `train jobs come or go` means that policies are
added or dropped, with what follows them. Without a warm start and without `ric` no texts are scored; what says
`texts →` then starts at `reference`. Jobs run in this order:

| word | rules | waits for |
|---|---|---|
"""
ITS_KEYS = "its keys"  # in the place of what reruns


@dataclass(frozen=True)
class Case:
    """One way in which a section's keys can matter: where they stand in the experiment, and beside what."""

    prefix: str
    words: str = ""
    given: Callable[[str], probes.Tree] = lambda key: {}


@dataclass(frozen=True)
class Part:
    """A table of the page."""

    title: str
    text: str
    fields: Mapping[str, FieldInfo]
    cases: tuple[Case, ...]


def parts() -> list[Part]:
    """Return the tables of the page in their order."""
    fields = words.fields_of(schema.Experiment)
    found = [Part("", "", fields, (Case(""),))]
    for name, field in fields.items():
        model = words.section_of(field.annotation)
        if model is not None:
            found += [_part(path, inner) for path, inner in _nested(model, name)]
    objective = get_args(fields["objectives"].annotation)[1]
    return [*found, _part("objectives.<name>", objective, "objectives.first"), *_rewards(), *_methods()]


def _part(title: str, model: type[Strict], path: str | None = None) -> Part:
    cases: tuple[Case, ...] = (Case(path or title),)
    if title == "model.lora":
        cases += (Case(title, "with sft.lora", lambda key: {"model": {"sft": {"lora": True}}}),)
    return Part(title, _doc(model), words.fields_of(model), cases)


def _doc(model: type[Strict]) -> str:
    return " ".join((model.__doc__ or "").split())


def _nested(model: type[Strict], path: str) -> Iterator[tuple[str, type[Strict]]]:
    """Give a section and every section in it, with their paths."""
    yield path, model
    for name, field in model.model_fields.items():
        inner = words.section_of(field.annotation)
        if inner is not None:
            yield from _nested(inner, f"{path}.{name}")


def _rewards() -> Iterator[Part]:
    models = {
        get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(get_args(rewards.Reward)[0])
    }
    kind = FieldInfo(annotation=str, description=f"Which reward this is: {', '.join(models)}.")
    yield Part("rewards.<name>", "Every reward has a kind, whose other keys follow.", {"kind": kind}, ())
    for name, model in models.items():
        own = {key: field for key, field in words.fields_of(model).items() if key != "kind"}
        yield Part(f"rewards.<name>, kind {name}", _doc(model), own, _reward_cases(name, ""))
    title = "rewards.<name>.data, kinds linear and transformer"
    yield Part(title, _doc(rewards.Labelled), words.fields_of(rewards.Labelled), _reward_cases("linear", ".data"))


def _reward_cases(kind: str, inner: str) -> tuple[Case, ...]:
    judged = {"objectives": {"first": {"judge": "c"}}}
    return (
        Case(f"rewards.a{inner}", "", lambda key: probes.reward(kind, "a", key)),
        Case(f"rewards.c{inner}", "as a judge", lambda key: probes.merged(probes.reward(kind, "c", key), judged)),
    )


def _methods() -> Iterator[Part]:
    kinds: dict[type[Settings], list[str]] = {}
    for name, row in probes.planned().rows.items():
        kinds.setdefault(row.schema, []).append(name)
    loop = sorted(name for model, names in kinds.items() if issubclass(model, LoopSettings) for name in names)
    own_scale = [name for name in loop if "whiten" in _own(probes.planned().rows[name].schema)]
    none = sorted(name for model in (Settings, LoopSettings) for name in kinds.get(model, []))
    text = f"Kinds without other keys: {', '.join(none)}."
    yield Part("methods.<row>", text, words.fields_of(Settings), (Case("methods.mine"),))
    whiten = {"whiten": words.fields_of(LoopSettings)["whiten"]}
    text = f"{_doc(LoopSettings)} {' and '.join(own_scale)} have a default of their own, below."
    shared = ", ".join(name for name in loop if name not in own_scale)
    yield Part(f"methods.<row>, kinds {shared}", text, whiten, (Case("methods.linear"),))
    for model, names in kinds.items():
        for path, inner in _nested(model, f"methods.{names[0]}"):
            own = _own(inner)
            title = path.replace(names[0], "<row>", 1) + f", kind{'s' * (len(names) > 1)} {', '.join(names)}"
            pages = ", ".join(f"[{name}](methods/{name}.md)" for name in names)
            if own:
                yield Part(title, f"{_doc(inner)} More: {pages}.".strip(), own, (Case(path),))


def _own(model: type[Strict]) -> dict[str, FieldInfo]:
    """Return a section's keys but those that it has as every row of the loop has them."""
    shared = LoopSettings.model_fields
    return {k: f for k, f in words.fields_of(model).items() if k not in shared or f.default != shared[k].default}


def undescribed() -> list[str]:
    """Return the keys whose meaning nobody has said, each with its table."""
    return [f"{p.title}: {key}" for p in parts() for key, field in p.fields.items() if not words.meaning_of(field)]


def effect(part: Part, key: str, field: FieldInfo) -> str:
    """Return what reruns when a key changes, in each of its part's cases."""
    may_be_null = type(None) in words.branches(field.annotation)
    if (not part.title and key != "task") or (words.section_of(field.annotation) and not may_be_null):
        return ITS_KEYS
    found = {}
    for case in part.cases:
        path = f"{case.prefix}.{key}".removeprefix(".")
        given = (probes.context(path), case.given(key))
        old = probes.planned(*given)
        found[case.words] = reruns.effect(old, probes.second(path, field, _value(old, path), *given))
    if len(set(found.values())) == 1:
        return found[""]
    return "; ".join(f"{words}: {text}" if words else text for words, text in found.items())


def _value(plan: Plan, path: str) -> Any:
    """Return the value of a key in a plan's experiment; a method's settings with their defaults."""
    node: Any = plan.experiment
    names = path.split(".")
    if names[0] == "methods":
        node, names = plan.rows[names[1]].settings, names[2:]
    for name in names:
        node = node[name] if isinstance(node, dict) else getattr(node, name)
    return node


def render() -> str:
    """Return the page as Markdown."""
    order = [f"| {job} | {', '.join(rules)} | {', '.join(reruns.AFTER[job])} |" for job, rules in reruns.RULES.items()]
    return HEAD + "\n".join(order) + "\n\n" + "\n".join(_table(part) for part in parts())


def _table(part: Part) -> str:
    """Return a part; what reruns stands above the table where it is the same for all of its keys."""
    effects = {key: effect(part, key, field) for key, field in part.fields.items()} if part.cases else {}
    same = len(effects) > 1 and len(set(effects.values())) == 1
    lines = [f"## {_escape(part.title) or 'The file'}\n", *([f"{_escape(part.text)}\n"] if part.text else [])]
    if same:
        lines.append(f"**Reruns**, whichever key changes: {next(iter(effects.values()))}\n")
    columns = ["key", "type", "default", "source", "meaning", *(["reruns"] if effects and not same else [])]
    if part.fields:
        lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for key, field in part.fields.items():
        cells = [
            f"`{key}`",
            *(read(field) for read in (words.type_of, words.default_of, words.source_of, words.meaning_of)),
        ]
        cells += [effects[key]] if "reruns" in columns else []
        lines.append(f"| {' | '.join(map(_escape, cells))} |")
    return "\n".join(lines).rstrip() + "\n"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
