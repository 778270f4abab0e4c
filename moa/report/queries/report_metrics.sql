-- Every metric, mean over seeds; 95 % bootstrap interval over prompts. NULL: not defined, such as tau of a policy without preference.
SELECT method, metric, objective, avg(value) AS value, avg(low) AS low, avg(high) AS high,
    max(points) AS points, max(n) AS prompts, count(DISTINCT seed) AS seeds
FROM metrics
WHERE task = $task
GROUP BY method, metric, objective
ORDER BY metric, objective, method
