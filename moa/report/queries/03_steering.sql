-- Does the answer follow the preference? Rank agreement per objective, and distance between reward and preference.
SELECT
    task,
    method,
    metric,
    objective,
    round(avg(value), 3) AS value,
    round(avg(low), 3) AS low,
    round(avg(high), 3) AS high,
    any_value(points) AS points,
    count(*) AS seeds
FROM metrics
WHERE metric IN ('tau', 'order_rate', 'control_error') AND value IS NOT NULL
GROUP BY task, method, metric, objective
ORDER BY task, metric DESC, objective, avg(value) DESC
