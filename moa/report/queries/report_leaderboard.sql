-- One row per method, means over seeds. Intervals: 95 % bootstrap over prompts. Ranges: smallest and largest value among the seeds.
WITH readable AS (
    SELECT method, avg(value) AS value, avg(low) AS low, avg(high) AS high, max(points) AS points, min(value) AS worst_seed, max(value) AS best_seed,
        list({'seed': seed, 'value': value} ORDER BY seed) FILTER (value IS NOT NULL) AS by_seed
    FROM metrics
    WHERE task = $task AND metric = 'hypervolume_readable' AND objective = 'all'
    GROUP BY method
)
SELECT l.method, r.value AS readable, r.low AS readable_low, r.high AS readable_high, r.points AS readable_points, worst_seed, best_seed, by_seed,
    l.hypervolume, l.low, l.high, l.seed_sd, l.kl, l.points, l.degenerate, l.below_reference, l.prompts, l.seeds,
    l.seconds, l.tokens, l.models, l.generation_seconds,
    (SELECT count(*) FROM policies AS p WHERE p.task = $task AND p.method = l.method AND p.owner <> l.method) AS borrowed
FROM leaderboard AS l
LEFT JOIN readable AS r USING (method)
WHERE l.task = $task
ORDER BY readable DESC NULLS LAST, l.hypervolume DESC, l.method
