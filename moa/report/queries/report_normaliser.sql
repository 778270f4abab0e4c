-- The scale of every objective and the hypervolume reference point, fixed before any training.
SELECT objective, low, high, mean, std, floor, reference_point, (reference_point - low) / (high - low) AS normalised_reference_point, n, hash
FROM normaliser
WHERE task = $task
ORDER BY objective
