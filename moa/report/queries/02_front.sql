-- Which trade-off does each method reach at each preference (normalised means over seeds), and is the point on its front?
WITH means AS (
    SELECT task, method, point, preference, objective, avg(normalised) AS normalised
    FROM points
    WHERE role = 'reward'
    GROUP BY ALL
),
fronts AS (
    SELECT task, method, point, avg(non_dominated::INT) AS on_front FROM quality GROUP BY ALL
)
SELECT
    task,
    method,
    preference,
    map(list(objective ORDER BY objective), list(round(normalised, 3) ORDER BY objective)) AS normalised,
    round(any_value(on_front), 2) AS share_of_seeds_on_front
FROM means
JOIN fronts USING (task, method, point)
GROUP BY task, method, point, preference
ORDER BY task, method, point
