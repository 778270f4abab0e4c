"""What snakemake plans on a fresh clone: stages, targets, experiments of the user's own. Nothing is run."""

import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workflow import snake

BASE = {"prepare_prompts", "score_texts", "train_base"}
REFERENCE = BASE | {"score_reference"}
TRAIN = REFERENCE | snake.of("train_policy", *snake.POLICIES)
GENERATE = TRAIN | snake.of("generate_responses", *snake.ROWS)
SCORE = GENERATE | snake.of("score_responses", *snake.ROWS)
TARGETS = {
    "prompts": {"prepare_prompts"},
    "rewards": set(),
    "base": BASE,
    "reference_scores": REFERENCE,
    "train": TRAIN,
    "generate": GENERATE,
    "score": SCORE,
    "evaluate": SCORE | {"evaluate_task"},
    "warehouse": snake.EVERYTHING - {"build_report"},
    "report": snake.EVERYTHING,
    "all": snake.EVERYTHING,
}


def edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in changes:
        assert old in text, f"{path} has no {old!r}"
        text = text.replace(old, new)
    path.write_text(text)


def sections(project: Path, text: str) -> list[dict[str, object]]:
    """Return every --section of the printed commands, which name files that the plan has written."""
    return [json.loads((project / found).read_text()) for found in re.findall(r"--section (\S+) --", text)]


def test_the_default_plan_loads_no_torch(project: Path) -> None:
    """A plan is to be a matter of a second or two, and importing torch alone takes that long."""
    (project / "torch.py").write_text("raise RuntimeError('the plan loaded torch')")
    assert snake.plan(project) == snake.EVERYTHING


@pytest.mark.parametrize("target", TARGETS)
def test_aggregate_targets(project: Path, target: str) -> None:
    assert snake.plan(project, target) == TARGETS[target]


def test_an_experiment_is_never_merged_with_the_default_one(project: Path) -> None:
    tiny = (project / snake.TINY).read_text()
    (project / "config.yaml").write_text(tiny)
    (project / "mine.yaml").write_text(
        tiny.replace("sentiment: {", "cheer: {").replace("task: tiny", "task: mine").replace("tiny", "small")
    )
    (project / snake.TINY).unlink()
    planned = snake.snakemake(project, "-n", "-p", configfile="mine.yaml")
    text = planned.stdout + planned.stderr
    assert planned.returncode == 0, text
    assert "sentiment" not in text
    assert "tiny" not in text
    assert "train_policy single_objective/cheer" in snake.jobs(text)
    assert {"cheer", "conciseness"} in [set(s.get("objectives", [])) for s in sections(project, text)]


def test_the_default_experiment_is_used_without_a_configfile(project: Path) -> None:
    (project / "config.yaml").write_text(
        (project / snake.TINY).read_text().replace("linear, pama, moc]", "linear, pama]")
    )
    assert snake.plan(project, "train", configfile=None) == TRAIN - {"train_policy moc/policy"}


@pytest.mark.parametrize("configfile", [snake.TINY, None])
def test_config_values_of_the_command_line_work_on_top(project: Path, configfile: str | None) -> None:
    (project / "config.yaml").write_text((project / snake.TINY).read_text())
    planned = snake.snakemake(
        project,
        "train",
        "-n",
        "-p",
        "--config",
        "ppo={steps: 7, early_stop: null}",
        "run={methods: [moc], seeds: [3]}",
        configfile=configfile,
    )
    text = planned.stdout + planned.stderr
    assert planned.returncode == 0, text
    (section,) = [s for s in sections(project, text) if "ppo" in s]
    assert isinstance(section["ppo"], dict)
    assert section["ppo"]["steps"] == 7  # a string on the command line
    assert section["ppo"]["early_stop"] is None
    assert section["ppo"]["batch_size"] == 8  # from the file
    assert snake.jobs(text) == REFERENCE | {"train_policy moc/policy"}
    assert "policies/moc/policy/s3" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "ppo={stepz: 3}"], "unknown key 'ppo.stepz'. Did you mean 'steps'?"),
        (["--config", "methods={mocc: {}}"], "methods.mocc: there is no method 'mocc'. Did you mean 'moc'?"),
        (["--config", "run={methods: [mocc]}"], "methods.mocc: there is no method 'mocc'. Did you mean 'moc'?"),
        (["--config", "methods={moc: {steams: away}}"], "methods.moc: unknown key 'steams'. Did you mean 'streams'?"),
        (["--configfile", snake.TINY, snake.TINY], "2 experiment files given"),
    ],
)
def test_a_mistake_in_the_experiment_is_one_clear_line(project: Path, arguments: list[str], message: str) -> None:
    planned = snake.snakemake(project, "-n", *arguments, configfile=None if "--configfile" in arguments else snake.TINY)
    assert planned.returncode == 1
    assert message in planned.stderr
    assert planned.stderr.count("\n") <= 3, planned.stderr
    assert "Traceback" not in planned.stderr


def test_without_a_warm_start_texts_are_not_scored(project: Path) -> None:
    edit(project / snake.TINY, ("warm_start: {share: 0.5, keep: 0.5}", "warm_start: null"))
    planned = snake.snakemake(project, "base", "-n", "-p")
    assert snake.jobs(planned.stdout) == {"prepare_prompts", "train_base"}
    assert "--scores" not in planned.stdout


def test_scored_texts_are_part_of_the_run_whoever_asks_for_them(project: Path) -> None:
    """Without a warm start a trainer that reads the texts' rewards has them made.

    Their table and cost belong to the database.
    """
    edit(project / snake.TINY, ("warm_start: {share: 0.5, keep: 0.5}", "warm_start: null"))
    for row, scored in (("ric", True), ("linear", False)):
        planned = snake.snakemake(project, "-n", "-p", "--config", f"run={{methods: [reference, {row}]}}").stdout
        assert ("score_texts" in snake.jobs(planned)) == scored
        (listed,) = re.findall(r"moa.stages.manifest .* --files @(\S+) --out", planned)
        files = (project / listed).read_text()
        for name in ("results/tiny/text_scores.parquet", "results/tiny/costs/texts.parquet"):
            assert (name in files.split()) == scored, (row, name)


