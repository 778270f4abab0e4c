"""Ways to damage a file, as disks, editors, copies and other programs do."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

Way = Callable[[Path, random.Random], str]
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4


def truncated(path: Path, draw: random.Random) -> str:
    content = path.read_bytes()
    at = draw.randrange(1, len(content))
    path.write_bytes(content[:at])
    return f"cut after {at} of {len(content)} bytes"


def zeroed(path: Path, draw: random.Random) -> str:
    path.write_bytes(bytes(path.stat().st_size))
    return "all bytes zero"


def partly_zeroed(path: Path, draw: random.Random) -> str:
    content = bytearray(path.read_bytes())
    at = draw.randrange(len(content))
    size = min(draw.randrange(1, 4097), len(content) - at)
    content[at : at + size] = bytes(size)
    path.write_bytes(content)
    return f"{size} bytes zero from {at}"


def flipped(path: Path, draw: random.Random) -> str:
    content = bytearray(path.read_bytes())
    at = draw.randrange(len(content))
    content[at] ^= draw.randrange(1, 256)
    path.write_bytes(content)
    return f"byte {at} of {len(content)} changed"


def emptied(path: Path, draw: random.Random) -> str:
    path.write_bytes(b"")
    return "empty"


def foreign(path: Path, draw: random.Random) -> str:
    path.write_bytes(PICTURE)
    return "a picture in its place"


def longer(path: Path, draw: random.Random) -> str:
    with path.open("ab") as stream:
        stream.write(draw.randbytes(100))
    return "100 bytes of something else at its end"


def removed(path: Path, draw: random.Random) -> str:
    path.unlink()
    return "removed"


def folder(path: Path, draw: random.Random) -> str:
    path.unlink()
    path.mkdir()
    return "a folder in its place"


def dangling(path: Path, draw: random.Random) -> str:
    path.unlink()
    path.symlink_to("/nowhere/at/all")
    return "a link to nothing"


# Tables.


def other_table(path: Path, draw: random.Random) -> str:
    for above in path.parents:
        if others := sorted(p for p in above.rglob("*.parquet") if p != path):
            shutil.copy2(draw.choice(others), path)
            break
    return "another table in its place"


def fewer_rows(path: Path, draw: random.Random) -> str:
    table = pq.read_table(path, use_threads=False, partitioning=None)
    pq.write_table(table.slice(0, table.num_rows // 2), path)
    return f"{table.num_rows // 2} of {table.num_rows} rows"


def renamed_column(path: Path, draw: random.Random) -> str:
    table = pq.read_table(path, use_threads=False, partitioning=None)
    name = draw.choice(table.schema.names)
    pq.write_table(table.rename_columns([f"{n}_" if n == name else n for n in table.schema.names]), path)
    return f"column {name} renamed"


# Tensors.


def _tensors(path: Path, draw: random.Random, change: Callable[[dict[str, np.ndarray], str], str]) -> str:
    from safetensors import safe_open

    with safe_open(path, "np") as stream:
        metadata = stream.metadata()
    tensors = {name: np.array(value) for name, value in load_file(path).items()}
    said = change(tensors, draw.choice(sorted(tensors)))
    save_file(tensors, path, metadata)
    return said


def not_finite(path: Path, draw: random.Random) -> str:
    def change(tensors: dict[str, np.ndarray], name: str) -> str:
        value = np.atleast_1d(tensors[name].astype(np.float32))
        value.flat[draw.randrange(value.size)] = draw.choice((np.nan, np.inf))
        tensors[name] = value.reshape(tensors[name].shape)
        return f"one value of {name} not finite"

    return _tensors(path, draw, change)


def other_names(path: Path, draw: random.Random) -> str:
    def change(tensors: dict[str, np.ndarray], name: str) -> str:
        for key in list(tensors):
            tensors[f"other.{key}"] = tensors.pop(key)
        return "all tensors renamed"

    return _tensors(path, draw, change)


def one_tensor_missing(path: Path, draw: random.Random) -> str:
    def change(tensors: dict[str, np.ndarray], name: str) -> str:
        del tensors[name]
        return f"{name} missing"

    return _tensors(path, draw, change)


def one_tensor_more(path: Path, draw: random.Random) -> str:
    def change(tensors: dict[str, np.ndarray], name: str) -> str:
        tensors["surplus.weight"] = np.ones((2, 2), np.float32)
        return "a tensor more"

    return _tensors(path, draw, change)


def other_shape(path: Path, draw: random.Random) -> str:
    def change(tensors: dict[str, np.ndarray], name: str) -> str:
        tensors[name] = np.concatenate([np.atleast_1d(tensors[name])] * 2)
        return f"{name} of twice its size"

    return _tensors(path, draw, change)


def no_tensor(path: Path, draw: random.Random) -> str:
    save_file({}, path, {"format": "pt"})
    return "no tensor at all"


# JSON.


def other_json(path: Path, draw: random.Random) -> str:
    path.write_text(chosen := draw.choice(("[]", "{}", "null", "7", '"words"')))
    return f"{chosen} in its place"


def key_missing(path: Path, draw: random.Random) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    del content[name := draw.choice(sorted(content))]
    path.write_text(json.dumps(content))
    return f"key {name} missing"


def other_type(path: Path, draw: random.Random) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    name = draw.choice(sorted(content))
    content[name] = draw.choice(([], {"a": 1}, "words", -1, None))
    path.write_text(json.dumps(content))
    return f"key {name} is {content[name]!r}"


def deep_json(path: Path, draw: random.Random) -> str:
    path.write_text("[" * 100_000)
    return "100 000 brackets in its place"


RAW: tuple[Way, ...] = (truncated, zeroed, emptied, foreign, removed, folder, dangling)
SOME: tuple[Way, ...] = (flipped, partly_zeroed, longer)  # only where a checksum can be known
TABLE: tuple[Way, ...] = (other_table, fewer_rows, renamed_column)
TENSORS: tuple[Way, ...] = (not_finite, other_names, one_tensor_missing, one_tensor_more, other_shape, no_tensor)
OBJECT: tuple[Way, ...] = (other_json, key_missing, other_type, deep_json)


def ways(path: str, own: bool) -> tuple[Way, ...]:
    """Return the ways for a file by its ending; `own` says that the run wrote it, so that it can know its checksum."""
    ending = Path(path).suffix
    typed = {".parquet": TABLE, ".safetensors": TENSORS, ".json": OBJECT}.get(ending, ())
    if not own:
        typed = tuple(way for way in typed if way not in (fewer_rows, key_missing, other_type))
    return (*RAW, *(SOME if own else ()), *typed)
