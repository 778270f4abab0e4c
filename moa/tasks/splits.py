"""The files of a hub data set that hold a split, as the library `datasets` finds them by its card and their names.

The library is shown the card and empty files of the right names; what it chooses is then fetched and compared with the
lock. So the same commit gives the same files without the network, and no other file is fetched.
"""

import shutil
import tempfile
from pathlib import Path

from moa.errors import MoaError, nearest, one_line
from moa.store import hub
from moa.store.lock import Repository


class NoSplit(MoaError):
    """The data set has no such split or subset, or no file that is read here."""


def fetch(asked: Repository, subset: str | None, split: str) -> list[Path]:
    """Return the local files of a split, in the order of `datasets`.

    Raises:
        MoaError: the hub does not give them (`hub.NotHad`), they are not what was looked up, or there is no such split
            or subset (`NoSplit`).
    """
    entry = hub.entry_of(asked)
    with tempfile.TemporaryDirectory() as place:
        for name in entry.names:
            path = Path(place, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if name in hub.CARDS:
                shutil.copyfile(hub.fetch(asked, entry, name), path)
            else:
                path.touch()
        chosen = _chosen(Path(place), subset, split)
    return [hub.fetch(asked, entry, name) for name in chosen]


def _chosen(place: Path, subset: str | None, split: str) -> list[str]:
    """Return the names of a split's files in a folder."""
    import datasets  # slow to import, and not needed for local files
    from datasets.exceptions import DatasetsError

    try:
        found = datasets.load_dataset_builder(str(place), subset).config.data_files or {}
    except (DatasetsError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        # an unknown subset (the message lists the known ones), or no file that is read here
        raise NoSplit(one_line(error).replace(str(place), "the repository")) from error
    if split not in found:
        raise NoSplit(f"there is no such split.{nearest(split, map(str, found))}")
    return [Path(file).relative_to(place.resolve()).as_posix() for file in found[split]]