def test_an_external_row_answers_without_training(project: Path) -> None:
    pq.write_table(pa.table({"prompt": ["The lamp"], "response": [" is fine."]}), project / "theirs.parquet")
    edit(
        project / snake.TINY,
        ("linear, pama, moc]", "theirs]"),
        ("checkpoint_every: 1", "checkpoint_every: 1\nmethods:\n  theirs: {kind: external, responses: theirs.parquet}"),
    )
    rows = ("reference", "single_objective", "morlhf", "rewarded_soups", "theirs")
    policies = ("single_objective/sentiment", "single_objective/conciseness", "morlhf/w0.5-0.5")
    assert snake.plan(project) == REFERENCE | snake.of("train_policy", *policies) | snake.after(*rows)


def labels(project: Path) -> None:
    """Write what rewards are trained from: a plan asks for the columns, and for two classes."""
    rows = {"text": ["good", "bad", "fine"], "label": [1, 0, 1], "other": [0, 1, 1]}
    pq.write_table(pa.table(rows), project / "labels.parquet")


def test_a_trained_reward_has_a_job_and_a_judge_is_not_needed_for_training(project: Path) -> None:
    labels(project)
    edit(
        project / snake.TINY,
        ("sentiment: {reward: vader}", "sentiment: {reward: taught, judge: judge}"),
        (
            "  vader: {kind: vader}",
            (
                "  taught: {kind: linear, data: {source: labels.parquet, label: label, part: [0, 0.5]}}\n"
                "  judge: {kind: linear, data: {source: labels.parquet, label: other, part: [0.5, 1]}}"
            ),
        ),
    )
    assert snake.plan(project, "rewards") == snake.of("train_reward", "taught", "judge")
    assert snake.plan(project, "train") == TRAIN | {"train_reward taught"}
    assert snake.plan(project, "score") == SCORE | snake.of("train_reward", "taught", "judge")


def test_only_a_row_that_reads_rewards_waits_for_them_before_it_answers(project: Path) -> None:
    labels(project)
    edit(
        project / snake.TINY,
        ("sentiment: {reward: vader}", "sentiment: {reward: taught}"),
        ("warm_start: {share: 0.5, keep: 0.5}", "warm_start: null"),
    )
    edit(
        project / snake.TINY,
        ("  vader: {kind: vader}", "  taught: {kind: linear, data: {source: labels.parquet, label: label}}"),
    )
    planned = snake.snakemake(
        project, "generate", "-n", "-p", "--config", "run={methods: [reference, best_of_n]}"
    ).stdout
    assert snake.jobs(planned) == {
        "prepare_prompts",
        "train_base",
        "train_reward taught",
        "score_reference",
    } | snake.of("generate_responses", "reference", "best_of_n")
    inputs = {
        row: found
        for found, row in re.findall(r"rule generate_responses:\n    input: ([^\n]*)\n.*?row=(\w+)", planned, re.DOTALL)
    }
    assert inputs["reference"] == "results/tiny/prompts.parquet, results/tiny/base, results/tiny/costs/base.parquet"
    normaliser, taught = "results/tiny/normaliser.parquet", "results/tiny/rewards/taught"
    made = "results/tiny/costs/rewards/taught.parquet"
    assert inputs["best_of_n"] == ", ".join((inputs["reference"], normaliser, taught, made))
    stages = re.findall(r"-m moa.stages.(\w+) --section \S+ --row (\w+)", planned)
    assert sorted(stages) == [("best_of_n", "best_of_n"), ("generate", "reference")]


def test_policies_that_are_only_lent_are_trained_but_not_evaluated(project: Path) -> None:
    planned = snake.plan(project, "--config", "run={methods: [rewarded_soups]}")
    lent = snake.of("train_policy", "single_objective/sentiment", "single_objective/conciseness")
    assert planned == REFERENCE | lent | snake.after("rewarded_soups")


@pytest.mark.parametrize(
    ("listed", "gpu"), [("GPU 0: Some Card (UUID: GPU-1)", "gpu=1"), ("No devices found.", "gpu=0")]
)
def test_jobs_ask_for_the_gpu_only_where_one_is_visible(
    project: Path, monkeypatch: pytest.MonkeyPatch, listed: str, gpu: str
) -> None:
    tool = project / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho '{listed}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(snake, "DEVICES", None)
    text = snake.snakemake(project, "train", "-n").stdout
    assert gpu in re.findall(r"rule train_policy:.*?resources: ([^\n]*)", text, re.DOTALL)[0]
    monkeypatch.setattr(snake, "DEVICES", "")
    assert "gpu=1" not in snake.snakemake(project, "train", "-n").stdout


@pytest.mark.parametrize("cores", ["1", "8"])
def test_a_jobs_threads_do_not_depend_on_the_cores(cores: str, project: Path) -> None:
    """Bytes depend on threads: the base has two and a policy one, whatever --cores says."""
    done = snake.snakemake(project, "--dry-run", "--printshellcmds", "--cores", cores)
    printed = done.stdout + done.stderr
    found = set(re.findall(r"OMP_NUM_THREADS=(\d+) [^\n]*? -m moa\.stages\.(\w+) ", printed))
    assert {("2", "base"), ("2", "reference"), ("1", "train"), ("1", "generate"), ("1", "score")} <= found
    assert len({stage for _, stage in found}) == len(found)
