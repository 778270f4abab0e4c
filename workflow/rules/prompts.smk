# A dataset becomes prompts with disjoint splits, and texts for fine-tuning.
rule prepare_prompts:
    output:
        prompts="results/{task}/prompts.parquet",
        texts="results/{task}/texts.parquet",
        costs="results/{task}/costs/prompts.parquet",
    log:
        "logs/{task}/prompts.log",
    retries: NETWORK
    params:
        section=fixed(PLAN.prompts()),
        code=PLAN.code("prompts"),
        files=PLAN.files(sources=PLAN.data_sources()),
    shell:
        "python -m moa.stages.prompts --section {params.section:q}"
        " --prompts {output.prompts:q} --texts {output.texts:q} --costs {output.costs:q}"
        " > {log:q} 2>&1"


rule prompts:
    input:
        f"results/{TASK}/prompts.parquet",
