"""The HTML report: queries on results.duckdb, charts as plain data, pages from templates that escape everything."""
