"""Rows of a dataset: a hub id, or a local Parquet, JSON-lines or CSV file, or a folder of such files.

    >>> read_rows("reviews.csv", None, None, "train", ["text", "label"])    # doctest: +SKIP
    [{'text': 'The lamp is fine.', 'label': 1}, ...]

A source is local when such a path exists. In a folder, a split is `<split>.*` or its shards `<split>-*.*`; a folder
that holds a single data file is that file, whatever the split. A single file has no splits. Columns of a CSV file get
the type that all their values share (int, float, else str); an empty unquoted field is a missing value.
"""

import json
import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from moa.errors import MoaError, nearest
from moa.store.provenance import warn_unpinned
from moa.store.tables import Row

SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")

log = logging.getLogger("moa")


def read_rows(source: str, revision: str | None, subset: str | None, split: str, columns: list[str]) -> list[Row]:
    """Return the rows of a split, in file order, with exactly `columns`.

    Rows with a missing value there are dropped and counted.

    Args:
        source: hub id, or path of a local file or folder.
        revision: commit of a hub dataset; not used for a local source.
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
        where, rows = ", ".join(str(f) for f in files), [row for f in files for row in _file(f, wanted)]
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
    """Return a row's text; a MoaError names the row by `where` if the column holds something else."""
    value = row[column]
    if not isinstance(value, str):
        raise MoaError(
            f"{where}: column '{column}' holds {type(value).__name__} ({str(value)[:60]}), expected text; name a column"
            " of plain text"
        )
    return value


def locate(source: str, subset: str | None, split: str) -> list[Path] | None:
    """Return the local files that hold `split`, sorted; None for a hub id; a MoaError for a path that is not there."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        return _split_files(path / subset if subset else path, split)
    if source.startswith((".", "/", "~")) or path.suffix.lower() in SUFFIXES:
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
    data = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not data:
        raise MoaError(f"{folder}: no data file in this folder (known suffixes: {', '.join(SUFFIXES)})")
    found = [p for p in data if p.stem == split or p.name.startswith(f"{split}-")]
    if not found and len(data) == 1:
        return data
    if not found:
        raise MoaError(
            f"{folder}: no file {split}.* or {split}-*.* for split '{split}'.{nearest(split, {p.stem for p in data})}"
        )
    if len({p.suffix.lower() for p in found}) > 1:
        raise MoaError(
            f"{folder}: split '{split}' exists in several formats ({', '.join(p.name for p in found)}); name the file"
            " itself as `source`"
        )
    return found


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _check_columns(where: str, present: Iterable[str], wanted: list[str]) -> None:
    names = list(present)
    for name in wanted:
        if name not in names:
            raise MoaError(
                f"{where}: no column '{name}'; the columns are"
                f" {', '.join(names) or 'none'}.{nearest(name, names) if names else ''}"
            )


def _file(path: Path, columns: list[str]) -> list[Row]:
    readers: dict[str, Callable[[Path, list[str]], list[Row]]] = {
        ".parquet": _parquet,
        ".csv": _csv,
        ".jsonl": _json,
        ".json": _json,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise MoaError(f"{path}: unknown kind of file '{path.suffix}'; known suffixes: {', '.join(SUFFIXES)}")
    try:
        return reader(path, columns)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise MoaError(
            f"{path}: not a readable {path.suffix[1:]} file ({_first_line(error)}); it may be truncated or of another"
            " format: fetch or write it again"
        ) from error


def _parquet(path: Path, columns: list[str]) -> list[Row]:
    _check_columns(str(path), pq.read_schema(path).names, columns)
    rows: list[Row] = pq.read_table(path, columns=columns, partitioning=None).to_pylist()
    return rows


def _csv(path: Path, columns: list[str]) -> list[Row]:
    size = path.stat().st_size
    if size == 0:
        return []
    read = pacsv.ReadOptions(block_size=min(size + 1, 2**31 - 1))  # a row may not be longer than a block
    parse = pacsv.ParseOptions(newlines_in_values=True)
    convert = pacsv.ConvertOptions(null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False)
    table = pacsv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)
    _check_columns(str(path), table.schema.names, columns)
    rows: list[Row] = table.select(columns).to_pylist()
    return rows


def _json(path: Path, columns: list[str]) -> list[Row]:
    """One object per line; a `.json` file may also be one array of objects.

    A key that some objects lack is a missing value there.
    """
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
        objects = [(f"{path}, entry {n}", value) for n, value in enumerate(_decode(str(path), text))]
    else:  # not splitlines(): U+2028 and its like may stand inside a JSON string
        objects = [
            (f"{path}, line {n}", _decode(f"{path}, line {n}", line))
            for n, line in enumerate(text.split("\n"), 1)
            if line.strip()
        ]
    for where, value in objects:
        if not isinstance(value, dict):
            raise MoaError(
                f"{where}: expected an object with the keys {', '.join(columns)}, got {type(value).__name__}"
            )
    if objects:
        _check_columns(str(path), dict.fromkeys(name for _, value in objects for name in value), columns)
    return [{name: value.get(name) for name in columns} for _, value in objects]


def _decode(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise MoaError(
            f"{where}: not valid JSON ({error}); the file may be truncated: fetch or write it again"
        ) from None


def _hub(source: str, revision: str | None, subset: str | None, split: str, columns: list[str]) -> list[Row]:
    import datasets  # slow to import, and not needed for local files
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    what = (
        f"dataset {source}"
        + (f", subset {subset}" if subset else "")
        + f", split {split}"
        + (f", revision {revision}" if revision else "")
    )
    warn_unpinned(what, revision)
    try:
        data = datasets.load_dataset(source, subset, split=split, revision=revision)
    except (OSError, DatasetsError, HfHubHTTPError) as error:
        raise MoaError(
            f"{what}: cannot be had from the hub ({_first_line(error)}); check its name and revision and the network,"
            " or give a local file or folder as `source`"
        ) from error
    except (
        ValueError,
        RuntimeError,
    ) as error:  # unknown split or subset (the message lists the known ones), or a dataset that needs its own code
        raise MoaError(f"{what}: {_first_line(error)}") from error
    _check_columns(what, data.column_names, columns)
    return [dict(row) for row in data.select_columns(columns)]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
