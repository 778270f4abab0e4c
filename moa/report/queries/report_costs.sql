-- Cost by method and stage, all seeds together. GPU seconds: wall-clock of the jobs that ran on a GPU.
SELECT method, stage, count(*) AS jobs, sum(seconds) AS seconds, sum(cpu_seconds) AS cpu_seconds,
    sum(seconds) FILTER (device <> 'cpu') AS gpu_seconds, sum(tokens)::BIGINT AS tokens, sum(models)::BIGINT AS models,
    max(peak_memory) AS peak_memory, string_agg(DISTINCT device, ', ' ORDER BY device) AS device
FROM costs
WHERE task = $task
GROUP BY method, stage
ORDER BY method <> 'all', method, list_position(['prompts', 'rewards', 'text_scores', 'base', 'reference_scores', 'train', 'generate', 'score'], stage), stage
