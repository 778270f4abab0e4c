"""Rows of a dataset: a hub id, or a local Parquet, Arrow, JSON or CSV file, or a folder of such files.

    >>> read_rows("reviews.csv", None, None, "train", ["text", "label"])    # doctest: +SKIP
    [{'text': 'The lamp is fine.', 'label': 1}, ...]

Which files are a split's: moa/tasks/files.py.
"""

import logging
import math
from typing import Any

from moa.errors import MoaError
from moa.store import hub
from moa.store.lock import Repository
from moa.store.tables import Row
from moa.tasks import formats, splits
from moa.tasks.files import locate

log = logging.getLogger("moa")


def read_rows(source: str, revision: str | None, subset: str | None, split: str, columns: list[str]) -> list[Row]:
    """Return the rows of a split, in file order, with exactly `columns`.

    Rows with a missing value there are dropped and counted.

    Args:
        source: hub id, or path of a local file or folder.
        revision: commit, branch or tag of a hub dataset; not used for a local source.
        subset: configuration of a hub dataset, or sub-folder of a local folder.
        split: name of the split.
        columns: names of the columns to read; repeated names count once.

    Raises:
        MoaError: no such file, split or column; unreadable or empty data; hub not reachable.
    """
    wanted = list(dict.fromkeys(columns))
    files = locate(source, subset, split)
    if files is None:
        where, rows = f"{source} (hub)", _hub(source, revision, subset, split, wanted)
    else:
        where, rows = ", ".join(str(f) for f in files), [row for f in files for row in formats.read(f, wanted)]
    if not rows:
        raise MoaError(f"{where}: no rows; the dataset is empty, check the file or the split '{split}'")
    complete = [row for row in rows if not any(map(_missing, row.values()))]
    if len(complete) < len(rows):
        log.info(
            "%s: dropped %d of %d rows with a missing value in %s",
            where,
            len(rows) - len(complete),
            len(rows),
            ", ".join(wanted),
        )
    if not complete:
        raise MoaError(
            f"{where}: every one of the {len(rows)} rows lacks a value in {', '.join(wanted)}; name other columns"
        )
    return complete


def text_of(where: str, row: Row, column: str) -> str:
    """Return a row's text; a MoaError names the row by `where` if the column holds something else.

    A list of messages, TRL's conversational format, is text, too: the content of its only message, or every message
    after its role: 'User: Why?', an empty line, 'Assistant: Because.'
    """
    value = row[column]
    if isinstance(value, str):
        return value
    if (
        isinstance(value, list)
        and value
        and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in value)
    ):
        contents = [_content(where, column, message) for message in value]
        if len(contents) == 1:
            return contents[0]
        said = zip(value, contents, strict=True)
        return "\n\n".join(f"{str(message['role']).capitalize()}: {content}" for message, content in said)
    raise MoaError(
        f"{where}: column '{column}' holds {type(value).__name__} ({str(value)[:60]}), expected text, or messages with"
        " role and content; name such a column"
    )


def _content(where: str, column: str, message: dict[str, Any]) -> str:
    """Return a message's text, whose parts may stand in a list."""
    content = message["content"]
    parts = [part.get("text") for part in content if isinstance(part, dict)] if isinstance(content, list) else [content]
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) < len(parts) or not texts:
        raise MoaError(
            f"{where}: column '{column}': a message of role '{message['role']}' holds {str(content)[:60]}, expected"
            " text; drop such rows"
        )
    return "".join(texts)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _hub(source: str, revision: str | None, subset: str | None, split: str, columns: list[str]) -> list[Row]:
    what = (
        f"dataset {source}"
        + (f", subset {subset}" if subset else "")
        + f", split {split}"
        + (f", revision {revision}" if revision else "")
    )
    try:
        files = splits.fetch(Repository("dataset", source, revision), subset, split)
    except hub.NotHad as error:
        raise MoaError(
            f"{what}: cannot be had from the hub ({error}); check its name and revision and the network, or give a"
            " local file or folder as `source`"
        ) from error
    except splits.NoSplit as error:
        raise MoaError(f"{what}: {error}") from error
    return [row for file in files for row in formats.read(file, columns)]
