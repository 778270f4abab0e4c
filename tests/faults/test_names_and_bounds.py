"""Names that mean something else, points that are one point, numbers that nothing survives: refused before any work."""

import os
from pathlib import Path
from typing import Any

import pytest

from moa.errors import MoaError
from moa.experiment import names, schema
from moa.experiment.preferences import label, lattice
from moa.plan import Plan
from moa.store import provenance, tables
from tests.faults.test_config import GOOD, changed, complaint


@pytest.mark.parametrize(
    ("section", "name", "said"),
    [
        ("objectives", "all", "objectives: the name 'all' is taken: it is a metric of all objectives together"),
        ("objectives", "All", "objectives: the name 'All' is taken"),
        ("objectives", "control", "objectives: the name 'control' is taken: it is the control stream"),
        ("objectives", "reference", "objectives: the name 'reference' is taken: it is the untrained policy"),
        ("objectives", "utility", "objectives: the name 'utility' is taken: it is the weighted sum of the rewards"),
        ("objectives", "Sentiment", "objectives: 'sentiment' and 'Sentiment' differ in capitals alone"),
        ("objectives", "nul", "objectives.nul: 'nul' is a device on Windows"),
        ("objectives", "a/b", "objectives.a/b: a name is made of letters, digits and underscores"),
        ("objectives", ".hidden", "objectives..hidden: a name is made of letters"),
        ("objectives", "w0.5-0.5", "objectives.w0.5-0.5: a name is made of letters"),
        ("objectives", "caf\u00e9", "objectives.caf\u00e9: a name is made of letters"),
        ("objectives", "x" * 65, f"objectives.{'x' * 65}: String should have at most 64 characters"),
        ("rewards", "all", "rewards: the name 'all' is taken"),
        ("rewards", "VADER", "rewards: 'vader' and 'VADER' differ in capitals alone"),
        ("rewards", "Com1", "rewards.Com1: 'Com1' is a device on Windows"),
        ("methods", "all", "methods: the name 'all' is taken: it is what all rows share"),
        ("methods", "aux", "methods.aux: 'aux' is a device on Windows"),
        ("methods", "Reference", "run.methods: 'Reference' and 'reference' differ in capitals alone"),
    ],
)
def test_a_name_that_is_taken(section: str, name: str, said: str) -> None:
    sections = {"objectives": {"reward": "short"}, "rewards": {"kind": "vader"}, "methods": {"kind": "moc"}}
    data = changed("task", "tiny")
    data.setdefault(section, {})[name] = sections[section]
    told = complaint(data)
    assert told.startswith(f"mine.yaml: {said}") and "\n" not in told


@pytest.mark.parametrize("task", ["index", "Index", "con", "LPT9", "a.b", "../up", "x" * 65])
def test_a_task_is_a_file_name_that_is_free(task: str) -> None:
    assert complaint(changed("task", task)).startswith("mine.yaml: task: ")


@pytest.mark.parametrize("row", ["all", "PRN", "Reference"])
def test_a_row_of_the_run(row: str) -> None:
    assert "\n" not in complaint(changed("run.methods", ["reference", row]))


def test_words_with_a_meaning_of_their_own_in_the_tables_are_taken() -> None:
    """Table metrics has a row for all objectives under 'all', curves one under 'control', payoff one under 'reference'.

    Their columns say so; a further quoted word in one of them belongs into `names.TAKEN`.
    """
    told = [
        tables.CURVES.columns["objective"].meaning,
        tables.METRICS.columns["objective"].meaning,
        tables.PAYOFF.columns["policy"].meaning,
    ]
    quoted = {word for text in told for word in text.split("'")[1::2]}
    assert quoted == {"all", "control", "reference"} <= set(names.TAKEN["objectives"])
    assert tables.COSTS.columns["method"].meaning.split("'")[1::2] == ["all"] <= list(names.TAKEN["methods"])


def points(where: str, given: list[list[float]], **others: Any) -> Plan:
    """Return the plan of an experiment with explicit points; moc reads them in its prompt, morlhf by their names."""
    data = changed(f"preferences.{where}", {"points": given})
    data |= {"run": {"methods": ["moc", "morlhf"], "seeds": [0]}, **others}
    return Plan(schema.parse(data, "mine.yaml"), "mine.yaml")


