-- Do the objectives conflict? What each single-objective policy gets, and loses against the specialist of that objective.
SELECT
    task,
    policy AS trained_on,
    objective,
    round(avg(mean), 3) AS raw_mean,
    round(avg(normalised), 3) AS normalised,
    round(avg(loss), 3) AS loss,
    count(*) AS seeds
FROM payoff
GROUP BY task, policy, objective
ORDER BY task, policy = 'reference', policy, objective
