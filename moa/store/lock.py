"""`models.lock.yaml`: the commits of the hub that runs in a folder read, and the hashes of their files.

It is written when a run first asks the hub (moa/ahead/pins.py), and only read from then on.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moa.errors import MoaError
from moa.experiment import reader
from moa.store.files import atomically

LOCK = Path("models.lock.yaml")
HEAD = f"""\
# Commits of the hub that runs in this folder read, and the hashes of their files: sha256, or git's own of small files.
# Runs obey it, offline too. To take what a branch holds now, delete its entry, or {LOCK} whole, and run again.
"""
MAIN = "main"  # the revision where none is named
COMMIT = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"sha256:[0-9a-f]{64}|git:[0-9a-f]{40}")

Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, as an experiment names it: `revision` is a commit, a branch, a tag, or None for main."""

    kind: Kind
    source: str
    revision: str | None = None

    @property
    def key(self) -> str:
        """Its entry in the lock."""
        return f"{self.source}@{self.revision or MAIN}"

    def __str__(self) -> str:
        return f"{self.kind} {self.source}, {'commit' if self.pinned else 'revision'} {self.revision or MAIN}"

    @property
    def pinned(self) -> bool:
        """Whether it names a commit."""
        return COMMIT.fullmatch(self.revision or "") is not None


@dataclass(frozen=True)
class Entry:
    """What the hub said of a repository: the commit, and the hash of every file by its name.

    `hashes` is None where nobody could be asked, and the commit is that of the local cache.
    """

    commit: str
    names: tuple[str, ...]
    hashes: Mapping[str, str] | None = None
    key: str = ""


Lock = dict[Kind, dict[str, Entry]]


def read(path: Path = LOCK) -> Lock:
    """Return what a lock holds, nothing where there is none.

    Raises:
        MoaError: it is not what `write` writes; the line names the entry.
    """
    if not path.exists():
        return {"model": {}, "dataset": {}}
    found = reader.read(path)
    lock: Lock = {"model": {}, "dataset": {}}
    for section, kind in (("models", "model"), ("datasets", "dataset")):
        for key, value in _mapping(path, section, found.pop(section, {})).items():
            lock[kind][key] = _entry(path, key, value)  # type: ignore[index]
    if found:
        raise MoaError(f"{path}: unknown section '{next(iter(found))}'; models and datasets stand there, nothing else")
    return lock


def _mapping(path: Path, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MoaError(f"{path}: {key}: not what a run writes; delete {path}, and the next run looks it up again")
    return value


def _entry(path: Path, key: str, value: Any) -> Entry:
    kept = _mapping(path, key, value)
    commit, hashes = kept.get("commit"), kept.get("files")
    right = isinstance(commit, str) and COMMIT.fullmatch(commit) and isinstance(hashes, dict) and "@" in key
    if not right or not all(isinstance(h, str) and HASH.fullmatch(h) for h in hashes.values()):  # type: ignore[union-attr]
        raise MoaError(
            f"{path}: {key}: an entry is a commit of 40 digits, and files with a hash each; delete the entry, and the"
            " next run looks it up again"
        )
    assert isinstance(commit, str) and isinstance(hashes, dict)
    return Entry(commit, tuple(hashes), hashes, key)


def write(lock: Lock, path: Path = LOCK) -> None:
    """Write a lock, whole or not at all; everything in it is quoted, so that no commit reads as a number."""
    lines = [HEAD]
    for section, kind in (("models", "model"), ("datasets", "dataset")):
        entries: dict[str, Entry] = lock[kind]  # type: ignore[index]
        lines.append(f"{section}:{'' if entries else ' {}'}\n")
        for key, entry in sorted(entries.items()):
            assert entry.hashes is not None, "only what was looked up is kept"
            files = "files:" if entry.hashes else "files: {}"
            lines.append(f"  {json.dumps(key)}:\n    commit: {json.dumps(entry.commit)}\n    {files}\n")
            named = sorted(entry.hashes.items())
            lines += [f"      {json.dumps(n, ensure_ascii=False)}: {json.dumps(h)}\n" for n, h in named]
    atomically(path, lambda temporary: temporary.write_text("".join(lines), encoding="utf-8"))


def kept(lock: Lock, asked: Repository) -> Entry | None:
    """Return a lock's entry of a repository, asked for by the revision or by the commit of one; None without."""
    entries = lock[asked.kind]
    if asked.key in entries:
        return entries[asked.key]
    same = (e for key, e in entries.items() if key.rpartition("@")[0] == asked.source and e.commit == asked.revision)
    return next(same, None)
