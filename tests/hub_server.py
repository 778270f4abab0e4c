"""A hub on this machine: the part of the API that huggingface_hub needs, and it misbehaves where it is told to."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

LARGE = 4096  # bytes; a file of so many or more is kept by LFS, and has a sha256


@dataclass
class Repository:
    """Commits (files by name), and the branches that name one of them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit, move a branch to it, and return it."""
        parts = [name.encode() + hashlib.sha256(content).digest() for name, content in sorted(files.items())]
        made = hashlib.sha1(b"".join([branch.encode(), str(len(self.commits)).encode(), *parts])).hexdigest()
        self.commits[made] = dict(files)
        self.branches[branch] = made
        return made

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """What the server has, what it was asked, and how it fails."""

    repositories: dict[str, Repository] = field(default_factory=dict)  # 'models/owner/name', 'datasets/owner/name'
    asked: list[str] = field(default_factory=list)
    status: int | None = None  # of every answer
    cut: int | None = None  # bytes after which every download breaks off
    silent: threading.Event | None = None  # that every answer waits for
    address: str = ""

    def model(self, name: str) -> Repository:
        return self.repositories.setdefault(f"models/{name}", Repository())

    def dataset(self, name: str) -> Repository:
        return self.repositories.setdefault(f"datasets/{name}", Repository())

    def folder(self, name: str, folder: Path) -> str:
        """Add a commit with the files of a local folder to a model."""
        return self.model(name).commit({p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()})


def git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def tag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if len(content) >= LARGE else git(content)


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            if hub.silent is not None:
                hub.silent.wait()
            if hub.status is not None:
                self.refuse(hub.status, "")
            elif found := re.fullmatch(r"/api/((?:models|datasets)/.+?)(?:/revision/(.+))?", path):
                self.tell(found[1], found[2] or "main")
            elif found := re.fullmatch(r"/(datasets/)?(.+?)/resolve/([^/]+)/(.+)", path):
                self.give(f"{found[1] or 'models/'}{found[2]}", found[3], found[4])
            else:
                self.answer(200, b"")

        def find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
            repository = hub.repositories.get(name)
            if repository is None:
                return self.refuse(401, "RepoNotFound")  # as the hub does without a token
            if repository.gated:
                return self.refuse(403, "GatedRepo")
            commit = repository.resolve(revision)
            return self.refuse(404, "RevisionNotFound") if commit is None else (commit, repository.commits[commit])

        def tell(self, name: str, revision: str) -> None:
            if (found := self.find(name, revision)) is None:
                return
            siblings = [
                {"rfilename": file, "size": len(content), "blobId": git(content)}
                | (
                    {"lfs": {"sha256": tag(content), "size": len(content), "pointerSize": 1}}
                    if len(content) >= LARGE
                    else {}
                )
                for file, content in found[1].items()
            ]
            said = {"id": name.partition("/")[2], "sha": found[0], "siblings": siblings, "tags": [], "private": False}
            self.answer(200, json.dumps(said).encode(), {"Content-Type": "application/json"})

        def give(self, name: str, revision: str, file: str) -> None:
            if (found := self.find(name, revision)) is None:
                return
            if file not in found[1]:
                self.refuse(404, "EntryNotFound")
                return
            content = found[1][file]
            start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
            headers = {"X-Repo-Commit": found[0], "ETag": f'"{tag(content)}"', "Accept-Ranges": "bytes"}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.answer(206 if start else 200, content[start:], headers)

        def refuse(self, status: int, code: str) -> None:
            self.answer(status, b"{}", {"X-Error-Code": code} if code else {})

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if hub.cut is not None and "/resolve/" in self.path:
                body, self.close_connection = body[: hub.cut], True
            self.wfile.write(body)

    return Handler


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        if hub.silent is not None:
            hub.silent.set()
        server.shutdown()
        server.server_close()
        thread.join()


def use(hub: Hub, cache: Path, patch: pytest.MonkeyPatch) -> None:
    """Let this process ask `hub`: huggingface_hub reads HF_ENDPOINT and its like once, when it is imported."""
    from huggingface_hub import constants

    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "ENDPOINT", hub.address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))


def environment(hub: Hub, cache: Path) -> dict[str, str]:
    """Return the variables by which another process asks `hub`."""
    return {"HF_ENDPOINT": hub.address, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0"}
