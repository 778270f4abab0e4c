"""One data file, read whole: Parquet, Arrow, JSON or CSV, compressed or not. What would be lost in silence is refused.

    >>> read(Path("train.jsonl.gz"), ["chosen"])    # doctest: +SKIP
    [{'chosen': '...'}, ...]

Columns of a CSV file get the type that all their values share (int, float, else str); an empty unquoted field is a
missing value.
"""

import csv
import io
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from moa.errors import MoaError, listed, nearest, one_line
from moa.store.tables import Row
from moa.tasks.files import COMPRESSIONS, SUFFIXES, kind

GROWTH, SMALL = 50, 2**26  # a compressed file's content is at most so many times its size, or so many bytes
CHUNK, BATCH = 2**20, 1024  # bytes and rows that are decompressed at once
ROW = 64  # bytes that a row takes at least, even without values
MAGIC = (0x184D2204, 0xFD2FB528)  # of a frame of LZ4, of zstd
LONG_ROW = 100  # lines of a CSV row above which a quote was perhaps not closed

log = logging.getLogger("moa")


def read(path: Path, columns: list[str] | None = None) -> list[Row]:
    """Return the file's rows in their order, with exactly `columns`, or with all.

    Raises:
        MoaError: an unreadable, damaged or ambiguous file, or a missing column.
    """
    reader = READERS.get(kind(path))
    if reader is None:
        raise MoaError(f"{path}: unknown kind of file '{path.suffix}'; known suffixes: {', '.join(SUFFIXES)}")
    try:
        return reader(path, columns)
    except (pa.ArrowException, OSError) as error:
        raise MoaError(
            f"{path}: not a readable {kind(path)[1:]} file ({one_line(error)}); it may be truncated or of another"
            " format: fetch or write it again"
        ) from error


def check_columns(where: str, present: Iterable[str], wanted: Iterable[str]) -> None:
    """Refuse a wanted column that is not there, or is there twice."""
    names = list(present)
    for name in wanted:
        if name not in names:
            raise MoaError(
                f"{where}: no column '{name}'; the columns are"
                f" {listed(names) or 'none'}.{nearest(name, names) if names else ''}"
            )
        if names.count(name) > 1:
            raise MoaError(f"{where}: {names.count(name)} columns are called '{name}'; rename all but one")


def _bytes(path: Path) -> pa.Buffer:
    compression = COMPRESSIONS.get(path.suffix.lower())
    with pa.input_stream(str(path), compression=compression) as stream:
        if compression is None:
            return stream.read_buffer()
        content = pa.BufferOutputStream()
        while chunk := stream.read(CHUNK):
            content.write(chunk)
            _check_growth(path, content.tell())
        return content.getvalue()


def _check_growth(path: Path, size: int) -> None:
    """Refuse content that is much larger than its file: text shrinks to a tenth, so it is a mistake, or an attack."""
    if size > max(GROWTH * path.stat().st_size, SMALL):
        raise MoaError(
            f"{path}: holds more than {GROWTH} times its own size, so it may be made to fill the memory; where it is"
            " right, write it as a plain .jsonl file, uncompressed"
        )


def _text(path: Path, content: pa.Buffer) -> str:
    whole = content.to_pybytes()
    try:
        return whole.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = whole.count(b"\n", 0, error.start) + 1
        raise MoaError(
            f"{path}, line {line}: not a readable {kind(path)[1:]} file: byte 0x{whole[error.start]:02x} is not UTF-8;"
            " save the file as UTF-8, e.g. by iconv -t utf-8"
        ) from None


def _rows(path: Path, batches: Iterable[pa.RecordBatch], wanted: list[str]) -> list[Row]:
    """Return the rows of some columns; a few at a time, since one value of a dictionary can stand in all of them."""
    rows: list[Row] = []
    size = 0
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH):
            columns = {name: _plain(batch.column(name).slice(start, BATCH)) for name in wanted}
            part = pa.RecordBatch.from_pydict(columns)
            size += part.nbytes + ROW * part.num_rows
            _check_growth(path, size)
            rows += part.to_pylist()
    return rows


def _plain(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.dictionary_decode()
    return pc.run_end_decode(column) if pa.types.is_run_end_encoded(kind) else column


def _parquet(path: Path, columns: list[str] | None) -> list[Row]:
    source = pa.BufferReader(_bytes(path)) if path.suffix.lower() in COMPRESSIONS else path
    with pq.ParquetFile(source) as file:
        names = file.schema_arrow.names
        wanted = names if columns is None else columns
        check_columns(str(path), names, wanted)
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
        _check_growth(path, sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] in wanted))
        return _rows(path, file.iter_batches(BATCH, columns=wanted), wanted)


