"""The hub of models and data sets: which commit of a repository is read, and whether its files are what was looked up.

`models.lock.yaml` in the working folder keeps what the hub said when a run first asked: the commit, and the hash of
every file that may be read. Later runs obey it and ask nothing; every file is compared with its hash before it is read.
All talk with the hub is huggingface_hub's, so HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and HF_HUB_CACHE mean the usual.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from moa.errors import MoaError, one_line
from moa.store.files import disk_full
from moa.store.lock import COMMIT, HASH, LOCK, MAIN, Entry, Kind, Repository, kept, read
from moa.store.provenance import kept_hash, warn_unpinned

SECONDS = 10.0  # that a look-up waits for the hub
MOST = 5000  # files of a repository
# What is read of a model's repository, at its top: configs and tokenizers, never code; weights are safetensors.
TEXTS, WEIGHTS = (".json", ".txt", ".model", ".jinja", ".tiktoken"), ".safetensors"
# And of a data set's: what says which files are its splits, and files of rows (moa/tasks/formats.py), no bookkeeping.
CARDS = ("README.md", ".huggingface.yaml")
ROWS = re.compile(r"\.(parquet|arrow|jsonl|json|csv)(\.(gz|bz2|zst))?", re.IGNORECASE)
NO_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


class NotHad(MoaError):
    """The hub does not give what was asked for; the message is the reason, and what would help there."""


class NotReached(NotHad):
    """The hub was not asked, or did not answer."""


def entry_of(asked: Repository) -> Entry:
    """Return what is read of a repository: what the lock says, else the hub, else, offline, what the cache holds.

    Raises:
        MoaError: the lock is damaged; or `NotHad`, none of the three has it.
    """
    found = kept(read(), asked)
    if found is None:
        found = cached(asked) if offline() else look_up(asked)
        warn_unpinned(str(asked), asked.revision if asked.pinned else None)
    return found


def offline() -> bool:
    """Return whether the user forbids to ask the hub, by HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def look_up(asked: Repository, seconds: float = SECONDS) -> Entry:
    """Ask the hub for the commit of a revision and for the hashes of the files that may be read.

    Raises:
        NotHad: no such repository or revision, one that is gated, or no answer.
    """
    from huggingface_hub import HfApi

    with _talking(asked):
        ask = HfApi().dataset_info if asked.kind == "dataset" else HfApi().model_info
        info = ask(asked.source, revision=asked.revision, files_metadata=True, timeout=seconds)
    commit = str(info.sha)
    if not COMMIT.fullmatch(commit) or (asked.pinned and commit != asked.revision):
        raise NotHad(f"{asked}: the hub answers with the commit {commit}; check HF_ENDPOINT")
    files = [f for f in info.siblings or [] if readable(asked.kind, f.rfilename)]
    if len(files) > MOST:
        raise NotHad(f"{asked}: it has {len(files)} files to read, and {MOST} are the most; name a local copy")
    hashes = {f.rfilename: f"sha256:{f.lfs.sha256}" if f.lfs is not None else f"git:{f.blob_id}" for f in files}
    without = next((name for name, value in hashes.items() if not HASH.fullmatch(value)), None)
    if without is not None:
        raise NotHad(f"{asked}: the hub gives no hash of {without}; check HF_ENDPOINT")
    return Entry(commit, tuple(hashes), hashes, asked.key)


def readable(kind: Kind, name: str) -> bool:
    """Return whether a file of a repository may be read: no code, no pickle."""
    if kind == "model":
        return "/" not in name and name.endswith((*TEXTS, WEIGHTS))
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts
    rows = ROWS.fullmatch("".join(path.suffixes[-2:])) or ROWS.fullmatch(path.suffix)
    return inside and (name in CARDS or (rows is not None and path.name not in NO_ROWS))


def cached(asked: Repository) -> Entry:
    """Return the commit of a revision as the local cache has it, and the files of it that are there.

    Raises:
        NotReached: it is not there.
    """
    folder = _storage(asked)
    ref = folder / "refs" / (asked.revision or MAIN)
    commit = asked.revision if asked.pinned else ref.read_text(encoding="utf-8").strip() if ref.is_file() else ""
    snapshot = folder / "snapshots" / str(commit)
    if not commit or not snapshot.is_dir():
        raise NotReached(f"{asked}: it is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub")
    names = sorted(p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file())
    return Entry(commit, tuple(name for name in names if readable(asked.kind, name)))


