-- Training curves: mean over seeds, and over bins of steps so that a line has at most 60 points.
-- Summed in a fixed order, so that the same database gives the same digits.
WITH width AS (
    SELECT greatest(1, ceil((max(step) + 1) / 60.0))::BIGINT AS steps
    FROM curves
    WHERE task = $task
)
SELECT method, policy, quantity, objective, (step // width.steps) * width.steps AS step, avg(value ORDER BY seed, curves.step) AS value, count(DISTINCT seed) AS seeds
FROM curves, width
WHERE task = $task AND quantity IN ('reward', 'kl', 'entropy', 'weight', 'control_error', 'clip_fraction')
GROUP BY ALL
ORDER BY quantity, objective, method, policy, step
