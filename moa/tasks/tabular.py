"""Rows of a dataset: a hub id, or a local Parquet, Arrow, JSON or CSV file, or a folder of such files.

    >>> read_rows("reviews.csv", None, None, "train", ["text", "label"])    # doctest: +SKIP
    [{'text': 'The lamp is fine.', 'label': 1}, ...]

A source is local when such a path exists. In a folder, a split is `<split>.*` or its shards `<split>-*.*`; a folder
that holds a single data file is that file, whatever the split. A single file has no splits. A folder that `datasets`
saved (`save_to_disk`) is read as it is.
"""

import logging
import math
from pathlib import Path
from typing import Any

from moa.errors import MoaError, nearest, one_line
from moa.store import hub
from moa.store.files import read_object
from moa.store.lock import Repository
from moa.store.tables import Row
from moa.tasks import formats, splits
from moa.tasks.formats import SUFFIXES

METADATA = hub.NO_ROWS  # of `datasets`

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


def locate(source: str, subset: str | None, split: str) -> list[Path] | None:
    """Return the local files that hold `split`, sorted; None for a hub id; a MoaError for a path that is not there."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        return _split_files(path / subset if subset else path, split)
    if source.startswith((".", "/", "~")) or formats.kind(path) in SUFFIXES:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise MoaError(
            f"{source}: no such file or"
            f" folder.{nearest(path.name, beside) if beside else ' Its folder does not exist either.'}"
        )
    return None


def _split_files(folder: Path, split: str) -> list[Path]:
    if not folder.is_dir():
        raise MoaError(
            f"{folder}: no such folder; `subset` names a sub-folder of a local source, leave it out if there is none"
        )
    saved = _saved_files(folder, split)
    if saved is not None:
        return saved
    inside = sorted(folder.iterdir())
    data = [p for p in inside if formats.kind(p) in SUFFIXES and p.name not in METADATA and p.is_file()]
    if not data:
        folders = ", ".join(p.name for p in inside if p.is_dir() and not p.name.startswith("."))
        raise MoaError(
            f"{folder}: no data file in this folder (known suffixes: {', '.join(SUFFIXES)}, also with .gz, .bz2, .zst)"
            + (f"; name a sub-folder as `subset`: {folders}" if folders else "")
        )
    found = [p for p in data if formats.stem(p) == split or p.name.startswith(f"{split}-")]
    if not found and len(data) == 1:
        return data
    if not found:
        raise MoaError(
            f"{folder}: no file {split}.* or {split}-*.* for split '{split}'.{nearest(split, map(formats.stem, data))}"
        )
    if len({formats.kind(p) for p in found}) > 1 or len({formats.stem(p) for p in found}) < len(found):
        raise MoaError(
            f"{folder}: split '{split}' exists in several formats ({', '.join(p.name for p in found)}); name the file"
            " itself as `source`"
        )
    return found


def _saved_files(folder: Path, split: str) -> list[Path] | None:
    """Return the files of a folder that `datasets` made by `save_to_disk`; None for another folder."""
    if (folder / "dataset_dict.json").is_file():
        splits = [p.name for p in folder.iterdir() if (p / "state.json").is_file()]
        if split not in splits:
            raise MoaError(f"{folder}: no split '{split}' was saved there.{nearest(split, splits)}")
        folder = folder / split
    if not (folder / "state.json").is_file() or not list(folder.glob("*.arrow")):
        return None
    try:
        state = read_object(folder / "state.json", "what save_to_disk writes", "save it again")
        names = [Path(shard["filename"]) for shard in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise MoaError(
            f"{folder / 'state.json'}: not what save_to_disk writes ({type(error).__name__}: {one_line(error)}); save"
            " it again"
        ) from error
    if state.get("_indices_files"):
        raise MoaError(
            f"{folder}: saved with indices, which say what rows count; save it again after flatten_indices()"
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise MoaError(
            f"{folder}: {len(missing)} of {len(names)} files are missing, the first {missing[0]}; copy it whole"
        )
    return [folder / name for name in names]


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
