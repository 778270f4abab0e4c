# Functions of the rules. What a job receives and depends on is decided in moa/plan.py.
import os
import shlex
import sys
from pathlib import Path

from snakemake.utils import update_config

import moa.experiment.schema
from moa.ahead.local import refuse
from moa.errors import MoaError
from moa.job.process import export_parent, gpu_visible, share_processor
from moa.plan import Plan, finished_runs
from moa.job.unlock import warn_of_stale_lock


def plan_experiment():
    """Validate the experiment: the file's keys with those of --config on top, whose values arrive as strings."""
    files = workflow.configfiles
    if len(files) > 1:
        sys.exit(
            f"error: {len(files)} experiment files given; each is complete, give one"
        )
    overrides = nulls(workflow.config_settings.config)
    update_config(config, overrides)
    where = os.path.relpath(files[0]) + (" with --config" if overrides else "")
    try:
        plan = Plan(moa.experiment.schema.parse(dict(config), where), where)
        refuse(plan, where)
        return plan
    except MoaError as error:
        sys.exit(f"error: {error}")


def nulls(value):
    """Return `value` with the string 'null' as null."""
    if isinstance(value, dict):
        return {key: nulls(item) for key, item in value.items()}
    return None if value == "null" else value


def report_files(*suffixes):
    """Return the files of moa/report with these endings: code hashes do not see templates and SQL."""
    folder, here = Path(moa.__file__).absolute().parent / "report", Path.cwd()
    found = [p for p in sorted(folder.rglob("*")) if p.suffix in suffixes]
    # Below a checkout as before; from an installed package in full, so that the working folder may be moved.
    return [str(p.relative_to(here) if p.is_relative_to(here) else p) for p in found]


def either(names):
    """Return a wildcard constraint: one of `names`, and nothing where there are none."""
    return "|".join(names) or "(?!)"


PLAN = plan_experiment()
TASK = PLAN.experiment.task
ROWS = PLAN.experiment.run.methods
SEEDS = PLAN.experiment.run.seeds
# A model that is taken as it is learns from no texts.
WARM_START = (
    PLAN.experiment.conditioning.warm_start is not None
    and PLAN.experiment.model.sft is not None
)
# Texts are scored for the warm start, and for trainers that read them.
TEXT_SCORES = WARM_START or any(row.reads_texts for row in PLAN.rows.values())
GPU = gpu_visible()
FORMULAS = PLAN.scoring(judges=False).rewards
SCORERS = PLAN.scoring(judges=True).rewards
# Stages that fetch something get a second try.
NETWORK = int(PLAN.remote())
ROWS_NETWORK = int(PLAN.remote_rows())
# On the CPU small models gain little from threads; jobs side by side gain much. WIDE jobs have nothing beside them.
THREADS = 4 if GPU else 1
WIDE = 4 if GPU else 2


wildcard_constraints:
    task=TASK,
    row=either(PLAN.rows),
    policy=r"[\w.-]+",
    reward=either(PLAN.trained_rewards(judges=True)),
    seed=r"\d+",


def environment(threads):
    """Return how many threads a job has, as variables before its command.

    Bytes depend on it, so it is the plan's number, also where `--cores` is less and Snakemake would lower it.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return " ".join(f"{name}={threads}" for name in names)


def models(judges):
    """Return the folders of the rewards that this run trains and a stage needs."""
    return [f"results/{TASK}/rewards/{name}" for name in PLAN.trained_rewards(judges)]


def policies_of(wildcards):
    """Return the folders of the policies that a row answers with, its own and borrowed ones."""
    return [
        f"results/{TASK}/policies/{p.row}/{p.name}/s{wildcards.seed}"
        for p in PLAN.policies_of(wildcards.row)
    ]


def every_policy(pattern):
    """Return `pattern` for every policy and seed of the run."""
    return [
        pattern.format(task=TASK, row=row, policy=policy, seed=seed)
        for row, policy in PLAN.policies
        for seed in SEEDS
    ]


def every_row(pattern):
    """Return `pattern` for every row and seed of the run."""
    return [
        pattern.format(task=TASK, row=row, seed=seed) for row in ROWS for seed in SEEDS
    ]


def every_reward(pattern):
    """Return `pattern` for every reward that the run trains."""
    names = PLAN.trained_rewards(judges=True)
    return [pattern.format(task=TASK, reward=name) for name in names]


def print_leaderboard():
    """Print the leaderboard at the end of a run that made the report."""
    from moa.report.leaderboard import show

    if all(job.rule.name != "build_report" for job in workflow.dag.jobs):
        return
    try:
        show(Path("results/results.duckdb"), Path("reports/index.html"), TASK)
    except MoaError as error:
        print(f"no leaderboard: {error}", file=sys.stderr)


# Parameters. JSON comes from functions: Snakemake would take the braces of a string for wildcards.


def fixed(section):
    """Return a parameter function for a section that does not depend on the job."""

    def parameter(wildcards):
        return section.model_dump_json()

    return parameter


def reward_section(wildcards):
    return PLAN.reward(wildcards.reward).model_dump_json()


def reward_gpu(wildcards):
    spec = PLAN.experiment.rewards[wildcards.reward]
    return int(GPU and PLAN.neural({wildcards.reward: spec}))


def reward_code(wildcards):
    return PLAN.code(
        "rewards", rewards={wildcards.reward: PLAN.experiment.rewards[wildcards.reward]}
    )


def reward_files(wildcards):
    return PLAN.reward_files(wildcards.reward)


def train_section(wildcards):
    return PLAN.train(wildcards.row).model_dump_json()


def train_code(wildcards):
    return PLAN.code("train", rewards=FORMULAS, row=wildcards.row)


def train_files(wildcards):
    return PLAN.train_files(wildcards.row)


def texts_of(wildcards):
    """Return the texts and their scores for a trainer that reads them."""
    reads = PLAN.rows[wildcards.row].reads_texts
    return [
        f"results/{TASK}/{name}.parquet" for name in ("texts", "text_scores")
    ] * reads


def weights(wildcards):
    return PLAN.weights(wildcards.row, wildcards.policy)


def generate_section(wildcards):
    return PLAN.generate(wildcards.row).model_dump_json()


def generator(wildcards):
    return PLAN.rows[wildcards.row].generator


def generate_code(wildcards):
    rewards = PLAN.answering_rewards(wildcards.row)
    return PLAN.code(generator(wildcards), rewards=rewards, row=wildcards.row)


def generate_files(wildcards):
    return PLAN.generate_files(wildcards.row)


def normaliser_of(wildcards):
    """Return the normaliser for a row that reads rewards to answer."""
    reads = PLAN.rows[wildcards.row].reads_rewards
    return [f"results/{TASK}/normaliser.parquet"] * reads


def models_of(wildcards):
    """Return the trained rewards that a row reads to answer."""
    return models(judges=False) if PLAN.rows[wildcards.row].reads_rewards else []


export_parent()
share_processor()
warn_of_stale_lock(Path())
shell.prefix(
    f"set -euo pipefail; export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
)
