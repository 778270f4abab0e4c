"""One prompt, one policy, every evaluation preference: the table of answers in README.md, from a finished run.

python -m moa.report.example --task reviews --row moc README.md

It replaces what stands between the document's two marks. The prompt is the first one of the evaluation (the smallest
id), the seed the smallest: nobody chooses the answer.
"""

import argparse
import re
import sys
from pathlib import Path

import duckdb

from moa.errors import MoaError, nearest
from moa.report.markdown import cell, table
from moa.report.summary import rows_of
from moa.store import sql
from moa.store.files import atomically

BEGIN, END = "<!-- answers: python -m moa.report.example -->", "<!-- end of answers -->"
ANSWERS = """
SELECT seed, point, preference, prompt, response FROM generations JOIN prompts USING (task, prompt_id)
WHERE task = $task AND method = $row AND sample = 0 AND preference IS NOT NULL
    AND seed = (SELECT min(seed) FROM generations WHERE task = $task AND method = $row)
    AND prompt_id = (SELECT min(prompt_id) FROM prompts WHERE task = $task AND split = 'evaluation')
ORDER BY preference
"""
SCORES = """
SELECT point, objective, score FROM scores
WHERE task = $task AND method = $row AND sample = 0 AND role = 'reward'
    AND seed = (SELECT min(seed) FROM scores WHERE task = $task AND method = $row)
    AND prompt_id = (SELECT min(prompt_id) FROM prompts WHERE task = $task AND split = 'evaluation')
"""


def answers(connection: duckdb.DuckDBPyConnection, task: str, row: str) -> str:
    """Return a sentence with the prompt, and the table: preference, answer, what each reward says of it."""
    names = {run["task"]: run["objectives"] for run in rows_of(connection, "SELECT task, objectives FROM runs")}
    if task not in names:
        raise MoaError(f"no task '{task}' in the database.{nearest(task, list(names))}")
    found = rows_of(connection, ANSWERS, task=task, row=row)
    if not found:
        steered = rows_of(
            connection,
            "SELECT DISTINCT method FROM generations WHERE task = $task AND preference IS NOT NULL",
            task=task,
        )
        known = sorted(line["method"] for line in steered)
        raise MoaError(f"task '{task}' has no row '{row}' that answers preferences; it has {', '.join(known)}")
    scores = {(s["point"], s["objective"]): s["score"] for s in rows_of(connection, SCORES, task=task, row=row)}
    lines = [
        [
            *(f"{weight:.2f}" for weight in line["preference"]),
            cell(line["response"]),
            *(f"{scores[line['point'], objective]:.2f}" for objective in names[task]),
        ]
        for line in found
    ]
    head = [*names[task], "answer", *(f"reward: {objective}" for objective in names[task])]
    told = f"Prompt: **{cell(found[0]['prompt'])}** (row `{row}` of task `{task}`, seed {found[0]['seed']})"
    return f"{told}\n\n{table(head, lines)}"


def replaced(document: str, block: str, name: str) -> str:
    """Return `document` with `block` between its two marks, which stay."""
    parts = re.split(f"({re.escape(BEGIN)}|{re.escape(END)})", document)
    if parts[1::2] != [BEGIN, END]:
        raise MoaError(f"{name}: the answers go between one line '{BEGIN}' and, after it, one line '{END}'; add them")
    return f"{parts[0]}{BEGIN}\n{block}\n{END}{parts[4]}"


def main(arguments: argparse.Namespace) -> None:
    path: Path = arguments.document
    if not path.is_file():
        raise MoaError(f"{path}: no such document; name one with the two marks")
    with sql.reading(arguments.database) as connection:
        block = answers(connection, arguments.task, arguments.row)
    text = replaced(path.read_text(encoding="utf-8"), block, str(path))
    atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--database", type=Path, default=Path("results/results.duckdb"))
    made.add_argument("--task", required=True)
    made.add_argument("--row", required=True, help="a row that answers preferences")
    made.add_argument("document", type=Path, help="the document whose block is replaced, e.g. README.md")
    return made


if __name__ == "__main__":
    try:
        main(_parser().parse_args())
    except MoaError as error:
        sys.exit(f"error: {error}")
