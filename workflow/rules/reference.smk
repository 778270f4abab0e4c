# The reference policy's responses give every objective its scale and the hypervolume its reference point.
rule score_reference:
    input:
        prompts="results/{task}/prompts.parquet",
        texts="results/{task}/texts.parquet",
        base=ancient("results/{task}/base"),
        base_made="results/{task}/costs/base.parquet",
        models=ancient(models(judges=False)),
        models_made=models_made(judges=False),
    output:
        responses="results/{task}/reference_responses.parquet",
        scores="results/{task}/reference_scores.parquet",
        normaliser="results/{task}/normaliser.parquet",
        fluency="results/{task}/fluency.parquet",
        costs="results/{task}/costs/reference.parquet",
    log:
        "logs/{task}/reference.log",
    retries: NETWORK
    threads: WIDE
    resources:
        gpu=int(GPU),
    params:
        environment=environment(WIDE),
        section=fixed(PLAN.reference()),
        code=PLAN.code("reference", rewards=FORMULAS),
        files=PLAN.files(rewards=FORMULAS),
    shell:
        "{params.environment} python -m moa.stages.reference --section {params.section:q}"
        " --prompts {input.prompts:q} --texts {input.texts:q} --base {input.base:q} --models {input.models:q}"
        " --responses {output.responses:q} --scores {output.scores:q}"
        " --normaliser {output.normaliser:q} --fluency {output.fluency:q} --costs {output.costs:q}"
        " > {log:q} 2>&1"


rule reference_scores:
    input:
        f"results/{TASK}/normaliser.parquet",
