"""Every mistake in an experiment file is one sentence: the key, and for a wrong name the nearest right one."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from moa.errors import MoaError
from moa.experiment import schema
from moa.experiment.removed import REMOVED
from moa.methods import catalogue
from moa.plan import Plan

ROOT = Path(__file__).parents[2]

GOOD: dict[str, Any] = {
    "task": "tiny",
    "run": {"methods": ["reference"], "seeds": [0]},
    "data": {"source": "embedded"},
    "model": {"source": "scratch", "scratch": {}, "sft": {}},
    "objectives": {"sentiment": {"reward": "vader"}, "conciseness": {"reward": "short"}},
    "rewards": {
        "vader": {"kind": "vader"},
        "short": {"kind": "conciseness"},
        "taught": {"kind": "linear", "data": {"source": "labels.csv", "label": "label"}},
    },
}
GONE = object()


def changed(path: str, value: object) -> dict[str, Any]:
    data = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    section = data
    for name in parents:
        section = section.setdefault(name, {})
    if value is GONE:
        del section[last]
    else:
        section[last] = value
    return data


def complaint(data: object) -> str:
    with pytest.raises(MoaError) as caught:
        schema.parse(data, "mine.yaml")
    return str(caught.value)


def test_the_good_experiment_is_good() -> None:
    assert schema.parse(GOOD).task == "tiny"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        # unknown keys, at every depth
        ("modle", {}, "unknown key 'modle'. Did you mean 'model'?"),
        ("ppo.stepz", 1, "unknown key 'ppo.stepz'. Did you mean 'steps'?"),
        ("ppo.kl.plce", "heads", "unknown key 'ppo.kl.plce'. Did you mean 'place'?"),
        ("model.sft.epoch", 1, "unknown key 'model.sft.epoch'. Did you mean 'epochs'?"),
        ("conditioning.warm_start", {"shar": 0.5}, "unknown key 'conditioning.warm_start.shar'. Did you mean 'share'?"),
        ("objectives.sentiment.juge", "short", "unknown key 'objectives.sentiment.juge'. Did you mean 'judge'?"),
        ("rewards.short.fulll", 20, "unknown key 'rewards.short.fulll'. Did you mean 'full'?"),
        ("rewards.taught.data.labell", "x", "unknown key 'rewards.taught.data.labell'. Did you mean 'label'?"),
        ("ppo.qqqq", 1, "unknown key 'ppo.qqqq'. Known: advantages, batch_size, "),
        # wrong or missing kind of reward
        ("rewards.vader.kind", "vadr", "rewards.vader.kind: there is no kind 'vadr'. Did you mean 'vader'?"),
        ("rewards.vader.kind", GONE, "key 'rewards.vader.kind' is missing"),
        # wrong types
        (
            "ppo.steps",
            "many",
            "ppo.steps: Input should be a valid integer, unable to parse string as an integer (got 'many')",
        ),
        ("run.seeds", ["x"], "run.seeds.0: Input should be a valid integer"),
        ("data", None, "data: expected a section of keys, got nothing"),
        ("methods", ["moc"], "methods: expected a section of keys, got list"),
        ("rewards", 5, "rewards: expected a section of keys, got int"),
        ("model.quantisation", "nf5", "model.quantisation: Input should be 'none', 'nf4' or 'int8' (got 'nf5')"),
        ("ppo.learning_rate", float("inf"), "ppo.learning_rate: Input should be a finite number (got inf)"),
        # out of range, or against each other
        ("ppo.steps", 0, "ppo.steps: Input should be greater than or equal to 1 (got 0)"),
        ("ppo.mini_batch_size", 7, "ppo: mini_batch_size (7) must divide batch_size (64)"),
        ("ppo.group_size", 6, "ppo: group_size (6) must divide batch_size (64)"),
        ("ppo.kl.horizon", 12.8, "ppo: kl.horizon (12.8) must be above a fifth of batch_size (64)"),
        (
            "ppo.advantages",
            "group",
            (
                "ppo: advantages: group compares responses to one prompt with each other; set group_size to at least 2,"
                " e.g. 4 (it is 1)"
            ),
        ),
        ("ppo.advantages", "critic", "ppo.advantages: Input should be 'gae' or 'group' (got 'critic')"),
        ("model.scratch", GONE, "model: `source: scratch` and a `scratch:` section go together"),
        ("rewards.short.zero", 1, "rewards.short: zero (1) must be above full (20)"),
        ("conditioning.template", "{prompt}", "conditioning: template must hold {preference} exactly once"),
        ("data.source", "owner/reviews", "data: name one column"),
        (
            "preferences.evaluation",
            {"points": [[0.5, 0.5], [0.5, 0.6]]},
            "preferences.evaluation.points[1]: [0.5, 0.6] is off the simplex",
        ),
        (
            "preferences.evaluation",
            {"points": [[1.5, -0.5]]},
            "preferences.evaluation.points[0]: [1.5, -0.5] is off the simplex",
        ),
        ("preferences.evaluation", {"points": [[1.0]]}, "preferences.evaluation.points[0]: 1 weights for 2 objectives"),
        ("preferences.training", {"preset": "ric13"}, "preferences.training.preset[0]: 3 weights for 2 objectives"),
        ("preferences.training", {}, "preferences.training: give exactly one of: divisions, preset, points"),
        # references
        (
            "objectives",
            {"sentiment": {"reward": "vader"}},
            "objectives: 1 given; multi-objective alignment needs at least two",
        ),
        (
            "objectives.sentiment.reward",
            "vadr",
            "objectives.sentiment: no reward 'vadr' in `rewards`. Did you mean 'vader'?",
        ),
        (
            "objectives.sentiment.judge",
            "shrt",
            "objectives.sentiment: no reward 'shrt' in `rewards`. Did you mean 'short'?",
        ),
        (
            "evaluation.reference_point",
            {"sentimnt": 0},
            "evaluation.reference_point: no objective 'sentimnt'. Did you mean 'sentiment'?",
        ),
        # names and lists
        (
            "task",
            "a/b",
            "task: a name is made of letters, digits and underscores, and begins with a letter (got 'a/b')",
        ),
        ("task", "index", "task: the name 'index' is taken: it is the report's first page; choose another"),
        ("objectives.very-good", {"reward": "vader"}, "objectives.very-good: a name is made of letters"),
        ("run.seeds", [0, 0], "run.seeds: '0' is listed twice"),
        ("run.methods", [], "run.methods: List should have at least 1 item"),
        ("task", GONE, "key 'task' is missing"),
        (
            "rewards.own",
            {"kind": "python", "function": "mine.py"},
            "rewards.own.function: expected package.module:function (got 'mine.py')",
        ),
    ],
)
def test_message(path: str, value: object, message: str) -> None:
    assert complaint(changed(path, value)).startswith(f"mine.yaml: {message}")


def test_all_mistakes_are_listed_at_once() -> None:
    data = changed("ppo.stepz", 1)
    data["modle"] = {}
    assert complaint(data).splitlines() == [
        "mine.yaml: unknown key 'ppo.stepz'. Did you mean 'steps'?",
        "mine.yaml: unknown key 'modle'. Did you mean 'model'?",
    ]


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (["mocc"], "methods.mocc: there is no method 'mocc'. Did you mean 'moc'?"),
        (["moc", "own"], "methods.own: there is no method 'pamma'. Did you mean 'pama'?"),
    ],
)
def test_a_method_that_does_not_exist(methods: list[str], message: str) -> None:
    data = changed("run.methods", methods)
    data["methods"] = {"own": {"kind": "pamma"}}
    with pytest.raises(MoaError) as caught:
        catalogue.rows(schema.parse(data))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"task: [", "not valid YAML"),
        (b"\xff\xfe\x00", "cannot be read as an experiment file"),
        (b"just words", "expected a mapping of keys, got str"),
        (b"", "expected a mapping of keys, got nothing: the file is empty"),
        (b"task: !!python/object/apply:os.getcwd []", "line 1: the tag 'tag:yaml.org,2002:python/object/apply:os"),
    ],
)
def test_a_file_that_is_no_experiment(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(MoaError) as caught:
        schema.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(MoaError, match="no such experiment file"):
        schema.load(tmp_path / "none.yaml")
    with pytest.raises(MoaError, match="cannot be read as an experiment file"):
        schema.load(tmp_path)


def test_a_section_survives_its_way_through_the_command_line() -> None:
    experiment = schema.parse(changed("preferences.evaluation", {"divisions": 3}))
    assert schema.Experiment.model_validate_json(experiment.model_dump_json()) == experiment


def test_load_reads_what_parse_takes(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    assert schema.load(path) == schema.parse(GOOD)


def old_file(entry: str) -> dict[str, Any]:
    """An experiment that still holds an entry of what was removed; a method's key in a row with a name of its own."""
    path, _, value = entry.partition("=")
    if path == "run.methods":
        return changed("run.methods", [value])
    section, kind, *rest = path.split(".")
    if section == "methods":
        data = changed("run.methods", ["mine"])
        data["methods"] = {"mine": {"kind": kind, rest[0]: value or "x"}}
        return data
    return changed(path, value or "x")


