-- Text quality of each point, mean over seeds; how many seeds are degenerate, and why.
SELECT method, point, any_value(preference) AS preference, count(*) AS seeds,
    count(*) FILTER (non_dominated) AS non_dominated, count(*) FILTER (below_reference) AS below_reference,
    count(*) FILTER (degenerate) AS degenerate, string_agg(DISTINCT reason, '; ' ORDER BY reason) AS reason,
    avg(distinct_1) AS distinct_1, avg(distinct_2) AS distinct_2, avg(distinct_responses) AS distinct_responses,
    avg(tokens) AS tokens, avg(characters) AS characters, avg(empty_rate) AS empty_rate, avg(unfinished_rate) AS unfinished_rate,
    avg(repetition_rate) AS repetition_rate, avg(nll) AS nll, avg(nll_low) AS nll_low, avg(nll_high) AS nll_high,
    sum(n)::BIGINT AS n
FROM quality
WHERE task = $task
GROUP BY method, point
ORDER BY method, point
