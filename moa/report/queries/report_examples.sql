-- The responses of the first seed to the first six evaluation prompts (ids are hashes, so the choice is arbitrary), with their rewards.
WITH shown AS (
    SELECT DISTINCT prompt_id FROM generations WHERE task = $task ORDER BY prompt_id LIMIT 6
),
rewards AS (
    SELECT method, seed, point, prompt_id, sample, map_from_entries(list((objective, score) ORDER BY objective)) AS scores
    FROM scores
    WHERE task = $task AND role = 'reward'
    GROUP BY method, seed, point, prompt_id, sample
)
SELECT g.prompt_id, prompt, g.method, g.point, preference, left(response, 1200) AS response, length(response) AS characters, tokens, finished, rewards.scores
FROM generations AS g
JOIN shown USING (prompt_id)
JOIN prompts AS p ON p.task = g.task AND p.prompt_id = g.prompt_id
LEFT JOIN rewards USING (method, seed, point, prompt_id, sample)
WHERE g.task = $task AND sample = 0 AND seed = (SELECT min(seed) FROM generations WHERE task = $task)
ORDER BY g.prompt_id, g.method, g.point