def _storage(asked: Repository) -> Path:
    """Return where the cache of huggingface_hub has a repository."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=asked.source, repo_type=asked.kind)


def snapshot(asked: Repository, entry: Entry) -> Path:
    """Return the folder of the cache where the files of a commit are put."""
    return _storage(asked) / "snapshots" / entry.commit


def have(asked: Repository, entry: Entry) -> bool:
    """Return whether the cache has what a run would most likely read: configs and weights, or files of rows."""
    here = [name for name in entry.names if (snapshot(asked, entry) / name).is_file()]
    if asked.kind == "dataset":
        return any(name not in CARDS for name in here)
    texts = [name for name in entry.names if name.endswith(TEXTS)]
    return set(texts) <= set(here) and any(name.endswith(WEIGHTS) for name in here)


def fetch(asked: Repository, entry: Entry, name: str) -> Path:
    """Return a file of a repository, from the cache or else the hub, once it is known to be what was looked up.

    Raises:
        MoaError: the hub does not give it (`NotHad`), or it holds other bytes than the lock says.
    """
    from huggingface_hub import hf_hub_download

    with _talking(asked):
        path = Path(hf_hub_download(asked.source, name, repo_type=asked.kind, revision=entry.commit))
    expected = None if entry.hashes is None else entry.hashes[name]
    if expected is not None and (found := _digest(path, expected)) != expected:
        raise MoaError(
            f"{asked}: {name} is not what was looked up: {found[:19]} in place of {expected[:19]} (entry {entry.key} of"
            f" {LOCK}); delete {path.resolve()} and run again, or, where the hub has other bytes now and you want them,"
            " the entry, too"
        )
    return path


def refuse_strangers(asked: Repository, entry: Entry) -> None:
    """Refuse files in a commit's folder of the cache that a model would be read from, and that the hub never named.

    Raises:
        MoaError: the first of them.
    """
    folder = snapshot(asked, entry)
    beside = sorted(p.name for p in folder.iterdir() if readable(asked.kind, p.name) and p.name not in entry.names)
    if beside:
        raise MoaError(
            f"{asked}: {folder / beside[0]} is in the cache, but was not in the repository (entry {entry.key} of"
            f" {LOCK}); delete it and run again"
        )


@contextmanager
def _talking(asked: Repository) -> Iterator[None]:
    """Turn whatever huggingface_hub raises into one line that says what to do."""
    from huggingface_hub import constants, errors

    home = f"{constants.ENDPOINT}/{'datasets/' if asked.kind == 'dataset' else ''}{asked.source}"
    try:
        yield
    except errors.GatedRepoError:
        raise NotHad(
            f"{asked}: it is gated; accept its terms at {home}, and log in with `hf auth login` or HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise NotHad(
            f"{asked}: {constants.ENDPOINT} has no such {asked.kind}, or a private one; correct the name, or log in"
            " with `hf auth login` or HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise NotHad(f"{asked}: it has no such branch, tag or commit; see {home}") from None
    except errors.HFValidationError as error:
        raise NotHad(f"{asked}: no name of a repository ({one_line(error)})") from None
    except errors.RemoteEntryNotFoundError as error:
        raise NotHad(f"{asked}: a file is gone ({one_line(error)})") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        denied = "; log in with `hf auth login` or HF_TOKEN" if status in (401, 403) else "; try again later"
        raise NotReached(f"{asked}: {constants.ENDPOINT} answers with status {status}{denied}") from error
    except MoaError:
        raise
    except Exception as error:  # of sockets, TLS, JSON, files and Rust; none of them is listed anywhere
        if isinstance(error, OSError) and disk_full(error):
            raise
        if offline():
            raise NotReached(f"{asked}: it is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub") from error
        raise NotReached(
            f"{asked}: {constants.ENDPOINT} does not give it ({one_line(error)}); see that the network is there, or set"
            " HF_HUB_OFFLINE=1 to take what the cache holds"
        ) from error


def _digest(path: Path, like: str) -> str:
    """Return the hash of a file, of the kind that `like` is."""
    if like.startswith("sha256:"):
        return f"sha256:{kept_hash(path)}"
    found = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)  # as `git hash-object` does
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            found.update(chunk)
    return f"git:{found.hexdigest()}"
