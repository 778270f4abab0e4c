"""What a result depends on beside code (moa/store/logic.py): hashes of files, the state of git and packages."""

import hashlib
import importlib.metadata
import logging
import platform
import stat
import subprocess
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from moa.errors import MoaError

log = logging.getLogger("moa")
ROOT = Path(__file__).resolve().parents[2]
LARGE = 200 * 2**20  # bytes; above, the hash of a local file is kept, because reading it takes seconds
HASHES = Path(".moa/hashes")  # where
FILES = 20_000  # in a local folder
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "datasets",
    "accelerate",
    "snakemake",
    "duckdb",
    "pyarrow",
    "moocore",
)


def warn_unpinned(what: str, revision: str | None) -> None:
    """Say so where something comes from the hub at whatever its newest commit is."""
    if revision is None:
        log.warning("%s: no commit is kept; name one as `revision`, so that later calls read the same", what)


def refuse_endless(sources: Iterable[str]) -> None:
    """Refuse local sources whose content has no end, or cannot be read; what is not there may be a hub id.

    Raises:
        MoaError: a pipe, a device, or a folder of more files than any data set or model has.
    """
    for source in sorted(sources):
        path = Path(source).expanduser()
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise MoaError(f"{source}: cannot be read ({error.strerror}); name a file or a folder") from None
        if stat.S_ISDIR(mode):
            if len(list(islice(path.rglob("*"), FILES + 1))) > FILES:
                raise MoaError(f"{source}: more than {FILES} files; name the folder of the data or the model itself")
        elif not stat.S_ISREG(mode):
            raise MoaError(f"{source}: a pipe or a device; name a file or a folder")


def local_state(*sources: str) -> str:
    """Return a digest that changes when a local file or folder among `sources` does; '' where none is local.

    Raises:
        MoaError: something there cannot be read.
    """
    paths = {source: Path(source).expanduser() for source in sources}
    try:
        return ";".join(f"{source}={_state(path)[:12]}" for source, path in paths.items() if path.exists())
    except OSError as error:
        raise MoaError(f"{error.filename}: cannot be read ({error.strerror})") from None


def _state(path: Path) -> str:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    parts = []
    for file in files:
        parts.append(f"{file.relative_to(path) if path.is_dir() else file.name}:{kept_hash(file)}\n")
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def kept_hash(path: Path) -> str:
    """Return `file_hash` of a file; a large one is read again only where its size or time is another one."""
    status = path.stat()
    if status.st_size < LARGE:
        return file_hash(path)
    seen = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
    note = HASHES / text_hash(seen)
    if not note.is_file() or len(note.read_text()) != 64:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(file_hash(path))
    return note.read_text()


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, or of the sorted names and hashes of a folder's files.

    Raises:
        MoaError: there is no such file, or it may not be read.
    """
    if path.is_dir():
        names = sorted(p for p in path.rglob("*") if p.is_file())
        return hashlib.sha256("".join(f"{p.relative_to(path)}:{file_hash(p)}\n" for p in names).encode()).hexdigest()
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise MoaError(
            f"{path}: cannot be read ({error.strerror}); run the same command again, or restore it"
        ) from error


def mark(path: Path, *made: Path) -> None:
    """Write the hashes of `made` to `path`, as `sha256sum --check` reads them."""
    path.write_text("".join(f"{file_hash(file)}  {file}\n" for file in made), encoding="utf-8")


def text_hash(*parts: str) -> str:
    """Return 16 hex digits that identify `parts` by their content."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def git_state() -> str:
    """Return the commit and whether the tree differs from it, e.g. '1a2b3c4d5e6f+dirty'; 'unknown' outside git."""
    if not (ROOT / ".git").exists():
        return "unknown"  # an installed package may lie inside of somebody else's repository
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+dirty" if dirty else "")


def versions() -> dict[str, str]:
    """Return the versions of Python, the platform and the packages that results depend on."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }
