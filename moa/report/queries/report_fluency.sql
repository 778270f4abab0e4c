-- The central 98 % of whole held-out texts under the reference policy, in nats per token.
SELECT low, median, high, n
FROM fluency
WHERE task = $task
ORDER BY tokens DESC
LIMIT 1
