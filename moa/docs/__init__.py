"""Pages of docs/ that are generated: docs/tables.md from the tables, docs/experiment.md from the schema and the plan."""
