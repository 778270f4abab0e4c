"""Makes docs/tables.md from moa/store/tables.py."""

from moa.store import tables
from moa.store.sql import sql_type

FILES = {
    "prompts": "prompts.parquet",
    "texts": "texts.parquet",
    "text_scores": "text_scores.parquet (conditional warm start only)",
    "normaliser": "normaliser.parquet",
    "fluency": "fluency.parquet",
    "reference_responses": "reference_responses.parquet",
    "reference_scores": "reference_scores.parquet",
    "curves": "curves/{row}/{policy}/s{seed}.parquet",
    "generations": "generations/{row}/s{seed}.parquet",
    "scores": "scores/{row}/s{seed}.parquet",
    "points": "evaluation/points.parquet",
    "quality": "evaluation/quality.parquet",
    "metrics": "evaluation/metrics.parquet",
    "payoff": "evaluation/payoff.parquet",
    "costs": "costs/{stage}/... .parquet, one per job",
    "runs": "run.parquet",
    "policies": "in the database only, from table runs",
    "leaderboard": "in the database only, from tables metrics, quality, policies and costs",
}
HEAD = f"""# Tables

Generated from `moa/store/tables.py` by `python -m moa.docs`; a test keeps it up to date.

`results/results.duckdb` holds every table below, for all tasks. Most are made from Parquet files under
`results/{{task}}/`, named below. Every file carries its table's name and schema version ({tables.VERSION}) as metadata;
it is checked when written and when read: columns, types, NULLs, finite numbers, unique keys, preferences on the
simplex. NULL is allowed only where the last column says what it means. The database holds the meanings as comments:
`moa sql "select table_name, column_name, comment from duckdb_columns() where not internal"`.
"""


def render() -> str:
    """Return the page as Markdown."""
    return "\n".join([HEAD, *(_section(table) for table in tables.ALL)])


def _section(table: tables.Table) -> str:
    key = table.key if "task" in table.key else ("task", *table.key)
    lines = [
        f"## {table.name}\n",
        f"{_sentence(table.meaning)} One row per {', '.join(key)}.\n",
        f"Made from: `{FILES[table.name]}`\n",
    ]
    lines += ["| column | type | meaning | NULL means |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {sql_type(column.type)} | {_escape(column.meaning)} | {_escape(column.null)} |"
        for name, column in table.columns.items()
    ]
    return "\n".join(lines) + "\n"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].removesuffix(".") + ("" if text.endswith("?") else ".")


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
