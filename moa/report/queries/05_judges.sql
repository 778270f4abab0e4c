-- Is a reward being gamed? Means of reward and independent judge, and their correlation over responses.
SELECT
    reward.task,
    reward.method,
    reward.objective,
    round(avg(reward.score), 3) AS mean_reward,
    round(avg(judge.score), 3) AS mean_judge,
    round(corr(reward.score, judge.score), 3) AS correlation,
    count(*) AS responses
FROM scores AS reward
JOIN scores AS judge USING (task, method, seed, point, prompt_id, sample, objective)
WHERE reward.role = 'reward' AND judge.role = 'judge'
GROUP BY ALL
ORDER BY reward.task, reward.objective, mean_reward DESC
