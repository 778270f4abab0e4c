-- The central 98 % of held-out text under the reference policy, in nats per token.
SELECT low, median, high, n
FROM fluency
WHERE task = $task
