"""`moa convert`: GGUF and pickled weights become safetensors with the same tensors, or one line and no folder."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from moa import cli
from moa.errors import MoaError
from moa.experiment.keys import Model
from moa.lm import convert as converting
from moa.lm import models, unpickle
from moa.lm.convert import convert
from tests import tiny_models

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
LLAMA = {  # names of a layer's tensors in GGUF and in Transformers
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Return rows of a query's or key's matrix as llama.cpp keeps them: both halves of a head take turns."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write_gguf(path: Path, bits: gguf.GGMLQuantizationType, left_out: str = "") -> Path:
    """Write the tiny model as llama.cpp's own converter would, its matrices in few bits."""
    model, tokenizer, spec = tiny_models.model(), tiny_models.tokenizer(), tiny_models.SCRATCH
    state = model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(spec.context)
    writer.add_embedding_length(spec.hidden)
    writer.add_block_count(spec.layers)
    writer.add_feed_forward_length(spec.feed_forward)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.heads)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_vocab_size(len(tokenizer))
    known = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    special = {token["content"] for token in known["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in known["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)
    named = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    for i in range(spec.layers):
        named |= {f"blk.{i}.{theirs}": f"model.layers.{i}.{ours}" for theirs, ours in LLAMA.items()}
    if not model.config.tie_word_embeddings:
        named["output"] = "lm_head"
    for theirs, ours in named.items():
        if theirs == left_out:
            continue
        weight = state[f"{ours}.weight"].float()
        weight = interleaved(weight, spec.heads) if theirs.endswith(("attn_q", "attn_k")) else weight
        few = weight.ndim == 2
        stored = gguf.quantize(weight.numpy(), bits) if few else weight.numpy()
        writer.add_tensor(f"{theirs}.weight", stored, raw_dtype=bits if few else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", gguf.GGMLQuantizationType.Q8_0)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open pickles in this process, which takes no seconds to start; they are this file's own."""
    monkeypatch.setattr(converting, "_unpickled", unpickle.unpickle)


@pytest.mark.parametrize("bits", ["F32", "Q8_0"])
def test_gguf_becomes_a_model_with_its_tokenizer_and_context(bits: str, tmp_path: Path) -> None:
    """F32: every number; Q8_0: 8 bits for the block's largest of 32, so at most half of 1/127 of it away."""
    source = write_gguf(tmp_path / "tiny.gguf", gguf.GGMLQuantizationType[bits])
    said = convert(source, tmp_path / "made", "float32")
    assert said.startswith(f"{tmp_path / 'made'}: LlamaForCausalLM, ") and "in float32, 128 tokens of context" in said
    assert "a chat template, end token" in said
    made = models.load_base(tmp_path / "made", Model(source=str(tmp_path / "made")))
    tokenizer, known = models.load_tokenizer(tmp_path / "made"), tiny_models.tokenizer()
    for key, weight in tiny_models.model().state_dict().items():
        bound = 0.0 if bits == "F32" else float(weight.abs().max()) / 127 * 0.51  # 0.01 for the scale's float16
        assert (made.state_dict()[key].cpu() - weight).abs().max() <= bound, key
    text = "My lamp is good, and useful."
    assert tokenizer(text)["input_ids"] == known(text)["input_ids"]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "<user>Hi<assistant>"
    assert (tokenizer.eos_token, tokenizer.bos_token) == (known.eos_token, known.bos_token)
    assert tokenizer.model_max_length == 128 == made.config.max_position_embeddings
    assert made.generation_config.eos_token_id == [known.eos_token_id]
    assert not list((tmp_path / "made").glob("*.gguf")) and "quantization_config" not in (
        (tmp_path / "made" / "config.json").read_text()
    )


def pickled(folder: Path, state: Any = None) -> Path:
    """Save the tiny model with pickled weights; embeddings and output layer share memory, where it ties them."""
    model = tiny_models.model()
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    torch.save(model.state_dict() if state is None else state, folder / "pytorch_model.bin")
    return folder


def test_pickled_weights_become_safetensors(here: None, tmp_path: Path) -> None:
    source = pickled(tmp_path / "old")
    (source / "code.py").write_text("raise SystemExit")
    said = convert(source / "pytorch_model.bin", tmp_path / "made")
    assert "LlamaForCausalLM" in said and "in float32" in said
    assert "code.py" not in {p.name for p in (tmp_path / "made").iterdir()}
    made = models.load_base(tmp_path / "made", Model(source="x")).state_dict()
    assert all(torch.equal(made[key].cpu(), weight) for key, weight in tiny_models.model().state_dict().items())


def test_shards_keep_their_files_and_their_tensors(here: None, tmp_path: Path) -> None:
    source = pickled(tmp_path / "old")
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    (source / "pytorch_model.bin").unlink()
    where = {key: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, key in enumerate(sorted(state))}
    for file in set(where.values()):
        torch.save({key: state[key] for key in where if where[key] == file}, source / file)
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    convert(source, tmp_path / "made")
    index = json.loads((tmp_path / "made" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    made = models.load_base(tmp_path / "made", Model(source="x")).state_dict()
    assert all(torch.equal(made[key].cpu(), weight) for key, weight in tiny_models.model().state_dict().items())
    (source / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(MoaError, match="00002-of-00002.bin: missing, one of 2 shards"):
        convert(source, tmp_path / "again")
    (source / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "../else.bin"}}')
    with pytest.raises(MoaError, match="names no .bin files of its own folder"):
        convert(source, tmp_path / "again")


def test_an_encoder_is_taken_as_what_a_reward_trains_from(here: None, tmp_path: Path) -> None:
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertModel(BertConfig(vocab_size=len(tiny_models.tokenizer()), **size))
    model.save_pretrained(tmp_path / "old")
    tiny_models.tokenizer().save_pretrained(tmp_path / "old")
    (tmp_path / "old" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    assert "BertModel" in convert(tmp_path / "old", tmp_path / "made")


def test_tensors_that_share_memory_are_written_one_by_one(tmp_path: Path) -> None:
    """One tensor under two names, a part of it, and one that is transposed: four tensors, each with its values."""
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"a": whole, "b": whole, "part": whole[1:], "turned": whole.t()}
    torch.save(state, tmp_path / "w.bin")
    unpickle.unpickle(tmp_path / "w.bin", tmp_path / "w.safetensors")
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == state.keys() and all(torch.equal(found[k], v) for k, v in state.items())
    torch.save(state, tmp_path / "w.bin", _use_new_zipfile_serialization=False)  # as before PyTorch 1.6
    unpickle.unpickle(tmp_path / "w.bin", tmp_path / "w.safetensors")
    assert torch.equal(load_file(tmp_path / "w.safetensors")["turned"], whole.t())


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    source = pickled(tmp_path / "old", {"w": torch.zeros(1), "evil": Evil(marker)})
    with pytest.raises(MoaError) as error:
        convert(source, tmp_path / "made")
    assert "holds more than tensors, which could run code, and is not opened" in str(error.value)
    assert "system" in str(error.value) and "\n" not in str(error.value)
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(MoaError, match="no pickle of PyTorch .Unsupported operand"):
        convert(source, tmp_path / "made")
    assert not marker.exists() and not (tmp_path / "made").exists()


def test_a_process_that_dies_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where memory runs out: killed, without a word."""
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    source = pickled(tmp_path / "old")
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(MoaError, match="pytorch_model.bin: the process that opened it ended with status -9 .it said"):
        convert(source, tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cut off, damaged, or no pickle of PyTorch"),
        (b"<html>Not found</html>", "cut off, damaged, or no pickle of PyTorch"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS has not fetched; run git lfs pull"),
        (b"PK\x03\x04" + bytes(200), "cut off, damaged, or no pickle of PyTorch"),
        (None, "cut off, damaged, or no pickle of PyTorch"),  # half of a good one
        ({}, "holds dict, not tensors by name"),
        (torch.zeros(2), "holds Tensor, not tensors by name"),
        ({"state": {"w": torch.zeros(2)}}, "holds dict as 'state', not a plain tensor"),
        ({"w": torch.eye(2).to_sparse()}, "holds Tensor as 'w', not a plain tensor"),
    ],
)
def test_a_pickle_of_something_else(tmp_path: Path, content: Any, says: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is None:
        torch.save(tiny_models.model().state_dict(), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        torch.save(content, path)
    with pytest.raises(MoaError, match=f"^{path}: ([^\n]*)({says})[^\n]*$"):
        unpickle.unpickle(path, tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize("kept", [0.001, 0.02, 0.5, 0.99])
def test_a_gguf_that_is_cut_off(small: Path, tmp_path: Path, kept: float) -> None:
    """In its first numbers, in its metadata, among its tensors, in the last one."""
    whole = small.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(MoaError, match=r"^[^\n]*cut.gguf: cannot be read \([^\n]*\); it may be cut off[^\n]*$"):
        convert(tmp_path / "cut.gguf", tmp_path / "made")
    assert [p.name for p in tmp_path.iterdir()] == ["cut.gguf"]


def test_a_gguf_that_is_none_or_lacks_a_tensor(small: Path, tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>")
    with pytest.raises(MoaError, match="page.gguf: not a GGUF file"):
        convert(tmp_path / "page.gguf", tmp_path / "made")
    (tmp_path / "unknown.gguf").write_bytes(small.read_bytes().replace(b"llama", b"clipx"))
    with pytest.raises(MoaError, match="unknown.gguf: cannot be read .*clipx"):
        convert(tmp_path / "unknown.gguf", tmp_path / "made")
    write_gguf(tmp_path / "less.gguf", gguf.GGMLQuantizationType.F32, left_out="blk.1.ffn_up")
    with pytest.raises(MoaError, match="less.gguf: .*missing, and would be random, first model.layers.1.mlp.up_proj"):
        convert(tmp_path / "less.gguf", tmp_path / "made")
    shutil.copy(small, tmp_path / "a-00001-of-00003.gguf")
    with pytest.raises(MoaError, match="one part of several; join them first"):
        convert(tmp_path / "a-00001-of-00003.gguf", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_sources_that_are_none_and_targets_that_are_there(small: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("GGUG")
    tiny_models.save_base(tmp_path / "whole")
    pickled(tmp_path / "bare")
    (tmp_path / "bare" / "config.json").unlink()
    shutil.copytree(small.parent, tmp_path / "two")
    shutil.copy(small, tmp_path / "two" / "other.gguf")
    for source, says in (
        ("nowhere", "no such file or folder; name a .gguf file, or a folder with pytorch_model.bin .*hf download"),
        ("empty", "holds no weights of a model that is read; name a .gguf file"),
        ("notes.txt", "neither GGUF nor a folder of a model"),
        ("whole", "holds safetensors already"),
        ("bare", "config.json is missing"),
        ("two", "holds 2 GGUF files .other.gguf, tiny.gguf.; name one"),
    ):
        with pytest.raises(MoaError, match=f"^{tmp_path / source}: {says}"):
            convert(tmp_path / source, tmp_path / "made")
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(MoaError, match="kept: exists already and is kept"):
        convert(small, tmp_path / "kept")
    assert (tmp_path / "kept").read_text() == "mine" and not (tmp_path / "made").exists()


def test_what_the_loader_refuses_is_not_written(here: None, tmp_path: Path) -> None:
    """A weight that is NaN, and a tokenizer that is not there."""
    state = tiny_models.model().state_dict()
    state["model.norm.weight"] = torch.full_like(state["model.norm.weight"], float("nan"))
    with pytest.raises(MoaError, match="old: .*not finite"):
        convert(pickled(tmp_path / "old", state), tmp_path / "made")
    source = pickled(tmp_path / "older")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    with pytest.raises(MoaError, match="older: what it holds is no model that is loaded here"):
        convert(source, tmp_path / "made")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old", "older"]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user types it: one line each way, and status 1 without a trace."""
    source = pickled(tmp_path / "old")
    arguments = ["convert", str(source), str(tmp_path / "made")]
    command = [sys.executable, "-m", "moa.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith(f"{tmp_path / 'made'}: LlamaForCausalLM"), done.stderr
    assert done.stderr == ""
    monkeypatch.setattr(sys, "argv", ["moa", *arguments])
    with pytest.raises(SystemExit, match=f"^error: {tmp_path / 'made'}: exists already and is kept"):
        cli.main()


def test_a_mistake_is_said_before_anything_heavy_is_loaded() -> None:
    code = (
        "import sys, moa.cli, moa.lm.convert, moa.ahead.doctor; print({'torch', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
