"""models.lock.yaml against a local server that speaks the hub's API: what is looked up, kept, obeyed and compared."""

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moa.ahead import pins
from moa.errors import MoaError
from moa.experiment.keys import Model
from moa.experiment.schema import parse
from moa.lm import models
from moa.plan import Plan
from moa.store import hub, lock
from moa.store.lock import LOCK, Entry, Repository
from moa.tasks import files
from moa.tasks.tabular import read_rows
from tests import hub_server, tiny_models
from tests.hub_server import Hub

TINY = Repository("model", "who/tiny")
BIG = b"x" * hub_server.LARGE  # LFS, so a sha256


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub; the working folder and the cache are empty."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with hub_server.serving() as found:
        hub_server.use(found, tmp_path / "cache", monkeypatch)
        yield found


def plan(**sections: Any) -> Plan:
    """Return a plan on the hub's model who/tiny and the embedded corpus, with other sections on top."""
    vader = {"kind": "vader"}
    objectives = {"sentiment": {"reward": "vader"}, "short": {"reward": "short"}}
    whole = {
        "task": "mine",
        "run": {"methods": ["linear"], "seeds": [0]},
        "data": {"source": "embedded", "texts": 40, "heldout_texts": 6, "train_prompts": 8, "evaluation_prompts": 4},
        "model": {"source": "who/tiny"},
        "objectives": objectives,
        "rewards": {"vader": vader, "short": {"kind": "conciseness"}},
    }
    return Plan(parse(whole | sections), "mine.yaml")


