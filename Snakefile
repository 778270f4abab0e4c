# Reads top-down: settings, stages, targets. Rules live in workflow/rules/, their functions in workflow/rules/common.smk.
from snakemake.utils import min_version

min_version("9.20")


# For `snakemake --lint`, which asks for one. Jobs run in the environment of Snakemake itself unless --sdm is given.
container: "docker://python:3.12"


include: "workflow/rules/common.smk"
include: "workflow/rules/prompts.smk"
include: "workflow/rules/rewards.smk"
include: "workflow/rules/base.smk"
include: "workflow/rules/reference.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/generate.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        rules.report.input,
        rules.warehouse.input,
        f"results/{TASK}/run.parquet",
        rules.describe_run.input,  # whatever was deleted is made again, also where what follows stands


onstart:
    start_warm()


onsuccess:
    print_leaderboard()
