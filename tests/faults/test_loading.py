"""What is loaded is what was meant: no foreign code runs, and no tensor is missing, left over, misshapen or broken."""

import ast
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import RobertaConfig, RobertaForMaskedLM, RobertaForSequenceClassification

from moa.experiment.keys import Model
from moa.experiment.rewards import Classifier
from moa.lm import loading, models
from moa.lm.inspect import inspect_model
from moa.lm.inspect_adapter import inspect_adapter
from moa.rewards import classifier
from tests import tiny_models, tiny_rewards
from tests.tiny_models import edit_json, edit_tensors
from tests.unfit import Tensors, logits, refused, without

PACKAGE = Path(loading.__file__).parents[1]
PLAIN, NF4, INT8 = (Model.model_validate({"source": "x", "quantisation": q}) for q in ("none", "nf4", "int8"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "model"))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tiny_models.save_adapter(tmp_path / "policy", seed=1) / "adapter"


# No foreign code.

CODE = {"from_pretrained", "from_config", "load_adapter", "snapshot_download", "pipeline"}


def calls(path: Path) -> list[ast.Call]:
    found = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [c for c in found if (c.func.attr if isinstance(c.func, ast.Attribute) else ast.unparse(c.func)) in CODE]


def test_every_loader_call_stands_in_two_modules_and_trusts_nothing() -> None:
    """The tokenizer's and the models', and the same two of GGUF, whose keywords are one dictionary."""
    of = {path.relative_to(PACKAGE).as_posix(): calls(path) for path in PACKAGE.rglob("*.py")}
    assert {name for name, found in of.items() if found} == {"lm/loading.py", "lm/gguf.py"}
    loaders = [c for c in of["lm/loading.py"] if ast.unparse(c.func).endswith("from_pretrained")]
    assert len(loaders) == 2
    for call in loaders:
        assert {k.arg: ast.unparse(k.value) for k in call.keywords}["trust_remote_code"] == "False"
    assert len(of["lm/gguf.py"]) == 2
    for call in of["lm/gguf.py"]:
        assert "**settings" in ast.unparse(call)
    said = ast.unparse(ast.parse((PACKAGE / "lm" / "gguf.py").read_text(encoding="utf-8")))
    assert said.count("settings:") == 1 and "'trust_remote_code': False, 'local_files_only': True}" in said


def test_a_pickle_is_opened_in_one_module() -> None:
    """And there for tensors alone."""
    opened = {
        path.relative_to(PACKAGE).as_posix(): [
            {k.arg: ast.unparse(k.value) for k in node.keywords}
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "pickle.load", "pickle.loads")
        ]
        for path in PACKAGE.rglob("*.py")
    }
    (found,) = [keywords for keywords in opened.values() if keywords]
    assert len(found) == 1 and found[0]["weights_only"] == "True" and opened["lm/unpickle.py"] == found


def with_code(folder: Path, marker: Path, **config: object) -> Path:
    """Put code that writes `marker` into a folder, under every name by which somebody's code is found."""
    (folder / "custom_generate").mkdir()
    text = f"open({str(marker)!r}, 'w')\nclass C: pass\ndef generate(*a, **k): open({str(marker)!r}, 'w')\n"
    for name in ("evil.py", "custom_generate/generate.py", "__init__.py"):
        (folder / name).write_text(text)
    autos = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoModel")
    edit_json(folder / "config.json", auto_map=dict.fromkeys(autos, "evil.C"), **config)
    return edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.C", "evil.C"]})


@pytest.fixture
def nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))


