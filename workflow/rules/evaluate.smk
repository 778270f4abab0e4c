# Fronts and metrics of all rows and seeds, with the same resampled prompts for every method.
rule evaluate_task:
    input:
        normaliser="results/{task}/normaliser.parquet",
        fluency="results/{task}/fluency.parquet",
        prompts="results/{task}/prompts.parquet",
        generations=every_row("results/{task}/generations/{row}/s{seed}.parquet"),
        scores=every_row("results/{task}/scores/{row}/s{seed}.parquet"),
    output:
        points="results/{task}/evaluation/points.parquet",
        quality="results/{task}/evaluation/quality.parquet",
        metrics="results/{task}/evaluation/metrics.parquet",
        payoff="results/{task}/evaluation/payoff.parquet",
    log:
        "logs/{task}/evaluate.log",
    params:
        section=fixed(PLAN.evaluate()),
        code=PLAN.code("evaluate"),
        generations=listed("generations"),
        scores=listed("scores"),
    shell:
        "python -m moa.stages.evaluate --section {params.section:q}"
        " --normaliser {input.normaliser:q} --fluency {input.fluency:q} --prompts {input.prompts:q}"
        " --generations {params.generations:q} --scores {params.scores:q}"
        " --points {output.points:q} --quality {output.quality:q}"
        " --metrics {output.metrics:q} --payoff {output.payoff:q}"
        " > {log:q} 2>&1"


rule evaluate:
    input:
        f"results/{TASK}/evaluation/metrics.parquet",
