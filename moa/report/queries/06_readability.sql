-- Which points may be high rewards on unreadable text? Degenerate points first, with the reason and the text statistics.
SELECT
    task,
    method,
    seed,
    preference,
    degenerate,
    reason,
    round(tokens, 1) AS tokens,
    round(distinct_2, 2) AS distinct_2,
    round(repetition_rate, 2) AS repetition_rate,
    round(empty_rate, 2) AS empty_rate,
    round(nll, 2) AS nll
FROM quality
ORDER BY degenerate DESC, repetition_rate DESC, empty_rate DESC, task, method, seed, point