@pytest.mark.usefixtures("nobody_answers")
def test_code_beside_a_known_architecture_is_not_run(base: Path, copy: Path, tmp_path: Path) -> None:
    folder = with_code(copy, tmp_path / "ran")
    model, tokenizer = models.load_base(folder, PLAIN), models.load_tokenizer(folder)
    model.generate(input_ids=torch.tensor([[5, 6]]), max_new_tokens=2, do_sample=False)
    assert torch.equal(logits(model), logits(models.load_base(base, PLAIN)))
    assert tokenizer("a lamp")["input_ids"] == tiny_models.tokenizer()("a lamp")["input_ids"]
    assert not (tmp_path / "ran").exists() and not any(name.endswith("evil") for name in sys.modules)


@pytest.mark.usefixtures("nobody_answers")
def test_an_architecture_of_its_own_code_is_refused(copy: Path, tmp_path: Path) -> None:
    folder = with_code(copy, tmp_path / "ran", model_type="evil", architectures=["C"])
    own = (
        "its own code, auto_map in config.json, is never run; name a whole model whose architecture Transformers knows"
    )
    refused(lambda: models.load_base(folder, PLAIN), own)
    reward = Classifier(kind="classifier", source=str(folder))
    refused(lambda: classifier.load("harm", reward, [], "cpu"), "reward harm: cannot load .*model")
    edit_json(folder / "tokenizer_config.json", tokenizer_class="Evil")
    refused(lambda: models.load_tokenizer(folder), "no usable tokenizer .*no code of a folder or of the hub is run")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json", "chat_template.jinja", "vocab.json"])
def test_a_pipe_or_a_device_among_a_tokenizers_files(copy: Path, name: str) -> None:
    """Who opens a pipe waits for whoever writes into it."""
    (copy / name).unlink(missing_ok=True)
    os.mkfifo(copy / name) if name != "vocab.json" else (copy / name).symlink_to("/dev/zero")
    refused(lambda: models.load_tokenizer(copy), f"{name} is a pipe or a device, not a file")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_pipe_among_an_adapters_files(policy: Path, name: str) -> None:
    (policy / name).unlink()
    os.mkfifo(policy / name)
    refused(lambda: inspect_adapter(policy), f"{name}.* (is missing, or no file|not a file)")


def test_a_tokenizer_with_an_expression_that_never_ends(copy: Path) -> None:
    """The library gives up after ten million attempts, by a panic; without this refusal in the middle of a run."""
    split = {"type": "Split", "pattern": {"Regex": "(((a|.)*)*)*!$"}, "behavior": "Isolated", "invert": False}
    edit_json(copy / "tokenizer.json", pre_tokenizer=split)
    refused(lambda: models.load_tokenizer(copy), "no usable tokenizer .*retry-limit.*; check model.source")


@pytest.mark.parametrize(
    "config",
    [
        {"_attn_implementation": "who/kernel"},
        {"attn_implementation": "paged|who/kernel@main:f"},
        {"attn_implementation": {"": "eager", "text_config": "who/kernel"}},
        {"text_config": {"_attn_implementation_internal": "who/kernel"}},
        {"_experts_implementation": "who/kernel"},
    ],
)
def test_a_kernel_of_the_hub_is_refused(copy: Path, config: dict) -> None:
    edit_json(copy / "config.json", **config)
    refused(lambda: models.load_base(copy, PLAIN), "config.json names '.*who/kernel.*' as .*_implementation.*: code of")


def test_a_way_to_compute_that_is_fetched_where_it_is_not_installed_is_left_out(copy: Path) -> None:
    """Without the package flash_attn, Transformers would take the kernel of that name from the hub."""
    edit_json(copy / "config.json", _attn_implementation="flash_attention_2")
    assert models.load_base(copy, PLAIN).config._attn_implementation == "sdpa"


