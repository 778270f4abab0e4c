-- Payoff table: what each single-objective policy, and the untrained reference, gets on every objective (mean over seeds).
SELECT policy, objective, avg(mean) AS mean, avg(normalised) AS normalised, avg(loss) AS loss, sum(n)::BIGINT AS n, count(*) AS seeds
FROM payoff
WHERE task = $task
GROUP BY policy, objective
ORDER BY policy, objective