@pytest.mark.parametrize("where", ["training", "evaluation"])
@pytest.mark.parametrize(
    ("given", "form", "said"),
    [
        ([[0, 1], [0.5, 0.5], [0.5, 0.5]], "digits", "[1] and [2] are the same point, [0.5, 0.5] and [0.5, 0.5];"),
        ([[0, 1], [1, 0], [0.0, 1.0]], "digits", "[0] and [2] are the same point"),
        ([[0.25, 0.75], [0.2500001, 0.7499999]], "digits", "[0] and [1] are the same point"),  # both w0.25-0.75
        ([[0.5, 0.5], [1, 0], [0.502, 0.498]], "digits", "[0] and [2] are the same point"),  # both 0.50 0.50
        ([[0.5, 0.5], [0.504, 0.496]], "tags", "as conditioning.format: tags tells them; keep one of them"),
        ([[0.2, 0.8], [0.24, 0.76]], "bars", "[0] and [1] are the same point"),  # two marks and eight
    ],
)
def test_a_point_that_stands_twice(where: str, given: list[list[float]], form: str, said: str) -> None:
    with pytest.raises(MoaError) as caught:
        points(where, given, conditioning={"format": form})
    assert str(caught.value).startswith(f"mine.yaml: preferences.{where}.points: ") and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_points_that_can_be_told_apart_are_fine() -> None:
    close = [[0.5, 0.5], [0.502, 0.498]]
    assert len(points("evaluation", [[0.5, 0.5], [0.51, 0.49]]).evaluation) == 2
    assert len(points("evaluation", close, run={"methods": ["morlhf"], "seeds": [0]}).evaluation) == 2, "by names alone"


@pytest.mark.parametrize("divisions", [1, 3, 7, 9_998, 9_999])
def test_no_two_points_of_a_lattice_have_one_name(divisions: int) -> None:
    """Names have four digits, which is enough for as many points as there may be."""
    assert len({label(p) for p in lattice(2, divisions)}) == divisions + 1


EXTREMES = [
    ("run.seeds", [2**32], "run.seeds.0: Input should be less than or equal to 4294967295 (got 4294967296)"),
    ("run.seeds", [True], "run.seeds.0: expected a number, not true or false"),
    ("run.seeds", list(range(1001)), "run.seeds: List should have at most 1000 items"),
    ("data.seed", 2**32, "data.seed: Input should be less than or equal to 4294967295"),
    ("data.seed", -1, "data.seed: Input should be greater than or equal to 0"),
    ("model.sft.seed", 2**32, "model.sft.seed: Input should be less than or equal to 4294967295"),
    ("model.sft.seed", -1, "model.sft.seed: Input should be greater than or equal to 0"),
    (
        "preferences.training",
        {"divisions": 10**9},
        "preferences.training.divisions: Input should be less than or equal",
    ),
    (
        "preferences.evaluation",
        {"divisions": 10_000},
        "preferences.evaluation: 10000 divisions of 2 objectives are 10001",
    ),
    ("preferences.dirichlet", 1e300, "preferences.dirichlet: Input should be less than or equal to 1000000"),
    ("preferences.dirichlet", 1e-300, "preferences.dirichlet: Input should be greater than or equal to 0.001"),
    ("ppo.steps", 10**12, "ppo.steps: Input should be less than or equal to 100000000 (got 1000000000000)"),
    ("ppo.steps", True, "ppo: steps: expected a number, not true"),
    ("ppo.group_size", 10**9, "ppo.group_size: Input should be less than or equal to 1000000"),
    ("ppo.learning_rate", 1e30, "ppo.learning_rate: Input should be less than or equal to 100"),
    ("generation.temperature", 1e-30, "generation.temperature: Input should be greater than or equal to 0.001"),
    ("generation.max_new_tokens", 10**9, "generation.max_new_tokens: Input should be less than or equal to 1000000"),
    ("model.scratch.vocabulary", 10**9, "model.scratch.vocabulary: Input should be less than or equal to 1000000"),
    ("model.scratch.hidden", 10**9, "model.scratch.hidden: Input should be less than or equal to 16384"),
    ("model.scratch.heads", 3, "model.scratch: hidden (128) must be a multiple of 2 * heads (6)"),
    ("model.lora", {"rank": 10**9}, "model.lora.rank: Input should be less than or equal to 16384"),
    ("data.texts", 10**12, "data.texts: Input should be less than or equal to 10000000"),
    ("data", {"source": "a/b", "text": "c", "text_characters": [9, 3]}, "data: text_characters: [least, most] with"),
    ("data.source", "~nobody-has-this-name/x", "data.source: could not determine home directory of '~' in it"),
    ("data.source", "", "data.source: String should have at least 1 character"),
    ("data.source", "x" * 300, "data.source: longer than a path may be"),
    ("evaluation.bootstrap", 10**9, "evaluation.bootstrap: Input should be less than or equal to 100000"),
    ("rewards.short.zero", 1e300, "rewards.short.zero: Input should be less than or equal to 1000000"),
    (
        "rewards.vader",
        {"kind": "python", "function": "a:b", "low": -1e300},
        "rewards.vader.low: Input should be greater",
    ),
    ("rewards.taught.features", 2**40, "rewards.taught.features: Input should be less than or equal to 67108864"),
    ("rewards.vader.kind", "x" * 10_000, f"rewards.vader.kind: there is no kind '{'x' * 80}...'"),
    ("task", 5, "task: expected text (got 5); put it in quotes"),
]