@pytest.mark.parametrize("entry", REMOVED)
def test_what_was_removed_is_refused_with_its_replacement(entry: str) -> None:
    with pytest.raises(MoaError) as caught:
        Plan(schema.parse(old_file(entry), "old.yaml"), "old.yaml")
    path, _, value = entry.partition("=")
    key = re.sub(r"^methods\.\w+", "methods.mine", path).replace("run.methods", f"methods.{value}")
    said = f"{key}: '{value}' was removed" if value else f"key '{key}' was removed"
    assert str(caught.value) == f"old.yaml: {said}: {REMOVED[entry]}"


@pytest.mark.parametrize("entry", REMOVED)
def test_a_replacement_names_the_study_that_says_why(entry: str) -> None:
    assert re.search(r" \(studies/\w+\)$", REMOVED[entry])


@pytest.mark.parametrize("entry", REMOVED)
def test_the_study_is_there(entry: str) -> None:
    assert (ROOT / REMOVED[entry].rpartition("(")[2].removesuffix(")") / "README.md").is_file()


def test_a_rows_own_whitening_is_refused_as_the_runs_is() -> None:
    data = changed("run.methods", ["mine"])
    data["methods"] = {"mine": {"kind": "linear", "whiten": "none"}}
    with pytest.raises(MoaError) as caught:
        Plan(schema.parse(data), "old.yaml")
    assert str(caught.value) == f"old.yaml: methods.mine.whiten: 'none' was removed: {REMOVED['ppo.whiten=none']}"
