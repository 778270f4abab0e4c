# Provenance of the run, the database of all finished tasks, and the pages.
#
# Database and pages are no declared outputs: Snakemake removes those before a job begins and after it has failed, and
# with them what another program is writing there, or the results of every task. Flagged `update` they would be kept,
# but after a failure Snakemake 9.27 takes the old file for the new one. So the jobs replace them whole or not at all,
# and what Snakemake sees is a mark: the hash of what was made. `forget` removes the mark of what was lost.
rule describe_run:
    input:
        prompts=[
            f"results/{TASK}/prompts.parquet",
            f"results/{TASK}/texts.parquet",
            f"results/{TASK}/costs/prompts.parquet",
        ],
        rewards=ancient(every_reward("results/{task}/rewards/{reward}")),
        reward_costs=every_reward("results/{task}/costs/rewards/{reward}.parquet"),
        texts=branch(
            TEXT_SCORES,
            then=[
                f"results/{TASK}/text_scores.parquet",
                f"results/{TASK}/costs/texts.parquet",
            ],
        ),
        base=ancient(f"results/{TASK}/base"),
        base_costs=f"results/{TASK}/costs/base.parquet",
        reference=[
            f"results/{TASK}/reference_responses.parquet",
            f"results/{TASK}/reference_scores.parquet",
            f"results/{TASK}/normaliser.parquet",
            f"results/{TASK}/fluency.parquet",
            f"results/{TASK}/costs/reference.parquet",
        ],
        policies=ancient(every_policy("results/{task}/policies/{row}/{policy}/s{seed}")),
        curves=every_policy("results/{task}/curves/{row}/{policy}/s{seed}.parquet"),
        train_costs=every_policy(
            "results/{task}/costs/train/{row}/{policy}/s{seed}.parquet"
        ),
        generations=every_row("results/{task}/generations/{row}/s{seed}.parquet"),
        generate_costs=every_row("results/{task}/costs/generate/{row}/s{seed}.parquet"),
        scores=every_row("results/{task}/scores/{row}/s{seed}.parquet"),
        score_costs=every_row("results/{task}/costs/score/{row}/s{seed}.parquet"),
        evaluation=[
            f"results/{TASK}/evaluation/points.parquet",
            f"results/{TASK}/evaluation/quality.parquet",
            f"results/{TASK}/evaluation/metrics.parquet",
            f"results/{TASK}/evaluation/payoff.parquet",
        ],
    output:
        "results/{task}/run.parquet",
    log:
        "logs/{task}/run.log",
    params:
        section=fixed(PLAN.experiment),
        code=PLAN.code("manifest"),
        files=lambda wildcards, input: sections.listed(input),
    shell:
        "python -m moa.stages.manifest --section {params.section:q} --files {params.files:q} --out {output:q}"
        " > {log:q} 2>&1"


rule build_warehouse:
    input:
        run=f"results/{TASK}/run.parquet",
        others=finished_runs(Path("results"), TASK),
        queries=report_files(".sql"),
    output:
        MARK,
    log:
        "logs/warehouse.log",
    params:
        section=fixed(PLAN.task()),
        code=PLAN.code("warehouse"),
        database=DATABASE,
    shell:
        "python -m moa.stages.warehouse --section {params.section:q} --runs {input.run:q} {input.others:q}"
        " --out {params.database:q} --mark {output:q} > {log:q} 2>&1"


rule build_report:
    input:
        database=MARK,
        templates=report_files(".sql", ".j2", ".css", ".js"),
    output:
        PAGES_MARK,
    log:
        f"logs/{TASK}/report.log",
    params:
        section=fixed(PLAN.task()),
        code=PLAN.code("report"),
        database=DATABASE,
    shell:
        "python -m moa.stages.report --section {params.section:q}"
        " --database {params.database:q} --out reports --mark {output:q} > {log:q} 2>&1"


rule warehouse:
    input:
        MARK,


rule report:
    input:
        PAGES_MARK,