def test_other_weights_than_those_that_lie_there_are_not_named(copy: Path) -> None:
    edit_json(copy / "config.json", transformers_weights="adapter_model.bin")
    refused(lambda: models.load_base(copy, PLAIN), "transformers_weights: 'adapter_model.bin', which is not read")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "XLORA"}, "peft_type is 'XLORA', but only LORA adapters are read"),
        ({"peft_type": "FOO"}, "peft_type is 'FOO'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"peft_type": "PROMPT_TUNING", "tokenizer_name_or_path": "who/evil"}, "peft_type is 'PROMPT_TUNING'"),
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "megatron_config is {'a': 1}, which is not read"),
        ({"layer_replication": [[0, 2], [0, 2]]}, "layer_replication is .*, which is not read"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4', which changes the base"),
        ({"r": 4_000_000_000}, "r is 4000000000, but the adapter's tensors have rank 4"),
        ({"bias": 7}, "does not fit the base"),
        ({"rank_pattern": {"up_proj": 10**9}}, "the rank of up_proj is 1000000000, but the adapter's tensors have 4"),
        ({"rank_pattern": ["up_proj"]}, "rank_pattern is ..up_proj.., expected an object"),
        ({"rank_pattern": {"((a|.)*)*!": 4}}, r"rank_pattern has '\(\(a\|\.\)\*\)\*!', no name of a layer"),
        ({"alpha_pattern": {"(|)(|)": 4}}, "alpha_pattern has .*, no name of a layer"),
        ({"modules_to_save": ["(.*.*)*"]}, "modules_to_save has .*, no name of a layer"),
        ({"lora_alpha": 1e308}, r"lora_alpha is 1e\+308, expected a number up to 4000, 1000 times the rank"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan, expected a number"),
        ({"lora_alpha": "many"}, "lora_alpha is 'many', expected a number"),
        ({"alpha_pattern": {"up_proj": 10**400}}, "up_proj is 1000.*, expected a number up to 4000"),
    ],
)
def test_an_adapter_that_would_import_fetch_or_change_the_base(
    base: Path, policy: Path, config: dict, message: str
) -> None:
    edit_json(policy / "adapter_config.json", **config)
    refused(lambda: models.load_adapters(models.load_base(base, PLAIN), {"x": policy}), message)
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": "(((a|.)*)*)*!$"},
        {"target_modules": r".*\.(q|k|v|o|gate|up|down)_proj"},
        {"target_modules": "all-linear"},
        {"exclude_modules": "(((a|.)*)*)*!$"},
        {"layers_pattern": "((a|.)*)*", "layers_to_transform": [0, 1]},
    ],
)
def test_the_layers_of_an_adapter_are_those_of_its_tensors_not_what_an_expression_matches(
    base: Path, policy: Path, config: dict
) -> None:
    """The first would be matched for longer than anybody waits: 2 to the length of a layer's name."""
    expected = logits(models.load_adapters(models.load_base(base, PLAIN), {"x": policy}))
    edit_json(policy / "adapter_config.json", **config)
    assert torch.equal(logits(models.load_adapters(models.load_base(base, PLAIN), {"x": policy})), expected)


def test_what_an_adapter_says_of_its_base_is_neither_imported_nor_fetched(base: Path, policy: Path) -> None:
    expected = logits(models.load_adapters(models.load_base(base, PLAIN), {"x": policy}))
    edit_json(
        policy / "adapter_config.json",
        auto_mapping={"parent_library": "evil", "base_model_class": "Evil"},
        base_model_name_or_path="who/evil",
        revision="evil",
        runtime_config={},
    )
    found = models.load_adapters(models.load_base(base, PLAIN), {"x": policy})
    assert torch.equal(logits(found), expected) and "evil" not in sys.modules


# What is loaded is what was meant.

UP = "model.layers.1.mlp.up_proj.weight"


def renamed(tensors: Tensors) -> Tensors:
    return {f"other.{name}": tensor for name, tensor in tensors.items()}


def having(name: str, value: float) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        key = next(n for n in tensors if n.endswith(name))
        return {**tensors, key: tensors[key].index_fill(0, torch.tensor([0]), value)}

    return change


def cut(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t[:-1] if n.endswith(name) else t for n, t in tensors.items()}


