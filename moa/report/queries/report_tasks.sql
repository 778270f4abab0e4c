-- Every task of the database, with its provenance.
SELECT task, objectives, config, code, git, versions, hardware, files
FROM runs
ORDER BY task
