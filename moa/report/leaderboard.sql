-- Table leaderboard (moa/tables.py): one row per task and method; a query of the warehouse stage, not of the report.
WITH answered AS (
    SELECT task, method, seed, count(*) AS points, sum(non_dominated::INT) AS non_dominated, sum(degenerate::INT) AS degenerate, sum(below_reference::INT) AS below_reference
    FROM quality
    GROUP BY ALL
),
quality_means AS (
    SELECT task, method, max(points) AS points, avg(non_dominated) AS non_dominated, avg(degenerate) AS degenerate, avg(below_reference) AS below_reference
    FROM answered
    GROUP BY ALL
),
metric_means AS (
    SELECT
        task,
        method,
        avg(value) FILTER (metric = 'hypervolume') AS hypervolume,
        avg(low) FILTER (metric = 'hypervolume') AS low,
        avg(high) FILTER (metric = 'hypervolume') AS high,
        stddev_samp(value) FILTER (metric = 'hypervolume') AS seed_sd,
        avg(value) FILTER (metric = 'hypervolume_readable') AS hypervolume_readable,
        avg(value) FILTER (metric = 'tau') AS tau,
        avg(value) FILTER (metric = 'control_error') AS control_error,
        max(n) AS prompts,
        count(DISTINCT seed) AS seeds
    FROM metrics
    WHERE objective = 'all'
    GROUP BY ALL
),
training AS (
    SELECT policies.task, policies.method, sum(seconds) AS seconds, sum(tokens) AS tokens, sum(models) AS models
    FROM policies
    JOIN costs ON costs.task = policies.task AND costs.method = policies.owner AND costs.job = policies.policy AND costs.stage = 'train'
    -- A row that only lends policies may have been trained with more seeds than this one was evaluated with.
    SEMI JOIN metrics ON metrics.task = policies.task AND metrics.method = policies.method AND metrics.seed = costs.seed
    GROUP BY ALL
),
generation AS (
    SELECT task, method, sum(seconds) AS seconds FROM costs WHERE stage = 'generate' GROUP BY ALL
)
SELECT
    metric_means.*,
    quality_means.points,
    quality_means.non_dominated,
    quality_means.degenerate,
    quality_means.below_reference,
    coalesce(training.seconds, 0) / seeds AS seconds,
    coalesce(training.tokens, 0) / seeds AS tokens,
    coalesce(training.models, 0) / seeds AS models,
    coalesce(generation.seconds, 0) / seeds AS generation_seconds
FROM metric_means
JOIN quality_means USING (task, method)
LEFT JOIN training USING (task, method)
LEFT JOIN generation USING (task, method)
ORDER BY task, hypervolume DESC, method