@pytest.mark.parametrize(("path", "value", "said"), EXTREMES, ids=[f"{p}={str(v)[:20]}" for p, v, _ in EXTREMES])
def test_a_value_that_cannot_work(path: str, value: object, said: str) -> None:
    told = complaint(changed(path, value))
    assert told.startswith(f"mine.yaml: {said}") and "\n" not in told and len(told) < 400, told


def test_the_largest_seed_is_allowed() -> None:
    for path, value in (("run.seeds", [2**32 - 1]), ("data.seed", 2**32 - 1), ("model.sft.seed", 2**32 - 1)):
        schema.parse(changed(path, value))


def test_many_objectives_have_few_preferences() -> None:
    """Of eight objectives 6 divisions are 1 716 preferences, 9 are 11 440; there may be twelve objectives."""
    data = changed("preferences.training", {"divisions": 6})
    data["objectives"] = {f"o{i}": {"reward": "vader"} for i in range(8)}
    data["preferences"]["evaluation"] = {"divisions": 1}
    assert len(schema.parse(data).training_preferences()) == 1716
    data["preferences"]["training"] = {"divisions": 9}
    said = "preferences.training: 9 divisions of 8 objectives are 11440 preferences; 10000 are the most"
    assert complaint(data).startswith(f"mine.yaml: {said}")
    data["objectives"] = {f"o{i}": {"reward": "vader"} for i in range(20)}
    assert complaint(data) == "mine.yaml: objectives: 20 given, and 12 are the most"


def test_draws_of_the_bootstrap_fit_into_memory() -> None:
    data = changed("data.evaluation_prompts", 1_000_000)
    said = "evaluation.bootstrap: 1000 resamples of data.evaluation_prompts = 1000000 are 1000000000 draws"
    assert complaint(data).startswith(f"mine.yaml: {said}")


@pytest.mark.parametrize("kind", ["pipe", "device", "crowd"])
def test_a_local_source_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Their content is hashed before any job runs, so the plan would not end."""
    source = tmp_path / "data.csv"
    monkeypatch.setattr(provenance, "FILES", 20)
    if kind == "pipe":
        os.mkfifo(source)
    elif kind == "crowd":
        source.mkdir()
        for i in range(21):
            (source / f"{i}.csv").touch()
    name = "/dev/zero" if kind == "device" else str(source)
    data = changed("data", {"source": name, "text": "text"})
    said = (
        "more than 20 files; name the folder of" if kind == "crowd" else "a pipe or a device; name a file or a folder"
    )
    with pytest.raises(MoaError) as caught:
        Plan(schema.parse(data, "mine.yaml"), "mine.yaml")
    assert str(caught.value).startswith(f"mine.yaml: {name}: {said}")


def test_rewards_models_and_rows_have_sources_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    pipe = str(tmp_path / "pipe")
    pairs = {"objective": "sentiment", "pairs": {"source": pipe, "prompt": "prompt"}}
    for path, value in (
        ("rewards.vader", {"kind": "classifier", "source": pipe}),
        ("rewards.vader", {"kind": "linear", "data": {"source": pipe, "label": "label"}}),
        ("model", {"source": pipe, "sft": {}}),
        ("methods", {"reference": {"kind": "external", "model": pipe}}),
        ("methods", {"reference": {"kind": "modpo", **pairs}}),
    ):
        with pytest.raises(MoaError, match="pipe: a pipe or a device"):
            Plan(schema.parse(changed(path, value)), "mine.yaml")
    assert "pipe" not in str(GOOD)