def _unpacked(content: pa.Buffer) -> int:
    """Return how many bytes the compressed parts of Arrow's formats become; a batch is unpacked whole or not at all.

    Every buffer begins at a multiple of eight bytes: its length when unpacked, then a frame of LZ4 or zstd.
    """
    words = np.frombuffer(content, "<u8", count=content.size // 8)
    frames = np.isin(words[1:] & 0xFFFFFFFF, MAGIC)
    lengths = words[:-1][frames]
    return int(lengths[lengths < 2**48].sum())  # what only looks like a frame has any number before it


def _arrow(path: Path, columns: list[str] | None) -> list[Row]:
    """Read Arrow's stream format, which `save_to_disk` writes, or its file format."""
    content = _bytes(path)
    _check_growth(path, _unpacked(content))
    try:
        stream = pa.ipc.open_stream(content)
        names, batches = stream.schema.names, iter(stream)
    except pa.ArrowInvalid:
        file = pa.ipc.open_file(content)
        names, batches = file.schema.names, map(file.get_batch, range(file.num_record_batches))
    wanted = names if columns is None else columns
    check_columns(str(path), names, wanted)
    return _rows(path, batches, wanted)


def _csv(path: Path, columns: list[str] | None) -> list[Row]:
    content = _bytes(path)
    if not content.size:
        return []
    _check_csv(path, _text(path, content))
    options = pacsv.ReadOptions(block_size=min(content.size + 1, 2**31 - 1))  # a row may not be longer than a block
    parse = pacsv.ParseOptions(newlines_in_values=True)
    convert = pacsv.ConvertOptions(null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False)
    table = pacsv.read_csv(pa.BufferReader(content), read_options=options, parse_options=parse, convert_options=convert)
    wanted = table.column_names if columns is None else columns
    check_columns(str(path), table.column_names, wanted)
    rows: list[Row] = table.select(wanted).to_pylist()
    return rows


def _check_csv(path: Path, text: str) -> None:
    """Refuse what PyArrow's reader takes in silence: a quote that is not closed swallows all rows to the next one."""
    if (nul := text.find("\0")) >= 0:
        raise MoaError(
            f"{path}, line {text.count(chr(10), 0, nul) + 1}: not a readable csv file: a NUL byte; it is damaged, or"
            " not in UTF-8: write it again"
        )
    limit = csv.field_size_limit(len(text) + 1)
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    began, blank, width, longest = 1, 0, None, (0, 0)
    try:
        for row in lines:
            blank += not row
            width = len(row) if width is None else width
            if row and len(row) != width:
                raise MoaError(
                    f"{path}, line {began}: {len(row)} fields, the header has {width}; put fields that hold commas in"
                    " quotes"
                )
            longest = max(longest, (lines.line_num - began + 1, began))
            began = lines.line_num + 1
    except csv.Error as error:
        raise MoaError(
            f"{path}, line {began}: the row that begins here has a quote that is not closed, or not doubled inside of a"
            f" quoted field ({error}, line {lines.line_num}); correct that row"
        ) from None
    finally:
        csv.field_size_limit(limit)
    if longest[0] > LONG_ROW:
        told = "%s: the row at line %d is %d lines long; if no text is so long, a quote there is not closed"
        log.warning(told, path, longest[1], longest[0])
    if blank:
        log.info("%s: %d empty lines are no rows", path, blank)


def _json(path: Path, columns: list[str] | None) -> list[Row]:
    """One object per line; a `.json` file may also be one array of objects.

    A key that some objects lack is a missing value there.
    """
    text = _text(path, _bytes(path))
    if kind(path) == ".json" and text.lstrip().startswith("["):
        objects = [(f"{path}, entry {n}", value) for n, value in enumerate(_decode(str(path), text))]
    else:  # not splitlines(): U+2028 and its like may stand inside a JSON string
        objects = [
            (f"{path}, line {n}", _decode(f"{path}, line {n}", line))
            for n, line in enumerate(text.split("\n"), 1)
            if line.strip()
        ]
    for where, value in objects:
        if not isinstance(value, dict):
            raise MoaError(f"{where}: expected an object with keys, got {type(value).__name__}")
    names = list(dict.fromkeys(name for _, value in objects for name in value))
    wanted = names if columns is None else columns
    if objects:
        check_columns(str(path), names, wanted)
    return [{name: value.get(name) for name in wanted} for _, value in objects]


def _decode(where: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise MoaError(
            f"{where}: not valid JSON ({error}); the file may be truncated: fetch or write it again"
        ) from None
    except RecursionError:
        raise MoaError(f"{where}: not readable JSON: it is nested too deeply") from None
    except ValueError:  # of int(): Python reads 4 300 digits at most
        raise MoaError(f"{where}: not readable JSON: a number of thousands of digits; write it as text") from None
    except KeyError as error:
        raise MoaError(f"{where}: the key {error} stands twice in an object; leave one") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyError(next(name for name in names if names.count(name) > 1))
    return made


READERS: dict[str, Callable[[Path, list[str] | None], list[Row]]] = {
    ".parquet": _parquet,
    ".jsonl": _json,
    ".json": _json,
    ".csv": _csv,
    ".arrow": _arrow,
}
