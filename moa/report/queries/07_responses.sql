-- What does each method answer to the same prompt as the preference moves? The first evaluation prompt of each task.
WITH shown AS (
    SELECT task, min(prompt_id) AS prompt_id FROM prompts WHERE split = 'evaluation' GROUP BY task
)
SELECT task, method, preference, prompt, response
FROM generations
SEMI JOIN shown USING (task, prompt_id)
JOIN prompts USING (task, prompt_id)
WHERE sample = 0 AND seed = (SELECT min(seed) FROM generations AS every WHERE every.task = generations.task)
ORDER BY task, method, point
