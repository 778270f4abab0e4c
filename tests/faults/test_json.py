"""Every JSON file of a run, a model or a user is read by one reader: what is no object ends in a line with its name."""

from collections.abc import Callable
from pathlib import Path

import pytest

from moa import api
from moa.errors import MoaError
from moa.lm.inspect import read_json
from moa.report import archive
from moa.respond import respond
from moa.store.files import read_object
from moa.tasks.tabular import read_rows

NO_OBJECT = {
    "empty": b"",
    "cut": b'{"a": ',
    "another kind": b"[1]",
    "null": b"null",
    "words": b'"words"',
    "a picture": b"\x89PNG\r\n\x1a\n",
    "no UTF-8": b'{"a": "\xe9"}',
    "deep": b"[" * 100_000,
    "deep in a key": b'{"a": ' + b"[" * 100_000,
    "a number of 5 000 digits": b'{"a": ' + b"9" * 5_000 + b"}",
}


def line(read: Callable[[], object], name: str) -> str:
    """Return the one line in which reading ends; it names the file and says what to do."""
    with pytest.raises(MoaError) as caught:
        read()
    said = str(caught.value)
    assert name in said and "; " in said and "\n" not in said and "sys." not in said, said
    return said


@pytest.mark.parametrize("content", NO_OBJECT.values(), ids=list(NO_OBJECT))
def test_what_is_no_object(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    said = line(lambda: read_object(path, "a card", "write it again"), "a.json")
    assert said.startswith(f"{path}: not readable as a card (") and said.endswith("); write it again")
    assert line(lambda: read_json(path), "a.json").endswith("; copy or download it again")


@pytest.mark.parametrize("content", NO_OBJECT.values(), ids=list(NO_OBJECT))
def test_files_of_a_run_of_an_archive_and_of_a_data_set(tmp_path: Path, content: bytes) -> None:
    for name in ("policy.json", "state.json", "data.arrow", "normaliser.parquet"):
        (tmp_path / name).write_bytes(content)
    line(lambda: respond(tmp_path, "The lamp", None, None), "policy.json: not readable as a policy's card")
    line(lambda: api.load(tmp_path, {}), "policy.json: not readable as a policy that moa.api saved")
    line(lambda: read_rows(str(tmp_path), None, None, "train", ["text"]), "state.json: not readable as what save_to_")
    (tmp_path / "settings.json").write_bytes(content)
    line(lambda: archive._stored(tmp_path / "settings.json"), "settings.json: not readable as the archive's settings")


@pytest.mark.parametrize("card", ["{}", '{"base": "x"}', '{"objectives": null, "conditioned": true}'])
def test_a_policys_card_without_what_it_must_say(tmp_path: Path, card: str) -> None:
    folder = tmp_path / "task/policies/moc/policy/s0"
    folder.mkdir(parents=True)
    (tmp_path / "task/base").mkdir()
    (tmp_path / "task/base/config.json").write_text("{}")
    (folder / "policy.json").write_text(card)
    line(lambda: respond(folder, "The lamp", None, None), "policy.json: incomplete or outdated")
    line(lambda: api.load(folder, {}), "policy.json: no policy that moa.api saved")
