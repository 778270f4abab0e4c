-- Which method wins, how sure is that, how much of it is readable text, and can the method be steered?
SELECT
    task,
    method,
    round(hypervolume, 3) AS hypervolume,
    round(low, 3) AS low,
    round(high, 3) AS high,
    round(hypervolume_readable, 3) AS readable,
    round(tau, 2) AS tau,
    round(kl, 2) AS kl,
    points,
    prompts,
    seeds
FROM leaderboard
ORDER BY task, leaderboard.hypervolume DESC, method
