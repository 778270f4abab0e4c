"""Which local files hold a split of a data set. No table is opened here, and nothing is loaded that could.

A source is local when such a path exists. In a folder, a split is `<split>.*` or its shards `<split>-*.*`; a folder
that holds a single data file is that file, whatever the split. A single file has no splits. A folder that `datasets`
saved (`save_to_disk`) is read as it is.
"""

from pathlib import Path

from moa.errors import MoaError, nearest, one_line
from moa.store import hub
from moa.store.files import read_object

SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".arrow")
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


def kind(path: Path) -> str:
    """Return the suffix that names the format: '.jsonl' of train.JSONL.gz."""
    named = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return named.suffix.lower()


def stem(path: Path) -> str:
    """Return the name without format and compression: 'train' of train.jsonl.gz."""
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path).stem


def locate(source: str, subset: str | None, split: str) -> list[Path] | None:
    """Return the local files that hold `split`, sorted; None for a hub id; a MoaError for a path that is not there."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        return _split_files(path / subset if subset else path, split)
    if source.startswith((".", "/", "~")) or kind(path) in SUFFIXES:
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
    data = [p for p in inside if kind(p) in SUFFIXES and p.name not in hub.NO_ROWS and p.is_file()]
    if not data:
        folders = ", ".join(p.name for p in inside if p.is_dir() and not p.name.startswith("."))
        raise MoaError(
            f"{folder}: no data file in this folder (known suffixes: {', '.join(SUFFIXES)}, also with .gz, .bz2, .zst)"
            + (f"; name a sub-folder as `subset`: {folders}" if folders else "")
        )
    found = [p for p in data if stem(p) == split or p.name.startswith(f"{split}-")]
    if not found and len(data) == 1:
        return data
    if not found:
        raise MoaError(
            f"{folder}: no file {split}.* or {split}-*.* for split '{split}'.{nearest(split, map(stem, data))}"
        )
    if len({kind(p) for p in found}) > 1 or len({stem(p) for p in found}) < len(found):
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
