# One job per row and seed: the base is loaded once and the whole preference grid walked.
rule generate_responses:
    input:
        prompts="results/{task}/prompts.parquet",
        base=ancient("results/{task}/base"),
        base_made="results/{task}/costs/base.parquet",
        policies=ancient(policies_of),
        policies_made=policies_made,
        normaliser=normaliser_of,
        models=ancient(models_of),
        models_made=models_of_made,
    output:
        responses="results/{task}/generations/{row}/s{seed}.parquet",
        costs="results/{task}/costs/generate/{row}/s{seed}.parquet",
    log:
        "logs/{task}/generate/{row}/s{seed}.log",
    retries: ROWS_NETWORK
    threads: THREADS
    resources:
        gpu=int(GPU),
    params:
        environment=environment(THREADS),
        stage=generator,
        section=generate_section,
        code=generate_code,
        files=generate_files,
        policies=listed("policies"),
    shell:
        "{params.environment} python -m moa.stages.{params.stage} --section {params.section:q}"
        " --row {wildcards.row:q} --seed {wildcards.seed}"
        " --prompts {input.prompts:q} --base {input.base:q} --policies {params.policies:q}"
        " --normaliser {input.normaliser:q} --models {input.models:q}"
        " --out {output.responses:q} --costs {output.costs:q}"
        " > {log:q} 2>&1"


rule generate:
    input:
        every_row("results/{task}/generations/{row}/s{seed}.parquet"),
