# Provenance of the run, the database of all finished tasks, and the pages.
rule describe_run:
    input:
        prompts=[
            f"results/{TASK}/prompts.parquet",
            f"results/{TASK}/texts.parquet",
            f"results/{TASK}/costs/prompts.parquet",
        ],
        rewards=every_reward("results/{task}/rewards/{reward}"),
        reward_costs=every_reward("results/{task}/costs/rewards/{reward}.parquet"),
        texts=branch(
            TEXT_SCORES,
            then=[
                f"results/{TASK}/text_scores.parquet",
                f"results/{TASK}/costs/texts.parquet",
            ],
        ),
        base=[f"results/{TASK}/base", f"results/{TASK}/costs/base.parquet"],
        reference=[
            f"results/{TASK}/reference_responses.parquet",
            f"results/{TASK}/reference_scores.parquet",
            f"results/{TASK}/normaliser.parquet",
            f"results/{TASK}/fluency.parquet",
            f"results/{TASK}/costs/reference.parquet",
        ],
        policies=every_policy("results/{task}/policies/{row}/{policy}/s{seed}"),
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
    shell:
        "python -m moa.stages.manifest --section {params.section:q} --files {input:q} --out {output:q} > {log:q} 2>&1"


rule build_warehouse:
    input:
        run=f"results/{TASK}/run.parquet",
        others=finished_runs(Path("results"), TASK),
        queries=report_files(".sql"),
    output:
        "results/results.duckdb",
    log:
        "logs/warehouse.log",
    params:
        section=fixed(PLAN.task()),
        code=PLAN.code("warehouse"),
    shell:
        "python -m moa.stages.warehouse --section {params.section:q}"
        " --runs {input.run:q} {input.others:q} --out {output:q} > {log:q} 2>&1"


rule build_report:
    input:
        database="results/results.duckdb",
        templates=report_files(".sql", ".j2", ".css", ".js"),
    output:
        index="reports/index.html",
        page=f"reports/{TASK}.html",
    log:
        f"logs/{TASK}/report.log",
    params:
        section=fixed(PLAN.task()),
        code=PLAN.code("report"),
    shell:
        "python -m moa.stages.report --section {params.section:q}"
        " --database {input.database:q} --out reports > {log:q} 2>&1"


rule warehouse:
    input:
        "results/results.duckdb",


rule report:
    input:
        "reports/index.html",
        f"reports/{TASK}.html",
