"""Models, tokenizers and adapters that are missing, unfit or unsafe: a clear error each."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from moa.errors import MoaError
from moa.experiment.keys import Lora, Model, Ppo
from moa.lm import models
from moa.methods import catalogue
from tests import tiny_models

PLAIN = Model(source="x")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_base(tmp_path_factory.mktemp("base"))


def without(base: Path, folder: Path, *tokens: str) -> Path:
    """Copy the tokenizer without some special tokens."""
    shutil.copytree(base, folder)
    path = folder / "tokenizer_config.json"
    config = {k: v for k, v in json.loads(path.read_text()).items() if k not in tokens}
    path.write_text(json.dumps(config))
    return folder


def test_no_pad_token_the_end_token_pads(base: Path, tmp_path: Path) -> None:
    tokenizer = models.load_tokenizer(without(base, tmp_path / "t", "pad_token"))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1
    assert tokenizer.padding_side == "left"


def test_no_end_token(base: Path, tmp_path: Path) -> None:
    with pytest.raises(MoaError, match="no end token, so a response could never end; set eos_token"):
        models.load_tokenizer(without(base, tmp_path / "t", "pad_token", "eos_token"))


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(MoaError, match="nowhere: no usable tokenizer"):
        models.load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(MoaError, match="nowhere: cannot be loaded .*check model.source"):
        models.load_base(tmp_path / "nowhere", PLAIN)


def test_a_hub_id_without_the_hub() -> None:
    with pytest.raises(MoaError, match="nobody/nothing.*check model.source, model.revision"):
        models.load_base("nobody/nothing", PLAIN, revision="0" * 40)


REVISIONS = """
import sys
from moa.lm import models
from moa.experiment.keys import Model
from moa.errors import MoaError

stored, missing = sys.argv[1:]
base = models.load_base("who/tiny", Model(source="who/tiny"), revision=stored)
print(base.config.hidden_size, models.load_tokenizer("who/tiny", stored).eos_token_id)
for load in (
    lambda: models.load_base("who/tiny", Model(source="who/tiny"), revision=missing),
    lambda: models.load_tokenizer("who/tiny", missing),
):
    try:
        load()
    except MoaError as error:
        print(error)
"""


def test_a_revision_that_is_not_there(base: Path, tmp_path: Path) -> None:
    """A hub cache that holds one commit of a model, in a fresh process, because the cache's place is read on import."""
    stored, missing = "a" * 40, "b" * 40
    repository = tmp_path / "hub" / "models--who--tiny"
    shutil.copytree(base, repository / "snapshots" / stored)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(stored)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", REVISIONS, stored, missing], env=environment, capture_output=True, text=True, check=True
    )
    found, model, tokenizer = run.stdout.splitlines()
    assert found.split() == [str(tiny_models.SCRATCH.hidden), "1"]
    assert (
        model.startswith(f"model who/tiny at revision {missing}: cannot be loaded")
        and "check model.source, model.revision" in model
    )
    assert tokenizer.startswith(f"model who/tiny at revision {missing}: no usable tokenizer")


ADAPTERS = """
import sys
from moa.lm import models
from moa.errors import MoaError

stored, missing = sys.argv[1:]
print(*sorted(path.name for path in models.adapter_folder(models.fetch_adapter("who/adapter", stored)).iterdir()))
try:
    models.fetch_adapter("who/adapter", missing)
except MoaError as error:
    print(error)
"""


def test_an_adapter_from_the_hub(tmp_path: Path) -> None:
    """A hub cache that holds one commit of an adapter: that one is used, another one is an error that names it."""
    stored, missing = "a" * 40, "b" * 40
    repository = tmp_path / "hub" / "models--who--adapter"
    shutil.copytree(
        tiny_models.save_adapter(tmp_path / "policy", seed=0, name="a", weights=None, conditioned=True) / "adapter",
        repository / "snapshots" / stored,
    )
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(stored)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", ADAPTERS, stored, missing], env=environment, capture_output=True, text=True, check=True
    )
    names, error = run.stdout.splitlines()
    assert names.split() == ["adapter_config.json", "adapter_model.safetensors"]
    assert (
        error.startswith(f"adapter who/adapter at revision {missing}: cannot be had from the hub")
        and "name a local folder" in error
    )


