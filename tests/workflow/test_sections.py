"""What a job receives and depends on, without Snakemake."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from moa.errors import MoaError
from moa.experiment import keys, schema
from moa.plan import Plan, finished_runs, reset
from moa.store import logic, provenance, tables
from tests.workflow import snake


def plan(**changes: Any) -> Plan:
    """Return the plan of tests/tiny.yaml with whole sections replaced."""
    data = yaml.safe_load((snake.ROOT / snake.TINY).read_text())
    return Plan(schema.parse({**data, **changes}), "tiny")


JUDGED = {"sentiment": {"reward": "vader", "judge": "short"}, "conciseness": {"reward": "short"}}


def test_reset_puts_keys_back_at_their_defaults() -> None:
    section = keys.Generation(max_new_tokens=7, samples=3)
    assert reset(section, "samples") == keys.Generation(max_new_tokens=7)


def test_a_judge_is_evaluations_alone() -> None:
    plain, judged = plan(), plan(objectives=JUDGED)
    for section in ("base", "reference"):
        assert getattr(plain, section)() == getattr(judged, section)()
    assert plain.train("moc") == judged.train("moc")
    assert judged.scoring(judges=True).objectives["sentiment"].judge == "short"
    assert judged.scoring(judges=False).objectives["sentiment"].judge is None


def test_sections_hold_what_their_stage_reads_and_no_more() -> None:
    generation = {"max_new_tokens": 16, "batch_size": 32, "evaluation_top_p": 0.5}
    assert plan().train("moc") == plan(generation=generation).train("moc")
    assert plan().generate("moc") != plan(generation=generation).generate("moc")
    preferences = {"training": {"divisions": 3}, "evaluation": {"divisions": 2}}
    assert plan().train("pama") == plan(preferences=preferences).train("pama")  # takes no preference
    assert plan().train("moc") != plan(preferences=preferences).train("moc")
    template = {"template": "{preference}! {prompt}", "warm_start": {"share": 0.5, "keep": 0.5}}
    # one weight vector, nothing in the prompt
    assert plan().train("morlhf") == plan(conditioning=template).train("morlhf")
    assert plan().train("linear") != plan(conditioning=template).train("linear")


def test_weights_are_the_policys_own() -> None:
    assert plan().weights("morlhf", "w0.5-0.5") == "[0.5, 0.5]"
    assert plan().weights("single_objective", "sentiment") == "[1.0, 0.0]"
    assert plan().weights("moc", "policy") == "null"


def test_a_rows_own_whitening_reaches_its_policy_alone() -> None:
    found = plan(
        run={"methods": ["linear", "mine", "pama", "moc"], "seeds": [0]},
        methods={"mine": {"kind": "linear", "whiten": "batch"}, "pama": {"whiten": None}},
    )
    got = [found.train(row).ppo.whiten for row in ("linear", "mine", "pama", "moc")]
    assert got == ["combined", "batch", "combined", "batch"]  # MOC's own default
    assert found.train("mine").ppo.model_copy(update={"whiten": "combined"}) == found.train("linear").ppo
    assert found.experiment.ppo.whiten == "combined"


def refusal(**changes: Any) -> str:
    with pytest.raises(MoaError) as caught:
        plan(**changes)
    return str(caught.value)


DIRICHLET = {"training": {"divisions": 2}, "evaluation": {"divisions": 2}, "dirichlet": 1.0}


@pytest.mark.parametrize(("kind", "told"), [("moc", "target: range keeps"), ("moc_feedback", "moc_feedback keeps")])
def test_a_running_mean_per_preference_needs_preferences_that_come_again(kind: str, told: str) -> None:
    run = {"methods": ["linear", "mine"], "seeds": [0]}
    said = refusal(run=run, methods={"mine": {"kind": kind}}, preferences=DIRICHLET)
    assert said.startswith(f"tiny: methods.mine: {told} a running mean reward per training preference")
    assert "preferences.dirichlet (1)" in said and "null to train on the lattice" in said


@pytest.mark.parametrize("row", ["grpo", "morlhf", "reference"])
def test_rows_that_the_loop_trains_no_single_policy_for_have_no_whitening(row: str) -> None:
    """MORLHF shares its corners with other rows; GRPO has a trainer of its own."""
    assert f"methods.{row}: unknown key 'whiten'" in refusal(
        run={"methods": [row], "seeds": [0]}, methods={row: {"whiten": "batch"}}
    )


def test_settings_that_keep_nothing_per_preference_go_with_dirichlet() -> None:
    run = {"methods": ["linear", "mse_only", "mine"], "seeds": [0]}
    methods = {"mine": {"kind": "moc", "target": "scaled"}, "other": {"kind": "moc"}}  # 'other' is not run
    assert plan(run=run, methods=methods, preferences=DIRICHLET).train("mine").dirichlet == 1.0


@pytest.mark.parametrize(
    ("row", "settings", "said"),
    [
        (
            "rewarded_soups",
            {"ingredients": "reference"},
            "methods.rewarded_soups.ingredients: 'reference' is no row of kind single_objective",
        ),
        (
            "rewarded_soups",
            {"ingredients": "rewarded_soups"},
            "methods.rewarded_soups.ingredients: 'rewarded_soups' is no row",
        ),
        ("mod", {"ingredients": "pama"}, "methods.mod.ingredients: 'pama' is no row of kind single_objective"),
        ("mod", {"ingredients": "single_objectiv"}, "name one. Did you mean 'single_objective'?"),
        ("morlhf", {"corners": "linear"}, "methods.morlhf.corners: 'linear' is no row of kind single_objective"),
    ],
)
def test_only_single_objective_rows_lend_policies(row: str, settings: dict[str, Any], said: str) -> None:
    assert said in refusal(run={"methods": [row], "seeds": [0]}, methods={row: settings})


def test_the_lending_row_may_have_a_name_of_its_own() -> None:
    methods = {
        "mine": {"kind": "single_objective"},
        "rewarded_soups": {"ingredients": "mine"},
        "morlhf": {"corners": "pama", "prompts": "preference"},
    }
    # corners is not read with such prompts
    made = plan(run={"methods": ["rewarded_soups", "morlhf"], "seeds": [0]}, methods=methods)
    assert {row for row, _ in made.policies} == {"mine", "morlhf"}
    assert "'single_objective' is no row" in refusal(
        run={"methods": ["mod"], "seeds": [0]}, methods={"single_objective": {"kind": "pama"}}
    )


@pytest.mark.parametrize(
    ("row", "settings", "said"),
    [
        ("grpo", {"group_size": 3}, "tiny: methods.grpo.group_size (3) must divide ppo.batch_size (8)"),
        ("gdpo", {"group_size": 16}, "tiny: methods.gdpo.group_size (16) must divide ppo.batch_size (8)"),
        ("ric", {"rounds": 4}, "tiny: methods.ric.rounds: 4 rounds share ppo.steps (3) batches of responses"),
        (
            "modpo",
            {"responses": 25},
            "tiny: methods.modpo.responses: ppo.steps * ppo.batch_size = 24 responses are less than the 25",
        ),
    ],
)
def test_what_the_training_job_would_refuse_is_refused_by_the_plan(
    row: str, settings: dict[str, int], said: str
) -> None:
    assert said in refusal(run={"methods": [row], "seeds": [0]}, methods={row: settings})
    smaller = {key: value // 2 if row != "grpo" else 4 for key, value in settings.items()}
    assert row in plan(run={"methods": [row], "seeds": [0]}, methods={row: smaller}).rows


def test_settings_carry_the_kind_of_a_row_with_a_name_of_its_own() -> None:
    made = plan(run={"methods": ["mine"], "seeds": [0]}, methods={"mine": {"kind": "moc"}})
    assert made.train("mine").settings["kind"] == "moc"
    assert made.code("train", row="mine") == plan().code("train", row="moc")


ROWS_OF = {"linear": "ppo", "moc": "ppo", "ric": "ric", "modpo": "modpo", "grpo": "grpo", "gdpo": "grpo"}
SHARED = sorted(ROWS_OF)
TOUCHED = {  # a module -> the rows whose policies are trained anew when it changes
    "trainers/ppo": ["linear", "moc"],
    "trainers/ric": ["ric"],
    "trainers/modpo": ["modpo"],
    "trainers/pair_loop": ["modpo"],
    "trainers/grpo": ["gdpo", "grpo"],
    "trainers/trl_grpo": ["gdpo", "grpo"],
    "methods/grpo": ["gdpo", "grpo"],
    "trainers/setup": SHARED,
    "trainers/request": SHARED,
    "stages/train": SHARED,
    "stages/generate": [],
}
HASHES = """
import json, sys
from pathlib import Path
from moa.store import logic, provenance
from tests.workflow.test_sections import ROWS_OF, TOUCHED, plan
GROUPS = {row: {"group_size": 4} for row in ("grpo", "gdpo")}
made = plan(run={"methods": list(ROWS_OF), "seeds": [0]}, methods=GROUPS)
def codes():
    logic._node.cache_clear()
    return {row: made.code("train", row=row) for row in ROWS_OF}
