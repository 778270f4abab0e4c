# One job per policy. Checkpoints lie outside the outputs, which Snakemake removes before a job starts again.
rule train_policy:
    input:
        prompts="results/{task}/prompts.parquet",
        base=ancient("results/{task}/base"),
        base_made="results/{task}/costs/base.parquet",
        normaliser="results/{task}/normaliser.parquet",
        models=ancient(models(judges=False)),
        models_made=models_made(judges=False),
        texts=texts_of,
    output:
        policy=directory("results/{task}/policies/{row}/{policy}/s{seed}"),
        curve="results/{task}/curves/{row}/{policy}/s{seed}.parquet",
        costs="results/{task}/costs/train/{row}/{policy}/s{seed}.parquet",
    log:
        "logs/{task}/train/{row}/{policy}/s{seed}.log",
    priority: 1  # longer than answering and scoring
    retries: ROWS_NETWORK
    threads: THREADS
    resources:
        gpu=int(GPU),
    params:
        environment=environment(THREADS),
        section=train_section,
        weights=weights,
        code=train_code,
        files=train_files,
        checkpoints=f".moa/checkpoints/{TASK}",
    shell:  # lines of progress go to the console as well
        "{params.environment} python -m moa.stages.train --section {params.section:q}"
        " --row {wildcards.row:q} --policy {wildcards.policy:q} --seed {wildcards.seed} --weights {params.weights:q} --depends {params.code:q}{params.files:q}"
        " --prompts {input.prompts:q} --base {input.base:q} --normaliser {input.normaliser:q} --models {input.models:q}"
        " --texts {input.texts:q} --checkpoints {params.checkpoints:q}"
        " --out {output.policy:q} --curve {output.curve:q} --costs {output.costs:q}"
        " 2>&1 | tee {log:q} | {{ grep --line-buffered ETA >&2 || true; }}"


rule train:
    input:
        every_policy("results/{task}/policies/{row}/{policy}/s{seed}"),
