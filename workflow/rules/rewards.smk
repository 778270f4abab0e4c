# Rewards that are trained here from labels, targets or preference pairs; formulas and hub models need no job.
rule train_reward:
    output:
        model=directory("results/{task}/rewards/{reward}"),
        costs="results/{task}/costs/rewards/{reward}.parquet",
    log:
        "logs/{task}/rewards/{reward}.log",
    priority: 2  # the longest first
    retries: NETWORK
    threads: WIDE
    resources:
        gpu=reward_gpu,
    params:
        environment=environment(WIDE),
        section=reward_section,
        code=reward_code,
        files=reward_files,
        checkpoints=f".moa/checkpoints/{TASK}",
    shell:
        "{params.environment} python -m moa.stages.rewards --section {params.section:q}"
        " --checkpoints {params.checkpoints:q} --depends {params.code:q}{params.files:q}"
        " --model {output.model:q} --costs {output.costs:q}"
        " > {log:q} 2>&1"


rule rewards:
    input:
        every_reward("results/{task}/rewards/{reward}"),
