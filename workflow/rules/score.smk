# Every objective's reward, and its judge where it has one, on the responses of one row and seed.
rule score_responses:
    input:
        prompts="results/{task}/prompts.parquet",
        generations="results/{task}/generations/{row}/s{seed}.parquet",
        normaliser="results/{task}/normaliser.parquet",
        models=ancient(models(judges=True)),
        models_made=models_made(judges=True),
    output:
        scores="results/{task}/scores/{row}/s{seed}.parquet",
        costs="results/{task}/costs/score/{row}/s{seed}.parquet",
    log:
        "logs/{task}/score/{row}/s{seed}.log",
    retries: NETWORK  # a judge from the hub is read here first
    threads: THREADS
    resources:
        gpu=int(GPU and PLAN.neural(SCORERS)),
    params:
        environment=environment(THREADS),
        section=fixed(PLAN.scoring(judges=True)),
        code=PLAN.code("score", rewards=SCORERS),
        files=PLAN.files(rewards=SCORERS),
    shell:
        "{params.environment} python -m moa.stages.score --section {params.section:q}"
        " --prompts {input.prompts:q} --generations {input.generations:q} --normaliser {input.normaliser:q} --models {input.models:q}"
        " --scores {output.scores:q} --costs {output.costs:q}"
        " > {log:q} 2>&1"


rule score:
    input:
        every_row("results/{task}/scores/{row}/s{seed}.parquet"),
