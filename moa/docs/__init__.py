"""Generated pages: docs/tables.md from the tables, docs/experiment.md from the schema and the plan."""
