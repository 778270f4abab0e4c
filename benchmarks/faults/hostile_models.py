"""Hostile model folders: code, pickles, templates and sizes in what a model, adapter or classifier brings along."""

import json
import os
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.hostile_data import Payload
from benchmarks.faults.hostile_experiments import CANARY, TOUCH, judge
from benchmarks.faults.trial import Place, Trial, Verdict
from benchmarks.faults.world import World, repeat, with_section

HOW = "the stage that loads the folder, in a fork; standard input says yes to every question; a canary"
CODE = f"open({CANARY!r}, 'w').close()\n"
MODULE = (
    CODE
    + "from transformers import *\nfrom transformers import BertForSequenceClassification, LlamaForCausalLM\n"
    + "class Config(PretrainedConfig):\n    model_type = 'hostile'\n"
    + "class Model(LlamaForCausalLM):\n    pass\nclass Classifier(BertForSequenceClassification):\n    pass\n"
    + "class Tokenizer(PreTrainedTokenizerFast):\n    pass\n"
)
Spoil = Callable[[Path], object]
BASE, JUDGE, ADAPTER, TAKEN = "models/base", "models/judge", "models/adapter", "results/models/base"
READERS = {BASE: "base", JUDGE: "reference", ADAPTER: "generate adapter", TAKEN: "reference"}


def keys(file: str, **values: Any) -> Spoil:
    """Return what sets keys of a JSON file."""

    def spoil(folder: Path) -> None:
        path = folder / file
        found = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**found, **values}))

    return spoil


def code(file: str, **values: Any) -> Spoil:
    """Return what names code of the folder in a JSON file, and brings the code."""

    def spoil(folder: Path) -> None:
        keys(file, **values)(folder)
        (folder / "hostile.py").write_text(MODULE)
        (folder / "custom_generate").mkdir()
        (folder / "custom_generate" / "generate.py").write_text(CODE + "def generate(*a, **k): raise SystemExit\n")

    return spoil


def pickle_alone(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.unlink()
    for name in ("pytorch_model.bin", "adapter_model.bin", "tf_model.h5", "model.ckpt.index", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Payload()))


