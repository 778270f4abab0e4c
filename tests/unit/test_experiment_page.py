"""docs/experiment.md: every key is there with its meaning, and what it says of reruns is what the workflow does."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moa.docs import experiment, probes, reruns, words
from moa.errors import MoaError
from moa.experiment import schema
from moa.methods import catalogue
from tests.workflow import snake

STUDIES = snake.ROOT / "studies"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder docs/ of a copy of the package, as the command writes it."""
    project = snake.copy_project(tmp_path_factory.mktemp("pages"))
    (project / "docs").mkdir()
    subprocess.run([sys.executable, "-m", "moa.docs"], cwd=project, env=snake.environment(), check=True)
    return project / "docs"


@pytest.fixture(scope="module")
def text(pages: Path) -> str:
    return (pages / "experiment.md").read_text(encoding="utf-8")


def test_every_key_has_a_meaning() -> None:
    missing = experiment.undescribed()
    assert not missing, f"write what they mean under these fields, as a string: {'; '.join(missing)}"


@pytest.mark.parametrize("page", ["experiment.md", "tables.md"])
def test_the_page_is_up_to_date(pages: Path, page: str) -> None:
    committed = (snake.ROOT / "docs" / page).read_text(encoding="utf-8")
    assert committed == (pages / page).read_text(encoding="utf-8"), "run: python -m moa.docs"


def keys(made: dict[str, Any]) -> set[str]:
    """Return the names of all keys in a JSON schema."""
    models = [made, *made.get("$defs", {}).values()]
    return {name for model in models for name in model.get("properties", {})}


def test_no_key_is_left_out(text: str) -> None:
    """By pydantic's own list of keys: those of the file and its rewards, and those of every method."""
    shown = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert keys(schema.Experiment.model_json_schema()) <= shown
    for name in catalogue.names():
        section = probes.EXPERIMENT["methods"].get(name, {})
        assert keys(catalogue.load(name, section, ["a", "b"]).schema.model_json_schema()) <= shown, name


def effect_of(title: str, key: str) -> str:
    (part,) = [part for part in experiment.parts() if part.title == title]
    return experiment.effect(part, key, part.fields[key])


@pytest.mark.parametrize(
    ("title", "key", "expected"),
    [
        ("", "task", "prompts →; rewards →"),  # a folder of its own: the jobs that wait for nothing, and all others
        ("run", "seeds", "train jobs come or go; evaluate →"),
        ("data", "texts", "prompts →"),
        ("model.sft", "epochs", "base →"),
        ("model.lora", "rank", "train →; with sft.lora: base →"),
        ("generation", "temperature", "reference →"),
        ("generation", "samples", "generate →"),
        ("ppo", "steps", "train →"),
        ("preferences", "dirichlet", "train → of rows that read preferences"),
        ("objectives.<name>", "judge", "score →"),
        ("evaluation", "bootstrap", "evaluate →"),
        ("rewards.<name>, kind conciseness", "full", "texts →; as a judge: score →"),
        ("rewards.<name>, kind linear", "features", "rewards →"),
        ("methods.<row>, kind best_of_n", "n", "generate → of this row"),
        ("methods.<row>, kind ric", "rounds", "train → of this row"),
        ("methods.<row>, kind mod", "ingredients", "train jobs come or go; generate → of this row"),
    ],
)
def test_what_reruns(title: str, key: str, expected: str) -> None:
    assert effect_of(title, key) == expected


def test_without_a_warm_start_a_reward_is_first_read_by_the_reference() -> None:
    plain = {"conditioning": {"warm_start": None}, "run": {"methods": ["linear", "pama"]}}
    old, new = (
        probes.planned(plain, {"rewards": {"a": {"kind": "length", "divisor": divisor}}}) for divisor in (140, 70)
    )
    assert reruns.effect(old, new) == "reference →"


