-- What did the hypervolume cost? Training of every policy that a method uses (borrowed ones included) and generation, per seed.
SELECT
    task,
    method,
    models,
    round(seconds, 1) AS training_seconds,
    round(generation_seconds, 1) AS generation_seconds,
    tokens AS training_tokens,
    round(hypervolume, 3) AS hypervolume
FROM leaderboard
ORDER BY task, seconds, method