def test_a_revision_is_looked_up_once_and_kept_with_the_hashes_of_its_files(
    server: Hub, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = server.folder("who/tiny", base)
    assert pins.commits(plan(), "mine.yaml") == {"model": {"revision": commit}}
    said = capsys.readouterr().err
    assert f"looked up on the hub: model who/tiny, revision main is {commit}" in said and "delete an entry" in said
    kept = lock.read()["model"]["who/tiny@main"]
    assert kept.commit == commit
    config, weights = base / "config.json", base / "model.safetensors"
    by_git = subprocess.run(["git", "hash-object", config], capture_output=True, text=True, check=True).stdout.strip()
    assert kept.hashes is not None and kept.hashes["config.json"] == f"git:{by_git}"
    assert kept.hashes["model.safetensors"] == f"sha256:{hub_server.tag(weights.read_bytes())}"
    before = LOCK.read_bytes(), list(server.asked)
    assert pins.commits(plan(), "mine.yaml") == {"model": {"revision": commit}}
    assert (LOCK.read_bytes(), server.asked) == before, "the second run asks nothing and writes nothing"


def test_a_branch_that_moved_is_not_followed_until_its_entry_is_gone(server: Hub, base: Path) -> None:
    first = server.folder("who/tiny", base)
    pins.commits(plan(), "mine.yaml")
    second = server.model("who/tiny").commit({"config.json": b"{}"})
    assert second != first and pins.commits(plan(), "mine.yaml") == {"model": {"revision": first}}
    assert models.load_base("who/tiny", Model(source="who/tiny")).config.hidden_size == tiny_models.SCRATCH.hidden
    assert "delete its entry" in LOCK.read_text()  # the file itself says how to go on
    LOCK.unlink()
    assert pins.commits(plan(), "mine.yaml") == {"model": {"revision": second}}


def test_branches_tags_and_commits_are_looked_up(server: Hub) -> None:
    """A branch becomes its commit; a commit stays, and has its hashes, too; what nobody has is an error."""
    repository = server.model("who/tiny")
    old = repository.commit({"config.json": b"1"}, "v1")
    new = repository.commit({"config.json": b"2"})
    for revision, commit in (("v1", old), (old, old), (new, new)):
        asked = plan(model={"source": "who/tiny", "revision": revision})
        assert pins.commits(asked, "mine.yaml") == {"model": {"revision": commit}}
    assert set(lock.read()["model"]) == {"who/tiny@v1", f"who/tiny@{new}"}, "v1's entry is also that of its commit"
    for revision in ("v2", "0" * 40):
        with pytest.raises(MoaError, match=f"mine.yaml: model: model who/tiny, .* {revision}: it has no such branch"):
            pins.commits(plan(model={"source": "who/tiny", "revision": revision}), "mine.yaml")


def test_everything_that_may_name_the_hub_gets_its_commit(server: Hub) -> None:
    """Model, data, responses, reward, a reward's data, MODPO's pairs, an external adapter: seven keys, five sources."""
    commits = {
        name: server.model(name).commit({"config.json": name.encode()})
        for name in ("who/tiny", "who/judge", "who/adapter")
    } | {name: server.dataset(name).commit({"train.jsonl": name.encode()}) for name in ("who/data", "who/pairs")}
    columns = {"prompt": "prompt", "response": "response"}
    pairs = {"kind": "modpo", "objective": "kind", "pairs": {"source": "who/pairs", "prompt": "prompt"}}
    found = pins.commits(
        plan(
            run={"methods": ["modpo", "theirs"], "seeds": [0]},
            data={"source": "who/data", "prompt": "prompt", "responses": {"source": "who/data", **columns}},
            objectives={"kind": {"reward": "judge"}, "mine": {"reward": "mine"}},
            rewards={
                "judge": {"kind": "classifier", "source": "who/judge"},
                "mine": {"kind": "linear", "data": {"source": "who/pairs", "label": "label"}},
            },
            methods={"modpo": pairs, "theirs": {"kind": "external", "adapter": "who/adapter"}},
        ),
        "mine.yaml",
    )
    of = {name: {"revision": commit} for name, commit in commits.items()}
    assert found == {
        "model": of["who/tiny"],
        "data": of["who/data"] | {"responses": of["who/data"]},
        "rewards": {"judge": of["who/judge"], "mine": {"data": of["who/pairs"]}},
        "methods": {"modpo": {"pairs": of["who/pairs"]}, "theirs": of["who/adapter"]},
    }


def test_what_is_not_there_ends_in_a_line_each_and_the_rest_is_kept(server: Hub) -> None:
    server.model("who/tiny").commit({"config.json": b"1"})
    server.model("who/gated").gated = True
    rewards = {
        "a": {"kind": "classifier", "source": "who/gated"},
        "b": {"kind": "classifier", "source": "who/missing"},
    }
    with pytest.raises(MoaError) as error:
        pins.commits(
            plan(rewards=rewards, objectives={"x": {"reward": "a"}, "y": {"reward": "b"}}),
            "mine.yaml",
        )
    gated, missing = str(error.value).splitlines()
    assert gated.startswith("mine.yaml: rewards.a: model who/gated, revision main: it is gated; accept its terms at ")
    assert f"{server.address}/who/gated" in gated and "HF_TOKEN; or name a local folder" in gated
    assert missing.startswith(f"mine.yaml: rewards.b: model who/missing, revision main: {server.address} has no such")
    assert set(lock.read()["model"]) == {"who/tiny@main"}


@pytest.mark.parametrize(
    ("status", "says"), [(500, "status 500; try again later"), (403, "status 403; log in"), (401, "status 401; log in")]
)
def test_a_hub_that_refuses(server: Hub, status: int, says: str) -> None:
    server.status = status
    with pytest.raises(MoaError, match=f"^mine.yaml: model: model who/tiny, revision main: .*{says}[^\n]*$"):
        pins.commits(plan(), "mine.yaml")
    assert not LOCK.exists()


def test_a_hub_that_is_no_hub_or_never_answers(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.status = 200  # and nothing that a hub says
    with pytest.raises(hub.NotReached, match="does not give it .*see that the network is there, or set HF_HUB_OFFLINE"):
        hub.look_up(TINY)
    for endpoint in ("nonsense", "http://127.0.0.1:1", "http://[broken"):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        with pytest.raises(hub.NotReached, match="does not give it"):
            hub.look_up(TINY)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    with pytest.raises(hub.NotHad, match="no name of a repository"):
        hub.look_up(Repository("model", "who are/you"))
    server.silent = threading.Event()
    with pytest.raises(hub.NotReached, match="does not give it"):
        hub.look_up(TINY, seconds=0.1)


def test_offline_the_lock_and_the_cache_are_enough(server: Hub, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = server.folder("who/tiny", base)
    pins.commits(plan(), "mine.yaml")
    models.load_tokenizer("who/tiny", commit)
    models.load_base("who/tiny", Model(source="who/tiny"), revision=commit)
    asked = list(server.asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert pins.commits(plan(), "mine.yaml") == {"model": {"revision": commit}}
    models.load_tokenizer("who/tiny", commit)
    models.load_base("who/tiny", Model(source="who/tiny"), revision=commit)
    assert server.asked == asked


def test_offline_without_a_lock(
    server: Hub, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the cache has is taken, said, and not written down as if it had been looked up; without it, a line."""
    commit = server.folder("who/tiny", base)
    models.load_base("who/tiny", Model(source="who/tiny"))  # fills the cache
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cache = hub.snapshot(TINY, Entry(commit, ())).parents[1]
    (cache / "refs").mkdir(exist_ok=True)
    (cache / "refs" / "main").write_text(commit)
    assert pins.commits(plan(), "mine.yaml") == {"model": {"revision": commit}} and not LOCK.exists()
    assert f"not looked up: model who/tiny, revision main is {commit} in the cache" in capsys.readouterr().err
    shutil.rmtree(cache)
    with pytest.raises(MoaError, match="mine.yaml: model: .* not in the cache, and HF_HUB_OFFLINE forbids to ask"):
        pins.commits(plan(), "mine.yaml")


def test_a_dry_run_says_what_it_would_look_up(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert pins.commits(plan(), "mine.yaml", look_up=False) == {}
    said = capsys.readouterr().err
    assert "would be looked up on the hub: model who/tiny, revision main (models.lock.yaml has no entry who" in said
    assert not server.asked and not LOCK.exists()


def test_changed_bytes_are_refused_with_the_file_and_the_entry(server: Hub, base: Path) -> None:
    """In the cache: a weight's byte, a config's; on the server: other bytes under the same commit."""
    commit = server.folder("who/tiny", base)
    pins.commits(plan(), "mine.yaml")
    folder = hub.snapshot(TINY, Entry(commit, ()))
    models.load_base("who/tiny", Model(source="who/tiny"), revision=commit)
    for name, load in (
        ("model.safetensors", lambda: models.load_base("who/tiny", Model(source="who/tiny"), revision=commit)),
        ("config.json", lambda: models.load_tokenizer("who/tiny", commit)),
    ):
        blob = (folder / name).resolve()
        whole = blob.read_bytes()
        blob.write_bytes(whole[:-2] + b"!" + whole[-1:])
        with pytest.raises(MoaError) as error:
            load()
        assert re.fullmatch(
            rf"model who/tiny, commit {commit}: {name} is not what was looked up: \S+ in place of \S+ \(entry"
            rf" who/tiny@main of models.lock.yaml\); delete {blob} and run again, or, [^\n]*",
            str(error.value),
        )
        blob.unlink()  # the remedy
        load()
    (folder / "config.json").resolve().unlink()
    server.model("who/tiny").commits[commit]["config.json"] = b"{}"
    with pytest.raises(MoaError, match="config.json is not what was looked up"):
        models.load_tokenizer("who/tiny", commit)


def test_a_file_that_the_repository_never_had_is_refused(server: Hub, base: Path) -> None:
    """A chat template put into the cache would change every prompt."""
    commit = server.folder("who/tiny", base)
    pins.commits(plan(), "mine.yaml")
    models.load_tokenizer("who/tiny", commit)
    (hub.snapshot(TINY, Entry(commit, ())) / "chat_template.jinja").write_text("{{ 'no' }}")
    with pytest.raises(MoaError, match="chat_template.jinja is in the cache, but was not in the repository"):
        models.load_tokenizer("who/tiny", commit)


def test_half_a_download_leaves_nothing_that_would_be_read(
    server: Hub, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every connection breaks after 1 000 bytes, until one does not; that one gets the rest."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    commit = server.folder("who/tiny", base)
    pins.commits(plan(), "mine.yaml")
    models.load_tokenizer("who/tiny", commit)
    weights = hub.snapshot(TINY, Entry(commit, ())) / "model.safetensors"

    def load() -> None:
        models.load_base("who/tiny", Model(source="who/tiny"), revision=commit)

    server.cut = 1000
    with pytest.raises(MoaError, match=r"^model who/tiny at revision .*: cannot be loaded \([^\n]*does not give it"):
        load()
    assert not weights.exists()
    server.cut = None
    load()
    assert weights.read_bytes() == (base / "model.safetensors").read_bytes()


def test_parallel_look_ups_end_in_one_whole_lock(server: Hub) -> None:
    """Eight threads, four repositories: every thread gets its commit, and the file has all four."""
    commits = {f"who/m{i}": server.model(f"who/m{i}").commit({"config.json": b"%d" % i}) for i in range(4)}
    found: list[tuple[str, dict[str, Any]]] = []

    def ask(name: str) -> None:
        found.append((name, pins.commits(plan(model={"source": name}), "mine.yaml")))

    threads = [threading.Thread(target=ask, args=(name,)) for name in [*commits, *commits]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(made == {"model": {"revision": commits[name]}} for name, made in found)
    assert {key: entry.commit for key, entry in lock.read()["model"].items()} == {
        f"{name}@main": commit for name, commit in commits.items()
    }
    assert sum(line.startswith("GET /api/") for line in server.asked) == 4, "who waits reads what another has found"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models: [1]\n", "models: not what a run writes"),
        ("other: {}\n", "unknown section 'other'"),
        ("models: {who/tiny@main: {commit: abc, files: {}}}\n", "who/tiny@main: an entry is a commit of 40 digits"),
        ("models: {who/tiny@main: {files: {}}}\n", "who/tiny@main: an entry is a commit"),
        (f"models: {{a/b@main: {{commit: '{'a' * 40}', files: {{x: 'md5:1'}}}}}}\n", "files with a hash each"),
        ("<<<<<<< mine\n", "not valid YAML|expected a mapping"),
        ("", "expected a mapping of keys"),
    ],
)
def test_a_lock_that_is_none(server: Hub, text: str, says: str) -> None:
    LOCK.write_text(text)
    with pytest.raises(MoaError, match=f"^models.lock.yaml: .*({says})[^\n]*$"):
        pins.commits(plan(), "mine.yaml")
    assert LOCK.read_text() == text


def test_commits_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    """1e38 digits are a number to YAML, 40 decimal digits are one, too."""
    hashes = {"a.json": f"git:{'1' * 40}", "ü: #.txt": f"sha256:{'2' * 64}"}
    made: lock.Lock = {"model": {"a/b@1": Entry("1" * 40, tuple(hashes), hashes, "a/b@1")}, "dataset": {}}
    made["model"]["a/b@2e3"] = Entry("1e" + "3" * 38, (), {}, "a/b@2e3")
    lock.write(made, tmp_path / "lock.yaml")
    assert lock.read(tmp_path / "lock.yaml") == made


def rows(*texts: str) -> bytes:
    return "".join(f'{{"text": "{text}"}}\n' for text in texts).encode()


def test_a_data_set_of_the_hub_is_read_by_its_card(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subset's split has the files that the card names, and only these are fetched; then offline; then changed."""
    card = b"---\nconfigs:\n- config_name: small\n  data_files:\n  - {split: train, path: a/*.jsonl}\n---\n"
    files = {"README.md": card, "a/1.jsonl": rows("one"), "a/2.jsonl": rows("two"), "b/1.jsonl": rows("other")}
    server.model("who/tiny").commit({"config.json": b"{}"})
    commit = server.dataset("who/data").commit(files | {"code.py": b"raise SystemExit"})

    def read(subset: str | None = "small", split: str = "train") -> list[dict[str, Any]]:
        return read_rows("who/data", commit, subset, split, ["text"])

    pins.commits(plan(data={"source": "who/data", "text": "text", "subset": "small"}), "mine.yaml")
    assert read() == [{"text": "one"}, {"text": "two"}]
    assert not any("b/1.jsonl" in line or "code.py" in line for line in server.asked)
    with pytest.raises(MoaError, match="split test, revision .*: there is no such split. Known: train"):
        read(split="test")
    with pytest.raises(MoaError, match="subset large, .*BuilderConfig 'large' not found. Available: .*small"):
        read(subset="large")
    asked = list(server.asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert read() == [{"text": "one"}, {"text": "two"}] and server.asked == asked
    asked_for = Repository("dataset", "who/data", commit)
    (hub.snapshot(asked_for, Entry(commit, ())) / "a" / "2.jsonl").resolve().write_bytes(rows("twx"))
    with pytest.raises(MoaError, match="dataset who/data, .*: a/2.jsonl is not what was looked up"):
        read()


def test_a_data_set_without_a_card_has_the_splits_that_names_tell(server: Hub) -> None:
    commit = server.dataset("who/data").commit(
        {"sub/train.jsonl": rows("a"), "sub/test-00000-of-00001.jsonl": rows("b"), "dataset_infos.json": b"no json"}
    )
    assert read_rows("who/data", commit, None, "train", ["text"]) == [{"text": "a"}]
    assert read_rows("who/data", None, None, "test", ["text"]) == [{"text": "b"}]
    with pytest.raises(MoaError, match="no column 'label'"):
        read_rows("who/data", commit, None, "train", ["label"])
    server.dataset("who/none").commit({"data.zip": b"PK", "code.py": b""})
    with pytest.raises(MoaError, match="dataset who/none, split train: "):
        read_rows("who/none", None, None, "train", ["text"])


def test_what_may_be_read_of_a_repository() -> None:
    """Data files are those that moa.tasks.formats reads; nothing leaves the folder; no code, no pickle."""
    for suffix in files.SUFFIXES:
        assert all(hub.readable("dataset", f"a/b.c{suffix}{end}") for end in ("", *files.COMPRESSIONS))
    assert not any(
        hub.readable("dataset", name)
        for name in ("a.py", "../a.json", "/a.json", "a/../../b.csv", "state.json", "a.zip", "a.gz", "x/README.md")
    )
    assert all(hub.readable("model", name) for name in ("config.json", "model-00001-of-2.safetensors", "a.tiktoken"))
    assert not any(hub.readable("model", name) for name in ("model.py", "pytorch_model.bin", "x/config.json"))