def added(tensors: Tensors) -> Tensors:
    return {**tensors, "value_head.weight": torch.zeros(3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(UP), rf"1 tensor is missing, and would be random, first {UP}"),
        (without("up_proj.weight"), r"2 tensors are missing, .*first model.layers.0.mlp.up_proj.weight"),
        (renamed, r"\d\d tensors are missing"),
        (added, "1 tensor is left over, without a place in the model, first value_head.weight"),
        (cut(UP), rf"1 tensor is of another shape than config.json says, first {UP} \(63, 32\) for \(64, 32\)"),
        (having(UP, torch.nan), rf"1 tensor is not finite \(NaN or infinity\), first {UP}"),
        (having(UP, -torch.inf), rf"1 tensor is not finite .*{UP}"),
    ],
    ids=["missing", "missing_two", "renamed", "left_over", "misshapen", "nan", "inf"],
)
def test_a_base_with_other_tensors(copy: Path, change: Callable[[Tensors], Tensors], message: str) -> None:
    edit_tensors(copy / "model.safetensors", change)
    refused(lambda: models.load_base(copy, PLAIN), f"model: cannot be loaded .{message}")


@pytest.mark.parametrize("spec", [NF4, INT8], ids=["nf4", "int8"])
def test_quantising_hides_no_nan(copy: Path, spec: Model) -> None:
    edit_tensors(copy / "model.safetensors", having(UP, torch.nan))
    refused(lambda: models.load_base(copy, spec), "not finite .*model.layers.1.mlp.up_proj")


