"""Commits of hub ids: looked up before the first run, kept in models.lock.yaml, and obeyed from then on.

They become `revision` of every section that names a hub id before the plan is made. So every job has its commit as a
parameter, and another commit reruns what depends on it.
"""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from moa.ahead import named
from moa.ahead.named import expanded
from moa.errors import MoaError
from moa.plan import Plan
from moa.store import hub, lock, terminal
from moa.store.lock import LOCK, Entry, Lock, Repository

HELD = Path(".moa/models.lock")  # by whoever looks something up


def asked(plan: Plan) -> dict[str, Repository]:
    """Return what a run reads from the hub, by the section of the experiment that names it ('rewards.humor.data').

    What is neither a path nor a hub id is not among it: the checks of what is local name it (moa/ahead/local.py).
    """
    found: dict[str, Repository] = {}
    for table in named.tables(plan):
        with suppress(MoaError):
            if table.files is None:
                found[table.key] = Repository("dataset", table.source, _revision(plan, table.key))
    for weights in named.models(plan):
        section = weights.key.rpartition(".")[0]
        with suppress(MoaError):
            if weights.folder is None:
                found[section] = Repository("model", weights.source, _revision(plan, section))
    for row, settings in named.externals(plan).items():
        if settings.adapter is not None and not expanded(settings.adapter).is_dir():
            found[f"methods.{row}"] = Repository("model", settings.adapter, settings.revision)
    return found


def _revision(plan: Plan, section: str) -> str | None:
    """Return the revision that a section names."""
    names = section.split(".")
    node: Any = plan.rows[names[1]].settings if names[0] == "methods" else plan.experiment
    for name in names[2 if names[0] == "methods" else 0 :]:
        node = node[name] if isinstance(node, Mapping) else getattr(node, name)
    revision: str | None = node.revision
    return revision


def commits(plan: Plan, where: str, look_up: bool = True) -> dict[str, Any]:
    """Return the keys that give every hub id of a plan its commit, as `moa.experiment.reader.overridden` takes them.

    What the lock does not have is looked up and added to it; without `look_up` it is named, and keeps its revision.

    Raises:
        MoaError: a line for everything that cannot be had, with the file (`where`), its key and the remedy.
    """
    wanted = asked(plan)
    if not wanted:
        return {}
    known = lock.read()
    unknown = {section: what for section, what in wanted.items() if lock.kept(known, what) is None}
    cached: dict[Repository, Entry] = {}
    if unknown and look_up:
        with _alone():
            known = lock.read()  # another run may have looked it up meanwhile
            cached = _add(known, {s: what for s, what in unknown.items() if lock.kept(known, what) is None}, where)
    elif unknown:
        for what in dict.fromkeys(unknown.values()):
            terminal.note(f"would be looked up on the hub: {what} ({LOCK} has no entry {what.key})")
    changes: dict[str, Any] = {}
    for section, what in wanted.items():
        entry = lock.kept(known, what) or cached.get(what)
        if entry is not None:
            _put(changes, section.split("."), entry.commit)
    return changes


def _put(changes: dict[str, Any], names: list[str], commit: str) -> None:
    for name in names:
        changes = changes.setdefault(name, {})
    changes["revision"] = commit


def _add(known: Lock, unknown: Mapping[str, Repository], where: str) -> dict[Repository, Entry]:
    """Look up what is unknown, and write the lock; return what only the local cache knows, which is not written."""
    found: dict[Repository, Entry] = {}
    cached: dict[Repository, Entry] = {}
    mistakes: list[str] = []
    for section, what in unknown.items():
        if what in found or what in cached:
            continue
        try:
            found[what] = hub.look_up(what)
        except hub.NotReached as error:
            if (entry := _in_cache(what)) is not None:
                cached[what] = entry
            else:
                mistakes.append(_mistake(where, section, error))
        except hub.NotHad as error:
            mistakes.append(_mistake(where, section, error))
    for what, entry in found.items():
        known[what.kind][what.key] = entry
        terminal.note(f"looked up on the hub: {what} is {entry.commit}")
    for what, entry in cached.items():
        terminal.note(f"not looked up: {what} is {entry.commit} in the cache, whose files nothing is compared with")
    if found:
        lock.write(known)
        terminal.note(f"{LOCK} keeps commits and hashes, and later runs obey it; delete an entry to take what is newer")
    if mistakes:
        raise MoaError("\n".join(mistakes))
    return cached


def _mistake(where: str, section: str, error: MoaError) -> str:
    return f"{where}: {section}: {error}; or name a local folder as its source"


def _in_cache(what: Repository) -> Entry | None:
    """Return what the cache holds where the hub was not to be asked, or a commit was named, which cannot move."""
    if not (hub.offline() or what.pinned):
        return None
    try:
        return hub.cached(what)
    except hub.NotHad:
        return None


@contextmanager
def _alone() -> Iterator[None]:
    """Wait until no other process looks something up for this folder; look-ups are bounded in time."""
    HELD.parent.mkdir(parents=True, exist_ok=True)
    with HELD.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
