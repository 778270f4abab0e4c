# The base language model: fine-tuned, or trained from scratch; its warm start needs the texts' own rewards.
rule score_texts:
    input:
        texts="results/{task}/texts.parquet",
        models=ancient(models(judges=False)),
        models_made=models_made(judges=False),
    output:
        scores="results/{task}/text_scores.parquet",
        costs="results/{task}/costs/texts.parquet",
    log:
        "logs/{task}/texts.log",
    retries: NETWORK
    threads: THREADS
    resources:
        gpu=int(GPU and PLAN.neural(FORMULAS)),
    params:
        environment=environment(THREADS),
        section=fixed(PLAN.scoring(judges=False)),
        code=PLAN.code("texts", rewards=FORMULAS),
        files=PLAN.files(rewards=FORMULAS),
    shell:
        "{params.environment} python -m moa.stages.texts --section {params.section:q}"
        " --texts {input.texts:q} --models {input.models:q}"
        " --scores {output.scores:q} --costs {output.costs:q}"
        " > {log:q} 2>&1"


rule train_base:
    input:
        texts="results/{task}/texts.parquet",
        scores=branch(WARM_START, then="results/{task}/text_scores.parquet"),
    output:
        model=directory("results/{task}/base"),
        costs="results/{task}/costs/base.parquet",
    log:
        "logs/{task}/base.log",
    priority: 2  # the longest first
    retries: NETWORK
    threads: WIDE
    resources:
        gpu=int(GPU),
    params:
        environment=environment(WIDE),
        section=fixed(PLAN.base()),
        code=PLAN.code("base"),
        files=PLAN.files(sources=[PLAN.experiment.model.source]),
        scores="--scores" if WARM_START else "",
        checkpoints=f".moa/checkpoints/{TASK}",
    shell:  # lines of progress go to the console as well
        "{params.environment} python -m moa.stages.base --section {params.section:q}"
        " --texts {input.texts:q} {params.scores} {input.scores:q}"
        " --checkpoints {params.checkpoints:q} --depends {params.code:q}{params.files:q}"
        " --model {output.model:q} --costs {output.costs:q}"
        " 2>&1 | tee {log:q} | {{ grep --line-buffered ETA >&2 || true; }}"


rule base:
    input:
        f"results/{TASK}/base",