before, found = codes(), {}
for module in TOUCHED:
    file = Path("moa") / f"{module}.py"
    text = file.read_text()
    file.write_text(text + "ADDED = 1\\n")
    after = codes()
    found[module] = sorted(row for row in ROWS_OF if before[row] != after[row])
    file.write_text(text)
print(json.dumps(found))
"""


def test_a_trainers_code_is_that_of_its_own_rows_alone(tmp_path: Path) -> None:
    """The stage imports trainers by name, which its own hash does not follow: the plan names the row's."""
    snake.copy_project(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", HASHES]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == TOUCHED


def test_every_row_names_its_trainer() -> None:
    run = {"methods": list(ROWS_OF), "seeds": [0]}
    made = plan(run=run, methods={"grpo": {"group_size": 4}, "gdpo": {"group_size": 4}})
    assert {row: made.rows[row].trainer for row in ROWS_OF} == ROWS_OF


def test_the_users_own_reward_is_code_that_a_result_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    reward, words = tmp_path / "mine" / "polite.py", tmp_path / "mine" / "words.py"
    reward.write_text(
        "from .words import WORDS\ndef score(prompts, responses):\n    return [float(WORDS[0] in r) for r in"
        " responses]\n"
    )
    words.write_text("WORDS = ['please']\n")
    monkeypatch.chdir(tmp_path)
    rewards = {"short": {"kind": "conciseness"}, "own": {"kind": "python", "function": "mine.polite:score"}}
    made = plan(objectives={"polite": {"reward": "own"}, "conciseness": {"reward": "short"}}, rewards=rewards)

    def code() -> str:
        logic._node.cache_clear()
        return made.code("score", rewards=made.scoring(judges=False).rewards)

    before = code()
    reward.write_text("# a comment\n" + reward.read_text())
    assert code() == before
    words.write_text("WORDS = ['thanks']\n")  # imported by the reward's module
    assert code() != before


def test_only_a_row_that_reads_rewards_to_answer_depends_on_them() -> None:
    """A reward's section, code and files reach the answers of best_of_n, and of no other row."""
    run = {"methods": ["reference", "moc", "best_of_n"], "seeds": [0]}
    before, after = (
        plan(run=run, rewards={"vader": {"kind": "vader"}, "short": {"kind": "conciseness", "zero": zero}})
        for zero in (120, 100)
    )
    assert before.generate("best_of_n") != after.generate("best_of_n")
    assert before.generate("best_of_n").scoring == before.scoring(judges=False)
    for row in ("reference", "moc"):
        assert before.generate(row) == after.generate(row)
        assert before.answering_rewards(row) == {}
    scores = before.answering_rewards("best_of_n")
    assert before.code("best_of_n", rewards=scores, row="best_of_n") != before.code("best_of_n", row="best_of_n"), (
        "the kinds' modules count"
    )
    judged = plan(run=run, objectives=JUDGED)
    assert judged.generate("best_of_n") == plan(run=run).generate("best_of_n"), "a judge chooses nothing"


def test_local_rewards_are_files_of_the_row_that_reads_them(tmp_path: Path) -> None:
    rewards = {
        "vader": {"kind": "vader"},
        "short": {"kind": "classifier", "source": str(tmp_path), "template": "{response}", "max_length": 8},
    }
    made = plan(run={"methods": ["reference", "best_of_n"], "seeds": [0]}, rewards=rewards)
    before = made.generate_files("best_of_n")
    (tmp_path / "config.json").write_text("{}")
    assert made.generate_files("best_of_n") != before
    assert made.generate_files("reference") == ""


def test_a_text_that_was_parsed_is_not_parsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second plan finds the first one's table; a damaged table is none, and a changed text is parsed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("import other\nONE = 1\n")
    parsed, parse = [], ast.parse

    def counted(text: bytes) -> ast.Module:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr(ast, "parse", counted)

    def found() -> str:
        logic._node.cache_clear()
        logic._known.cache_clear()
        return logic.code_hash("mine", root=tmp_path)

    first = found()
    assert (found(), len(parsed)) == (first, 1)
    logic.PARSED.write_text('{"key": ["half')
    assert (found(), len(parsed)) == (first, 2)
    (tmp_path / "mine.py").write_text("ONE = 2\n")
    assert found() != first and len(parsed) == 3


def test_code_hash_follows_packages_and_ignores_what_decides_only_how_a_job_ends(tmp_path: Path) -> None:
    (tmp_path / "moa").mkdir()
    (tmp_path / "moa" / "errors.py").write_text("x = 1\n")
    (tmp_path / "moa" / "__init__.py").write_text("")
    (tmp_path / "moa" / "stage.py").write_text("from moa import errors\n")

    def code() -> str:
        logic._node.cache_clear()
        return logic.code_hash("moa.stage", root=tmp_path)

    before = code()
    (tmp_path / "moa" / "errors.py").write_text("x = 2\n")
    assert code() == before
    (tmp_path / "moa" / "__init__.py").write_text("x = 2\n")
    assert code() != before


def test_a_new_key_of_the_schema_makes_no_finished_job_stale(tmp_path: Path) -> None:
    """All files of the schema: what a key says reaches a stage in its section."""
    (tmp_path / "moa" / "experiment").mkdir(parents=True)
    names = ("schema", "keys", "model", "training", "rewards", "names", "reader", "mistakes", "removed")
    for name in names:
        (tmp_path / "moa" / "experiment" / f"{name}.py").write_text("x = 1\n")
    (tmp_path / "moa" / "stage.py").write_text(f"from moa.experiment import {', '.join(names)}\n")
    before = logic.code_hash("moa.stage", root=tmp_path)
    for name in names:
        (tmp_path / "moa" / "experiment" / f"{name}.py").write_text("x = 2\n")
    logic._node.cache_clear()
    assert logic.code_hash("moa.stage", root=tmp_path) == before


def test_what_a_key_means_makes_no_finished_job_stale(tmp_path: Path) -> None:
    """A method's settings stand in its own file; the text under a key is no logic, its default is."""
    (tmp_path / "moa").mkdir()
    (tmp_path / "moa" / "__init__.py").write_text("")

    def code(text: str, default: int) -> str:
        (tmp_path / "moa" / "mine.py").write_text(f'class Settings:\n    n: int = {default}\n    """{text}"""\n')
        logic._node.cache_clear()
        return logic.code_hash("moa.mine", root=tmp_path)

    assert code("Responses.", 1) == code("Responses per prompt.", 1) != code("Responses.", 2)


def test_local_sources_are_known_by_content(tmp_path: Path) -> None:
    data, folder = tmp_path / "data.csv", tmp_path / "model"
    data.write_text("a")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    before = provenance.local_state(str(data), str(folder), "owner/on-the-hub")
    os.utime(data, (0, 0))
    assert provenance.local_state(str(data), str(folder), "owner/on-the-hub") == before
    (folder / "config.json").write_text("{ }")
    assert provenance.local_state(str(data), str(folder), "owner/on-the-hub") != before
    assert provenance.local_state("owner/on-the-hub") == ""


def run_table(folder: Path, files: dict[str, str]) -> None:
    columns: dict[str, Any] = {name: "x" for name in tables.RUNS.columns}
    row = {**columns, "task": folder.name, "objectives": ["a", "b"], "files": json.dumps(files), "policies": "{}"}
    tables.write(tables.RUNS, [row], folder / "run.parquet")


@pytest.mark.parametrize(
    ("settings", "remote"),
    [
        ({"kind": "linear"}, False),
        ({"kind": "external", "model": "org/merged"}, True),
        ({"kind": "external", "adapter": "org/adapter"}, True),
        ({"kind": "modpo", "objective": "sentiment", "pairs": {"source": "org/pairs", "prompt": "prompt"}}, True),
    ],
)
def test_jobs_whose_row_fetches_something_get_a_second_try(settings: dict[str, Any], remote: bool) -> None:
    assert plan(run={"methods": ["mine"], "seeds": [0]}, methods={"mine": settings}).remote_rows() == remote


def test_a_local_model_needs_no_second_try(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    mine = {"kind": "external", "model": str(tmp_path)}
    assert not plan(run={"methods": ["mine"], "seeds": [0]}, methods={"mine": mine}).remote_rows()


def test_other_tasks_are_shown_when_they_are_complete(tmp_path: Path) -> None:
    for task in ("first", "second"):
        (tmp_path / task).mkdir()
        (tmp_path / task / "scores.parquet").write_text(task)
        run_table(tmp_path / task, {"scores.parquet": provenance.file_hash(tmp_path / task / "scores.parquet")})
    assert finished_runs(tmp_path, "mine") == [tmp_path / "first" / "run.parquet", tmp_path / "second" / "run.parquet"]
    assert finished_runs(tmp_path, "second") == [tmp_path / "first" / "run.parquet"]
    later = (tmp_path / "first" / "run.parquet").stat().st_mtime + 10
    os.utime(tmp_path / "first" / "scores.parquet", (later, later))  # touched, unchanged: still complete
    assert len(finished_runs(tmp_path, "second")) == 1
    (tmp_path / "first" / "scores.parquet").write_text("being made anew")
    os.utime(tmp_path / "first" / "scores.parquet", (later, later))
    assert finished_runs(tmp_path, "second") == []
    (tmp_path / "second" / "scores.parquet").unlink()
    (tmp_path / "third").mkdir()
    shutil.copy(__file__, tmp_path / "third" / "run.parquet")  # not a table
    assert finished_runs(tmp_path, "mine") == []
