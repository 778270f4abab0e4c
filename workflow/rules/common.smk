# Functions of the rules. What a job receives and depends on is decided in moa/plan.py.
import os
import shlex
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import moa.experiment.schema
from moa.ahead import named
from moa.errors import MoaError
from moa.experiment import reader
from moa.job import start, warm
from moa.job.process import (
    THREAD_VARIABLES,
    export_parent,
    gpu_visible,
    share_processor,
)
from moa.plan import Plan, finished_runs
from moa.job.unlock import warn_of_stale_lock
from moa.store import sections


def plan_experiment():
    """Validate the experiment: the file's keys with those of --config on top, whose values arrive as strings.

    The file is read here by the package's own reader, whoever named it: Snakemake's keeps the last of two equal keys.
    It is complete: one that --configfile or a profile names is never merged with the default one.
    """
    files = workflow.overwrite_configfiles or [Path("config.yaml")]
    if len(files) > 1:
        sys.exit(
            f"error: {len(files)} experiment files given; each is complete, give one"
        )
    overrides = nulls(workflow.config_settings.config)
    where = os.path.relpath(files[0])
    try:
        reader.check_options(sys.argv[1:])
        data = reader.overridden(reader.read(Path(where)), overrides)
        where += " with --config" if overrides else ""
        plan = Plan(moa.experiment.schema.parse(data, where), where)
        if named.nothing(plan):
            return plan
        from moa.ahead import local, pins  # they load what reads tables

        local.refuse(plan, where)
        # A job on another machine, and whoever only looks, obeys the lock and asks nobody.
        asks = workflow.is_main_process and not (
            workflow.output_settings.dryrun or start.plans_only(sys.argv[1:])
        )
        pinned = pins.commits(plan, where, look_up=asks)
        if not pinned:
            return plan
        data = reader.overridden(data, pinned)
        return Plan(moa.experiment.schema.parse(data, where), where)
    except MoaError as error:
        sys.exit(f"error: {error}")


def nulls(value):
    """Return `value` with the string 'null' as null."""
    if isinstance(value, Mapping):
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
DATABASE = "results/results.duckdb"
PAGES = ("reports/index.html", f"reports/{TASK}.html")
# What Snakemake sees of these (workflow/rules/report.smk says why).
MARK = "results/.results.sha256"
PAGES_MARK = f"reports/.{TASK}.sha256"


wildcard_constraints:
    task=TASK,
    row=either(PLAN.rows),
    policy=r"[\w.-]+",
    reward=either(PLAN.trained_rewards(judges=True)),
    seed=r"\d+",


def start_warm():
    """Start the process that jobs are forks of, where there are several and they run as it does.

    A GPU's context would not survive the fork, nor would macOS's libraries; a container's or environment's job must
    stay in there.
    """
    alone = GPU or workflow.deployment_settings.deployment_method
    slow = (
        "train_base",
        "score_reference",
        "train_policy",
        "generate_responses",
    )  # to start: warm.STAGES
    jobs = [job for job in workflow.dag.needrun_jobs() if job.rule.name in slow]
    if sys.platform == "linux" and not alone and len(jobs) > 1:
        warm.start()


def environment(threads):
    """Return how many threads a job has, as variables before its command.

    Bytes depend on it, so it is the plan's number, also where `--cores` is less and Snakemake would lower it.
    """
    return " ".join(f"{name}={threads}" for name in THREAD_VARIABLES)


# Inputs that are folders. Snakemake knows files by content wherever their times are newer, folders by time alone: copied
# to another place, every folder would look new and all would train again. So rules take a folder as `ancient` and beside
# it the costs, which the same job writes, with its seconds: a new folder has new costs. (Without the trigger `mtime`,
# which Snakemake 9.27 takes and never reads, nothing else would tell: `params` of the answers say nothing of the bytes of
# the policy that gives them.)


def models(judges):
    """Return the folders of the rewards that this run trains and a stage needs."""
    return [f"results/{TASK}/rewards/{name}" for name in PLAN.trained_rewards(judges)]


def models_made(judges):
    """Return what tells that a trained reward is another one."""
    return [
        f"results/{TASK}/costs/rewards/{name}.parquet"
        for name in PLAN.trained_rewards(judges)
    ]


def policies_of(wildcards):
    """Return the folders of the policies that a row answers with, its own and borrowed ones."""
    return [
        f"results/{TASK}/policies/{p.row}/{p.name}/s{wildcards.seed}"
        for p in PLAN.policies_of(wildcards.row)
    ]


def policies_made(wildcards):
    """Return what tells that a policy which a row answers with is another one."""
    return [
        f"results/{TASK}/costs/train/{p.row}/{p.name}/s{wildcards.seed}.parquet"
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


def forget(mark, *made):
    """Remove the mark of what is not there any more, so that it is made again; it says nothing then."""
    if not all(Path(path).exists() for path in made):
        Path(mark).unlink(missing_ok=True)


def print_leaderboard():
    """Print the leaderboard at the end of a run that made the report; `moa run` does so itself, as its last words."""
    from moa.report.leaderboard import show

    if start.RUN in os.environ or all(
        job.rule.name != "build_report" for job in workflow.dag.jobs
    ):
        return
    try:
        show(Path(DATABASE), Path(PAGES[0]), TASK)
    except MoaError as error:
        print(f"no leaderboard: {error}", file=sys.stderr)


# Parameters. A section is the path of a file that is named by its content (moa/store/sections.py).


def fixed(section):
    """Return the parameter of a section that does not depend on the job."""
    return sections.keep(section.model_dump_json())


def listed(*names):
    """Return a parameter function for inputs that may be too many for a command line."""

    def parameter(wildcards, input):
        return sections.listed(path for name in names for path in input[name])

    return parameter


@cache
def train_section_of(row):
    return fixed(PLAN.train(row))


@cache
def generate_section_of(row):
    return fixed(PLAN.generate(row))


def reward_section(wildcards):
    return fixed(PLAN.reward(wildcards.reward))


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
    return train_section_of(wildcards.row)


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
    return generate_section_of(wildcards.row)


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


def models_of_made(wildcards):
    """Return what tells that one of these is another one."""
    return models_made(judges=False) if models_of(wildcards) else []


if PLAN.endpoints():
    from moa.rewards import endpoint  # loads a client

    endpoint.export(PLAN.endpoints())
export_parent()
share_processor()
warn_of_stale_lock(Path())
if (
    workflow.is_main_process
):  # a job on another machine may not see yet what this one has just made
    forget(MARK, DATABASE)
    forget(PAGES_MARK, *PAGES)
shell.prefix(
    f"set -euo pipefail; export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
)