def test_what_waits_for_what_is_what_snakemake_says(tmp_path: Path) -> None:
    """All jobs before a job, by Snakemake's graph of rules: a trained reward, and rows that read texts and rewards."""
    project = snake.copy_project(tmp_path)
    rows = {"run": {"methods": ["linear", "ric", "best_of_n"]}, "objectives": {"first": {"reward": "d"}}}
    (project / "probe.json").write_text(json.dumps(probes.merged(probes.EXPERIMENT, rows)))
    made = snake.snakemake(project, "--rulegraph", configfile="probe.json")
    assert made.returncode == 0, made.stderr
    names = dict(re.findall(r"^\s*(\d+)\[label = \"(\w+)\"", made.stdout, re.MULTILINE))
    kinds = {rule: kind for kind, rules in reruns.RULES.items() for rule in rules}
    edges = [(names[a], names[b]) for a, b in re.findall(r"^\s*(\d+) -> (\d+)", made.stdout, re.MULTILINE)]
    assert set(names.values()) - {"all"} == set(kinds)

    def before(rule: str) -> set[str]:
        return {name for a, b in edges if b == rule for name in {a, *before(a)}}

    for rule, kind in kinds.items():
        assert {kinds[name] for name in before(rule)} - {kind} == reruns.before(kind), rule


def test_a_rules_parameter_is_the_section_that_is_compared() -> None:
    """What a rule is given beside its section (code, files, weights) follows from the section, or is compared too."""
    found = {}
    for path in sorted((snake.ROOT / "workflow" / "rules").glob("*.smk")):
        for rule, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", path.read_text(), re.MULTILINE):
            section = re.search(r"^        section=(.*),$", body, re.MULTILINE)
            if section:
                found[rule] = section[1]
    assert found == {
        "prepare_prompts": "fixed(PLAN.prompts())",
        "train_reward": "reward_section",
        "score_texts": "fixed(PLAN.scoring(judges=False))",
        "train_base": "fixed(PLAN.base())",
        "score_reference": "fixed(PLAN.reference())",
        "train_policy": "train_section",
        "generate_responses": "generate_section",
        "score_responses": "fixed(PLAN.scoring(judges=True))",
        "evaluate_task": "fixed(PLAN.evaluate())",
        "describe_run": "fixed(PLAN.experiment)",
        "build_warehouse": "fixed(PLAN.task())",
        "build_report": "fixed(PLAN.task())",
    }


def test_a_key_that_no_second_value_is_found_for_is_named() -> None:
    field = schema.Experiment.model_fields["objectives"]
    with pytest.raises(MoaError, match=r"objectives: no second value found; name one in probes.py"):
        probes.second("objectives", field, {})


@pytest.mark.parametrize(
    ("title", "key", "kind", "default", "source"),
    [
        ("run", "seeds", "list of whole numbers of at least 0, at least one", "required", ""),
        ("data", "opening_words", "two whole numbers", "[2, 5]", "ours"),
        ("model.sft", "warmup", "number of at least 0, below 1", "0.03", "ours"),
        ("ppo", "clip", "number above 0", "0.2", "PAMA, 2.6"),
        ("ppo", "whiten", "combined | batch", "combined", "measured: studies/one_reward_scale"),
        ("ppo", "value_learning_rate", "number above 0 or null", "null", ""),
        ("preferences", "training", "section", "{divisions: 4}", "ours"),
        ("conditioning", "template", "text", '"{preference} {prompt}"', "ours"),
        ("objectives.<name>", "judge", "name or null", "null", ""),
        ("evaluation", "reference_point", "names, each with a number or null", "null", ""),
        ("methods.<row>, kind external", "responses", "file or null", "null", ""),
        ("model", "gradient_checkpointing", "true or false", "false", "ours"),
    ],
)
def test_types_and_defaults_in_words(title: str, key: str, kind: str, default: str, source: str) -> None:
    (part,) = [part for part in experiment.parts() if part.title == title]
    field = part.fields[key]
    assert (words.type_of(field), words.default_of(field), words.source_of(field)) == (kind, default, source)


def test_the_studies_that_defaults_come_from_are_there(text: str) -> None:
    named = set(re.findall(r"studies/(\w+)", text))
    assert named and {name for name in named if not (STUDIES / name).is_dir()} == set()