def test_tied_weights_and_old_buffers_may_be_left_out_or_over(tmp_path: Path) -> None:
    """GPT-2 stores its output layer as its embeddings; old files hold the mask of its attention."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    made = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=64)).eval()
    made.save_pretrained(tmp_path)
    mask = {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 64, 64) for i in range(2)}
    edit_tensors(tmp_path / "model.safetensors", lambda tensors: {**tensors, **mask})
    assert not any("lm_head" in name for name in inspect_model(tmp_path).shapes)
    found = models.load_base(tmp_path, PLAIN)
    assert torch.equal(logits(found), logits(made)) and models.context_length(found) == 64


def test_sharded_weights(base: Path, tmp_path: Path) -> None:
    model = models.load_base(base, PLAIN)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    stored = inspect_model(tmp_path)
    assert list(stored.weights) == shards and stored.bytes == sum(path.stat().st_size for path in shards)
    assert torch.equal(logits(models.load_base(tmp_path, PLAIN)), logits(model))
    shards[1].unlink()
    refused(
        lambda: models.load_base(tmp_path, PLAIN),
        f"1 of {len(shards)} files of weights are missing, first {shards[1].name}",
    )
    edit_json(tmp_path / "model.safetensors.index.json", weight_map={"a": "../model.safetensors"})
    refused(lambda: models.load_base(tmp_path, PLAIN), "index.json: names no safetensors of its own folder")


def test_more_layers_than_weights(copy: Path) -> None:
    edit_json(copy / "config.json", num_hidden_layers=10**9)
    refused(lambda: models.load_base(copy, PLAIN), "declares 1000000000 layers, but all its weights are 20 tensors")


def test_more_embeddings_than_weights(copy: Path) -> None:
    """Refused before so much memory is asked for."""
    edit_json(copy / "config.json", vocab_size=10**13)
    refused(
        lambda: models.load_base(copy, PLAIN), "declares 10000000000000 embeddings, but no tensor has so many rows: 320"
    )


def test_an_adapter_or_both_in_place_of_a_model(copy: Path, policy: Path) -> None:
    refused(lambda: models.load_base(policy, PLAIN), "it is an adapter, not a model")
    shutil.copy(policy / "adapter_config.json", copy)
    refused(lambda: models.load_base(copy, PLAIN), "holds a model and an adapter, adapter_config.json")


A = "layers.0.mlp.up_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(A), f"1 tensor is missing, and would be random, first base_model.model.model.{A}"),
        (renamed, r"\d\d tensors are missing"),
        (lambda tensors: {}, "adapter_model.safetensors holds no LoRA tensor"),
        (
            lambda t: {**t, f"base_model.model.{UP}": torch.zeros(64, 32)},
            f"1 tensor is left over, without a place in the base, first base_model.model.{UP}",
        ),
        (lambda t: {n: v[:, :-1] if n.endswith(A) else v for n, v in t.items()}, rf"{A} \(4, 31\) for \(4, 32\)"),
        (having(A, torch.nan), f"1 tensor is not finite .*{A}"),
    ],
    ids=["missing", "renamed", "empty", "base_weights", "misshapen", "nan"],
)
def test_an_adapter_with_other_tensors(
    base: Path, policy: Path, change: Callable[[Tensors], Tensors], message: str
) -> None:
    edit_tensors(policy / "adapter_model.safetensors", change)
    refused(
        lambda: models.load_adapters(models.load_base(base, PLAIN), {"x": policy}), f"does not fit the base .*{message}"
    )


def test_a_checkpoint_with_other_tensors(base: Path, policy: Path) -> None:
    model = models.add_adapter(models.load_base(base, PLAIN), tiny_models.LORA, 0)
    path = policy / "adapter_model.safetensors"
    models.restore_adapter(model, path)
    expected = logits(models.load_adapters(models.load_base(base, PLAIN), {"x": policy}))
    assert torch.equal(logits(model), expected)
    edit_tensors(path, without(A))
    refused(lambda: models.restore_adapter(model, path), "adapter_model.safetensors .1 tensor is missing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("classifier.weight"), "it has no weights for classifier.weight, so its scores would be random"),
        (without("query.weight"), "2 tensors are missing, and would be random, first bert.encoder.layer.0.attention"),
        (renamed, "its scores would be random"),
        (added, "1 tensor is left over, .*first value_head.weight"),
        (cut("classifier.bias"), r"classifier.bias \(1,\) for \(2,\)"),
        (having("classifier.weight", torch.nan), "not finite .*first classifier.weight"),
    ],
    ids=["head", "trunk", "renamed", "left_over", "misshapen", "nan"],
)
def test_a_classifier_with_other_tensors(tmp_path: Path, change: Callable[[Tensors], Tensors], message: str) -> None:
    folder = edit_tensors(tiny_rewards.bert(tmp_path / "bert") / "model.safetensors", change)
    reward = Classifier(kind="classifier", source=str(folder), max_length=32)
    refused(lambda: classifier.load("harm", reward, [], "cpu"), f"reward harm: cannot load .*bert .*{message}")


def test_a_head_to_train_takes_a_language_model_but_not_another_trunk(tmp_path: Path) -> None:
    """A RoBERTa that was trained on masked words: its own head is left over, the classifier's is new."""
    config = RobertaConfig(
        vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48
    )
    RobertaForMaskedLM(config).save_pretrained(tmp_path / "lm")
    stored = inspect_model(tmp_path / "lm")
    assert loading.classifier(stored, new_head=True, num_labels=1).config.num_labels == 1
    refused(lambda: loading.classifier(stored), "it has no weights for classifier.dense")
    edit_tensors(tmp_path / "lm" / "model.safetensors", without("query.weight"))
    refused(lambda: loading.classifier(stored, new_head=True, num_labels=1), "1 tensor is missing")
    # A pooler is often left in the file of a classifier that reads none.
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "classifier")
    pooler = {"roberta.pooler.dense.weight": torch.zeros(32, 32), "roberta.pooler.dense.bias": torch.zeros(32)}
    edit_tensors(tmp_path / "classifier" / "model.safetensors", lambda t: {**t, **pooler})
    assert loading.classifier(inspect_model(tmp_path / "classifier")).config.num_labels == 2