def test_an_external_row_that_names_nothing_is_refused_by_the_plan(tmp_path: Path) -> None:
    ppo, refused = (
        Ppo(),
        r"methods.theirs.(adapter|model|responses): .*(no adapter_config.json there|no config.json there|no such file)",
    )
    for settings in (
        {"model": "./typo"},
        {"model": str(tmp_path)},
        {"adapter": str(tmp_path / "nowhere")},
        {"adapter": "some/local/folder"},
        {"responses": str(tmp_path / "none.parquet")},
    ):
        with pytest.raises(MoaError, match=refused):
            catalogue.load("theirs", {"kind": "external", **settings}, ["a", "b"]).check(ppo, None)
    for settings in ({"adapter": "who/adapter"}, {"model": "who/model"}):  # hub ids
        catalogue.load("theirs", {"kind": "external", **settings}, ["a", "b"]).check(ppo, None)


def test_an_external_row_may_lie_in_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()
    for name in ("m/config.json", "m/adapter_config.json", "answers.parquet"):
        (tmp_path / name).touch()
    for settings in ({"model": "~/m"}, {"adapter": "~/m"}, {"responses": "~/answers.parquet"}):
        method = catalogue.load("theirs", {"kind": "external", **settings}, ["a", "b"])
        method.check(Ppo(), None)
        (found,) = [str(v) for k, v in method.settings.model_dump().items() if k in settings]
        assert found == settings[next(iter(settings))].replace("~", str(tmp_path))


def test_a_folder_without_safetensors(base: Path, tmp_path: Path) -> None:
    """Pickled weights are not read, not even if nothing else is there."""
    folder = Path(shutil.copytree(base, tmp_path / "m"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(MoaError, match="safetensors"):
        models.load_base(folder, PLAIN)
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(MoaError, match="safetensors"):
        models.load_base(folder, PLAIN)


def test_damaged_safetensors(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "m"))
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(MoaError, match="cannot be loaded"):
        models.load_base(folder, PLAIN)


def test_a_folder_without_an_adapter(base: Path) -> None:
    with pytest.raises(MoaError, match="no adapter here .adapter_config.json is missing"):
        models.load_adapters(models.load_base(base, PLAIN), {"a": base})


def test_an_adapter_in_pickle_only(base: Path, tmp_path: Path) -> None:
    folder = tiny_models.save_adapter(tmp_path / "p", seed=0)
    (folder / "adapter" / "adapter_model.safetensors").unlink()
    torch.save({}, folder / "adapter" / "adapter_model.bin")
    with pytest.raises(
        MoaError, match="adapter_model.safetensors is missing, or no file; adapters are read from safetensors only"
    ):
        models.load_adapters(models.load_base(base, PLAIN), {"a": folder})


def test_an_adapter_of_another_model(base: Path, tmp_path: Path) -> None:
    other = tiny_models.scratch.new_model(
        tiny_models.SCRATCH.model_copy(update={"hidden": 48}), tiny_models.tokenizer(), 0
    )
    models.save_policy(tmp_path, models.add_adapter(other, tiny_models.LORA, 0), models.ValueHeads(48, 1), ["a"], {})
    with pytest.raises(MoaError, match="the adapter does not fit the base"):
        models.load_adapters(models.load_base(base, PLAIN), {"a": tmp_path})


def test_a_damaged_adapter(base: Path, tmp_path: Path) -> None:
    folder = tiny_models.save_adapter(tmp_path / "p", seed=0)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"\x10")
    with pytest.raises(MoaError, match="does not fit the base"):
        models.load_adapters(models.load_base(base, PLAIN), {"a": folder})


def test_no_adapter_to_load(base: Path) -> None:
    with pytest.raises(MoaError, match="no adapter"):
        models.load_adapters(models.load_base(base, PLAIN), {})


def test_targets_that_do_not_exist(base: Path) -> None:
    with pytest.raises(MoaError, match=r"model.lora.targets \['nope'\]"):
        models.add_adapter(models.load_base(base, PLAIN), Lora(targets=["nope"]), 0)


def test_nothing_asks_the_network(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load, train, save and load again without a socket."""
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    policy = models.add_adapter(models.load_base(base, Model(source="x", quantisation="nf4")), tiny_models.LORA, 0)
    models.save_policy(tmp_path, policy, models.ValueHeads(32, 1), ["a"], {})
    assert isinstance(models.load_adapters(models.load_base(base, PLAIN), {"a": tmp_path}), PeftModel)