def pickle_beside(folder: Path) -> None:
    for name in ("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(Payload()))


def weights(content: bytes) -> Spoil:
    """Return what replaces the safetensors file."""

    def spoil(folder: Path) -> None:
        for path in folder.glob("*.safetensors"):
            path.write_bytes(content)

    return spoil


def splitting(expression: str) -> Spoil:
    """Return what makes a tokenizer split texts by a regular expression."""

    def spoil(folder: Path) -> None:
        path = folder / "tokenizer.json"
        found = json.loads(path.read_text())
        split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
        path.write_text(json.dumps({**found, "pre_tokenizer": split}))

    return spoil


def header(text: str, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text.encode() + data


def index(target: str) -> Spoil:
    """Return what makes the weights sharded, with shards elsewhere."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
        (folder.parent / "elsewhere.bin").write_bytes(pickle.dumps(Payload()))
        names = {"model.embed_tokens.weight": target, "lm_head.weight": target}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))

    return spoil


def file(name: str, content: str) -> Spoil:
    return lambda folder: (folder / name).write_text(content)


def pipe(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return spoil


def link(name: str, target: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return spoil


def loop(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)


AUTO = {"AutoConfig": "hostile.Config", "AutoModelForCausalLM": "hostile.Model", "AutoModel": "hostile.Model"}
AUTO_HEAD = {"AutoConfig": "hostile.Config", "AutoModelForSequenceClassification": "hostile.Classifier"}
AUTO_WORDS = {"AutoTokenizer": ["hostile.Tokenizer", "hostile.Tokenizer"]}
BOTH: dict[str, Spoil] = {  # for a language model and for a classifier
    "code for a tokenizer": code("tokenizer_config.json", auto_map=AUTO_WORDS),
    "a tokenizer of the folder's class": code("tokenizer_config.json", tokenizer_class="hostile.Tokenizer"),
    "code for generation": code("generation_config.json", custom_generate="custom_generate"),
    "code of another repository": keys("config.json", auto_map={"AutoConfig": "owner/repo--hostile.Config"}),
    "an attention kernel of the hub": keys("config.json", attn_implementation="owner/kernel"),
    "an attention kernel of the hub, inner": keys("config.json", _attn_implementation="owner/kernel:f"),
    "a quantisation nobody knows": keys("config.json", quantization_config={"quant_method": "hostile"}),
    "a quantisation by code": keys("config.json", quantization_config={"quant_method": "gptq", "modules": [TOUCH]}),
    "an unknown type of model": keys("config.json", model_type="../../hostile"),
    "a number format that is code": keys("config.json", dtype="os.system", torch_dtype="os.system"),
    "an architecture that is code": keys("config.json", architectures=["os.system", "__import__"]),
    "a width of a billion": keys("config.json", hidden_size=10**9),
    "a vocabulary of a billion": keys("config.json", vocab_size=10**9),
    "a million layers": keys("config.json", num_hidden_layers=10**6),
    "a width below zero": keys("config.json", hidden_size=-1),
    "no positions": keys("config.json", max_position_embeddings=0),
    "words for a width": keys("config.json", hidden_size="many"),
    "pickled weights alone": pickle_alone,
    "pickled weights beside": pickle_beside,
    "a pickle named safetensors": weights(pickle.dumps(Payload())),
    "a header without end": weights(struct.pack("<Q", 2**62) + b"{"),
    "a deep header": weights(header("[" * 90_000)),
    "overlapping tensors": weights(
        header(
            '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            bytes(8),
        )
    ),
    "tensors outside of the file": weights(
        header('{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,399999999996]}}')
    ),
    "shards above the folder": index("../elsewhere.safetensors"),
    "shards that are pickles": index("../elsewhere.bin"),
    "shards of the system": index("/etc/passwd"),
    "deep JSON": file("config.json", "[" * 100_000),
    "a deep tokenizer": file("tokenizer.json", '{"a":' * 100_000),
    "a tokenizer with an expression that never ends": splitting("(((a|.)*)*)*!$"),
    "a pipe for weights": pipe("model.safetensors"),
    "a pipe for its description": pipe("config.json"),
    "a pipe for a tokenizer": pipe("tokenizer.json"),
    "a pipe for a tokenizer's settings": pipe("tokenizer_config.json"),
    "a pipe for a template": pipe("chat_template.jinja"),
    "an endless list of tokens": link("added_tokens.json", "/dev/zero"),
    "endless weights": link("model.safetensors", "/dev/zero"),
    "an endless description": link("config.json", "/dev/zero"),
    "a link to itself": loop,
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "a mapping that imports": {
        "auto_mapping": {"base_model_class": "x", "parent_library": "canary_module"},
        "task_type": None,
    },
    "a Megatron that imports": {"megatron_config": {}, "megatron_core": "canary_module"},
    "an unknown type": {"peft_type": "HOSTILE"},
    "a type that is code": {"peft_type": "os.system"},
    "a task that is code": {"task_type": "os.system"},
    "a base elsewhere": {"base_model_name_or_path": "../../../etc"},
    "a rank of a billion": {"r": 10**9},
    "a rank below zero": {"r": -4},
    "a scale without bound": {"lora_alpha": 1e308},
    "an expression that never ends": {"target_modules": "(((a|.)*)*)*!$"},
    "an expression to leave out that never ends": {"exclude_modules": "(((a|.)*)*)*!$"},
    "an expression for ranks that never ends": {"rank_pattern": {"(((a|.)*)*)*!": 4}},
    "an expression for layers that never ends": {"modules_to_save": ["(((a|.)*)*)*!"]},
    "a rank of a billion for one layer": {"rank_pattern": {"up_proj": 10**9}},
    "a scale that is no number": {"alpha_pattern": {"up_proj": float("nan")}},
    "every layer": {"target_modules": ".*"},
    "no layer": {"target_modules": []},
    "modules of its own": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "unknown keys": {"canary_module": "x", "__class__": "os.system"},
    "another way of scaling": {"use_rslora": True, "use_dora": True},
    "tokens of its own": {"trainable_token_indices": [0, 1, 10**9]},
    "layers of its own": {"layer_replication": [[0, 1000000]]},
    "weights that change the base": {"init_lora_weights": "pissa"},
    "weights by a data set": {"init_lora_weights": "eva", "eva_config": {"rho": 1e9}},
}
MODELS: list[tuple[str, str, Spoil]] = [
    (BASE, "code for a model", code("config.json", auto_map=AUTO)),
    (BASE, "code for an unknown model", code("config.json", auto_map=AUTO, model_type="hostile")),
    (JUDGE, "code for a classifier", code("config.json", auto_map=AUTO_HEAD)),
    (JUDGE, "code for an unknown classifier", code("config.json", auto_map=AUTO_HEAD, model_type="hostile")),
    *((where, name, spoil) for name, spoil in BOTH.items() for where in (BASE, JUDGE)),
    (ADAPTER, "pickled weights alone", pickle_alone),
    (ADAPTER, "pickled weights beside", pickle_beside),
    (ADAPTER, "a pickle named safetensors", weights(pickle.dumps(Payload()))),
    *((ADAPTER, name, keys("adapter_config.json", **values)) for name, values in ADAPTERS.items()),
    (ADAPTER, "deep JSON", file("adapter_config.json", "[" * 100_000)),
    (ADAPTER, "a pipe for weights", pipe("adapter_model.safetensors")),
    (ADAPTER, "a pipe for its description", pipe("adapter_config.json")),
    *(
        (TAKEN, name, file("chat_template.jinja", template))
        for name, template in {
            "a template that never ends": "{% for a in range(99999) %}" * 2 + "{% endfor %}" * 2,
            "a template of ten gigabytes": "{{ 'x' * 10000000000 }}",
            "a template that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "a template with attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[0]['content'] }}",
            "a template with a module": "{{ cycler.__init__.__globals__.os.system('touch canary') }}",
            "a template with a name": "{{ lipsum.__globals__['os'].popen('touch canary').read() }}",
            "a template that includes": "{% include '/etc/passwd' %}",
            "a template that changes the messages": "{{ messages.clear() }}",
            "a template that drops the message": "[assistant]",
            "a template that raises": "{{ raise_exception('its own words \\x1b[2J') }}",
            "a template that is no template": "{% for %}",
            "a template with the date": "{{ strftime_now('%H:%M:%S.%f') }}{{ messages[0]['content'] }}",
        }.items()
    ),
]


@dataclass(frozen=True)
class Model:
    """One hostile folder."""

    world: World
    where: str
    spoil: Spoil

    def __call__(self, place: Place) -> Verdict:
        self.world.copy(place.folder)
        (place.folder / "canary_module.py").write_text(CODE)
        self.spoil(place.folder / self.where)
        stage, _, row = READERS[self.where].partition(" ")
        command = self.world.command(stage, row or None)
        if self.where == TAKEN:
            command = with_section(command, self.world, place.folder, {'"chat":false': '"chat":true'})
        end = repeat(command, Place(place.folder, place.random, 60.0), lambda: sys.path.append(str(place.folder)))
        known = (
            self.where,
            Path(self.where).name,
            "reward classifier",
            "model.source",
            "chat template",
            "chat_template",
        )
        return judge(end, place.folder, *known)


def trials(models: World) -> list[Trial]:
    """Return a trial per folder."""
    return [
        Trial("hostile-model", i, f"{where}: {name}", HOW, Model(models, where, spoil))
        for i, (where, name, spoil) in enumerate(MODELS)
    ]
