-- Mean score per method, preference and objective over seeds, raw and on the normalised scale; 95 % bootstrap interval over prompts.
WITH averaged AS (
    SELECT method, point, any_value(preference) AS preference, objective, role, avg(mean) AS mean, avg(low) AS low, avg(high) AS high,
        avg(normalised) AS normalised, sum(n)::BIGINT AS n, count(*) AS seeds
    FROM points
    WHERE task = $task
    GROUP BY method, point, objective, role
)
SELECT a.*,
    CASE WHEN role = 'reward' THEN (a.low - s.low) / (s.high - s.low) END AS normalised_low,
    CASE WHEN role = 'reward' THEN (a.high - s.low) / (s.high - s.low) END AS normalised_high
FROM averaged AS a
LEFT JOIN normaliser AS s ON s.task = $task AND s.objective = a.objective
ORDER BY method, point, role, a.objective
