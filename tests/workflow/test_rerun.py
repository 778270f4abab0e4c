"""What reruns after an edit: the jobs that use what changed and their dependants, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflow import snake

Edit = Callable[[Path], object]


def replace(name: str, old: str, new: str) -> Edit:
    """Return an edit that replaces the first `old` in a file."""

    def edit(directory: Path) -> None:
        path = directory / name
        text = path.read_text()
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new, 1))

    return edit


def append(name: str, text: str) -> Edit:
    return lambda directory: (directory / name).open("a").write(text)


def touch(name: str) -> Edit:
    return lambda directory: (directory / name).touch()


SCORED = snake.of("score_responses", *snake.ROWS)
RETRAINED = snake.of("train_policy", *snake.POLICIES) | snake.after(*(r for r in snake.ROWS if r != "reference"))
CORNERS = snake.of("train_policy", "single_objective/sentiment", "single_objective/conciseness")
LOGIC = "\nADDED = 1\n"
EDITS: dict[str, tuple[Edit, set[str]]] = {
    # the config
    "a method's section": (
        append(snake.TINY, "methods:\n  moc: {phi: 0.5}\n"),
        {"train_policy moc/policy"} | snake.after("moc"),
    ),
    "bootstrap": (replace(snake.TINY, "bootstrap: 50", "bootstrap: 60"), snake.END),
    "training preferences": (
        replace(snake.TINY, "training: {divisions: 2}", "training: {divisions: 4}"),
        snake.of("train_policy", "linear/policy", "moc/policy") | snake.after("linear", "moc"),
    ),
    "ppo": (replace(snake.TINY, "epochs: 2", "epochs: 1"), RETRAINED),
    "evaluation decoding": (
        replace(snake.TINY, "max_new_tokens: 16,", "max_new_tokens: 16, evaluation_top_p: 0.5,"),
        snake.after(*snake.ROWS),
    ),
    "a judge": (replace(snake.TINY, "{reward: vader}", "{reward: vader, judge: short}"), SCORED | snake.END),
    "one row less": (replace(snake.TINY, ", moc]", "]"), snake.END),
    "one seed more": (
        replace(snake.TINY, "seeds: [0]", "seeds: [0, 1]"),
        snake.of("train_policy", *snake.POLICIES) | snake.after(*snake.ROWS),
    ),
    "data": (replace(snake.TINY, "train_prompts: 32", "train_prompts: 30"), snake.EVERYTHING),
    # the code
    "a method's logic": (append("moa/methods/moc.py", LOGIC), {"train_policy moc/policy"} | snake.after("moc")),
    "the logic of a method that others borrow from": (
        append("moa/methods/single_objective.py", LOGIC),
        CORNERS | snake.after("single_objective", "morlhf", "rewarded_soups"),
    ),
    "the training loop": (append("moa/rl/loop.py", LOGIC), RETRAINED),
    "the trainer": (append("moa/trainers/ppo.py", LOGIC), RETRAINED),
    "a reward": (append("moa/rewards/vader.py", LOGIC), snake.EVERYTHING - {"prepare_prompts"}),
    "the report's code": (append("moa/stages/report.py", LOGIC), {"build_report"}),
    "a template": (append("moa/report/templates/task.html.j2", " "), {"build_report"}),
    # lost files
    "a lost curve": (
        lambda directory: (directory / "results/tiny/curves/moc/policy/s0.parquet").unlink(),
        {"train_policy moc/policy"} | snake.after("moc"),
    ),
    "a lost description of the run": (
        lambda directory: (directory / "results/tiny/run.parquet").unlink(),
        {"describe_run", "build_warehouse", "build_report"},
    ),
    "a lost database": (
        lambda directory: (directory / "results/results.duckdb").unlink(),
        {"build_warehouse", "build_report"},
    ),
}


HARMLESS: list[Edit] = [
    append(snake.TINY, "# a comment\n"),
    append("moa/methods/moc.py", "\n# a comment\n"),
    replace("moa/rl/loop.py", '"""', '"""Changed. '),  # a docstring
    append("moa/rewards/readability.py", LOGIC),  # nobody uses this reward
    append("moa/trainers/ric.py", LOGIC),  # nor this trainer
    append("moa/errors.py", LOGIC),  # messages
    touch("moa/rl/update.py"),
    touch("results/tiny/prompts.parquet"),
    touch("results/tiny/policies/moc/policy/s0/policy.json"),
]


def test_what_does_not_matter_reruns_nothing(finished: Path) -> None:
    assert snake.plan(finished) == set()
    for edit in HARMLESS:
        edit(finished)
    assert snake.plan(finished) == set()


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_reruns_what_it_touches(finished: Path, name: str) -> None:
    edit, expected = EDITS[name]
    edit(finished)
    assert snake.plan(finished) == expected


def test_forcing_a_stage_reruns_it_and_its_dependants(finished: Path) -> None:
    assert snake.plan(finished, "-R", "train_policy") == RETRAINED
    assert snake.plan(finished, "-R", "build_report") == {"build_report"}


def test_a_second_task_keeps_the_first_in_the_database(finished: Path) -> None:
    """Another task's finished run is an input of the database; an unfinished one is not."""
    tiny = (finished / snake.TINY).read_text()
    (finished / "second.yaml").write_text(tiny.replace("task: tiny", "task: second"))
    planned = snake.snakemake(finished, "-n", "-p", configfile="second.yaml").stdout
    assert snake.jobs(planned) == snake.EVERYTHING
    assert "--runs results/second/run.parquet results/tiny/run.parquet" in planned
    (finished / "results/tiny/scores/moc/s0.parquet").unlink()
    planned = snake.snakemake(finished, "-n", "-p", configfile="second.yaml").stdout
    assert "--runs results/second/run.parquet --out" in " ".join(planned.split())
