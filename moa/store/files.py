"""Files and folders that are complete or absent: written beside their place, flushed to disk, then renamed.

What is being written carries its writer's process id, so that the next writer removes what a killed one left behind.
"""

import errno
import glob
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moa.errors import MoaError, one_line
from moa.store.provenance import file_hash

SUMS = "moa.sha256"  # of a folder: the hashes of its files, as `sha256sum --check` reads them


def read_object(path: Path, what: str, remedy: str) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        MoaError: the file cannot be read as `what`, or holds something else; `remedy` is what to do.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe or a device may never end
            raise OSError("a folder, a pipe or a device, not a file")
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        why = f"a {type(found).__name__}, not an object"
    except RecursionError:
        why = "nested too deeply"
    except (OSError, ValueError) as error:
        why = str(error).partition(";")[0]  # after it stands what a programmer could do
    raise MoaError(f"{path}: not readable as {what} ({why}); {remedy}")


def atomically(path: Path, writer: Callable[[Path], object]) -> None:
    """Call `writer(temporary path)` in `path`'s folder, flush to disk and rename; on failure nothing is left."""
    temporary = _temporary(path)
    try:
        writer(temporary)
        flush(temporary)
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # Arrow's errors do not say which file
        raise
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def verify(folder: Path, skipped: str = "") -> None:
    """Refuse a folder whose files are not what `folder` wrote; one that others wrote has no hashes to compare with.

    Files whose names end with `skipped` are not read.

    Raises:
        MoaError: the first file that is missing or has changed.
    """
    if not (folder / SUMS).is_file():
        return
    for line in (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        expected, _, name = line.partition("  ")
        path = folder / name
        if skipped and name.endswith(skipped):
            continue
        if not path.is_file() or file_hash(path) != expected:
            what = "is not what was written: damaged, or changed since" if path.is_file() else "is missing"
            raise MoaError(
                f"{path}: {what}; delete {folder} and run the same command again, or, where the change is yours, delete"
                f" {SUMS} there"
            )


@contextmanager
def folder(path: Path, summed: bool = True) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that becomes `path` when the block ends well, and vanishes otherwise.

    `summed`: the hashes of its files lie in it, for `verify`.

    Raises:
        MoaError: the disk is full.
    """
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if summed:
            made = {p.relative_to(temporary).as_posix(): file_hash(p) for p in temporary.rglob("*") if p.is_file()}
            (temporary / SUMS).write_text("".join(f"{made[name]}  {name}\n" for name in sorted(made)), encoding="utf-8")
        usual = temporary.stat().st_mode & 0o666  # the user's umask; safetensors lets nobody else read what it writes
        for part in [*temporary.rglob("*"), temporary]:
            if part.is_file():
                part.chmod(usual)
            flush(part)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
        flush(path.parent)
    except Exception as error:
        if not disk_full(error):
            raise
        raise MoaError(
            f"no space left to write {path} ({one_line(error)}); free some space and run the same command again, what"
            " was finished before is kept"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_full(error: Exception) -> bool:
    """Return whether the disk, a quota or a file limit is the cause of `error`.

    The libraries safetensors and tokenizers report it in words only.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return any(words in str(error) for words in ("No space left", "File too large", "quota exceeded"))


def _temporary(path: Path) -> Path:
    """Return where this process writes `path`; what dead processes left there is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp*"):
        pid = stale.name.removeprefix(f".{path.name}.").partition(".")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # another user's
    return True
