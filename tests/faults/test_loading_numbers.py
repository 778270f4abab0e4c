"""Ids, contexts and number formats that a model's files promise: taken as they are meant, or refused in one line."""

import shutil
from pathlib import Path

import pytest
import torch

from moa.experiment.keys import Conditioning, Lora, Model
from moa.experiment.rewards import Classifier
from moa.lm import answering, models
from moa.lm.answering import Base, Prompting
from moa.lm.conditioning import encode
from moa.lm.generation import Decoding
from moa.lm.inspect import inspect_model, inspect_tokenizer
from moa.rewards import classifier
from moa.stages.base import take
from tests import tiny_models, tiny_rewards
from tests.tiny_models import edit_json, edit_tensors
from tests.unfit import logits, refused, without

PLAIN, NF4, INT8 = (Model.model_validate({"source": "x", "quantisation": q}) for q in ("none", "nf4", "int8"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "model"))


# Ids, and what a tokenizer knows beyond the model.


@pytest.mark.parametrize("special", [True, False])
def test_a_token_beyond_the_embeddings(copy: Path, special: bool) -> None:
    tokenizer = tiny_models.tokenizer().__class__.from_pretrained(copy)
    tokenizer.add_tokens(["<new>"], special_tokens=special)
    tokenizer.save_pretrained(copy)
    message = "the tokenizer's ids go up to 320, '<new>', the model has embeddings for 320 tokens"
    refused(lambda: models.load_tokenizer(copy), message)
    refused(lambda: inspect_tokenizer(inspect_model(copy)), message)


def test_tokens_that_a_model_never_reads_need_no_embedding(copy: Path, tmp_path: Path) -> None:
    """The mark of an image in a model of text (Gemma 3), and the padding of a classifier that pads by its config."""
    tokenizer = tiny_models.tokenizer().__class__.from_pretrained(copy)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(copy)
    edit_json(copy / "tokenizer_config.json", image_token="<image>")
    assert models.load_tokenizer(copy).convert_tokens_to_ids("<image>") == 320
    inspect_tokenizer(inspect_model(copy))
    reward = tiny_rewards.gpt2(tmp_path / "gpt2")  # 18 words and marks of 20 embeddings
    edit_json(reward / "config.json", vocab_size=18)
    edit_tensors(
        reward / "model.safetensors", lambda t: {n: v[:18] if n.endswith("wte.weight") else v for n, v in t.items()}
    )
    padded = tiny_models.tokenizer().__class__.from_pretrained(reward)
    padded.add_special_tokens({"pad_token": "[PAD]"})
    padded.save_pretrained(reward)
    spec = Classifier(kind="classifier", source=str(reward), max_length=32)
    assert classifier.load("own", spec, [], "cpu").score([""] * 2, ["good film", "bad"]).values.std() > 0
    inspect_tokenizer(inspect_model(reward), classifier=True)


@pytest.mark.parametrize("pad", [-1, 99])
def test_a_pad_id_that_is_none(copy: Path, tmp_path: Path, pad: int) -> None:
    """A classifier that pads by no id scores each text as it does alone; a base keeps every embedding trainable."""
    folder = tiny_rewards.gpt2(tmp_path / "gpt2", labels=2)
    texts = ["good film", "the plot was very dull and it ends"]
    expected = [tiny_rewards.plain(folder, text)[0] for text in texts]
    edit_json(folder / "config.json", pad_token_id=pad)
    scorer = classifier.load("r", Classifier(kind="classifier", source=str(folder), max_length=32), [], "cpu")
    assert scorer.score([""] * 2, texts).values.tolist() == pytest.approx(expected, abs=1e-5)
    edit_json(copy / "config.json", pad_token_id=pad * 100)
    model = models.load_base(copy, PLAIN)
    assert model.config.pad_token_id is None and model.get_input_embeddings().padding_idx is None


# Contexts.


@pytest.mark.parametrize("key", ["max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len"])
def test_a_context_goes_by_many_names(copy: Path, key: str) -> None:
    edit_json(copy / "config.json", max_position_embeddings=None)
    edit_json(copy / "config.json", **{key: 96})
    assert inspect_model(copy).context == 96


@pytest.mark.parametrize("name", ["bloom", "mamba"])
def test_a_model_without_a_bound_has_a_default_context(tmp_path: Path, name: str) -> None:
    """It is loaded, answers, and is trained where its kind of layer takes an adapter."""
    folder = tiny_models.save_unbounded(tmp_path, name)
    answerer = answering.load(Base(folder, PLAIN), [], "policy", Prompting(["a", "b"], Conditioning()))
    assert answerer.context == 2048 and inspect_model(folder).context is None
    torch.manual_seed(0)
    rollout = answerer.draw(["My lamp", "It"], Decoding(4, 1.0, 1.0), ["a", "b"])
    assert rollout.response_mask.shape[0] == 2
    targets = ["query_key_value"] if name == "bloom" else ["in_proj"]
    trained = models.add_adapter(models.load_base(folder, PLAIN), Lora(rank=2, alpha=4, targets=targets), 0)
    ids, mask = encode(["My lamp is good"], tiny_models.tokenizer(), 64)
    trained(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
    assert all(p.grad is not None for n, p in trained.named_parameters() if "lora_B" in n)
    declared = tiny_models.edit_json(folder / "config.json", seq_length=77)
    assert models.context_length(models.load_base(declared, PLAIN)) == 77


# Numbers.


@pytest.mark.parametrize(("spec", "other"), [(NF4, INT8), (INT8, NF4)], ids=["nf4", "int8"])
def test_weights_that_are_stored_quantised_are_taken_as_they_are_or_not_at_all(
    base: Path, tmp_path: Path, spec: Model, other: Model
) -> None:
    made, stored = models.load_base(base, spec), tmp_path / "stored"
    made.save_pretrained(stored)
    shutil.copy(base / "tokenizer.json", stored)
    shutil.copy(base / "tokenizer_config.json", stored)
    found = models.load_base(stored, spec)
    assert inspect_model(stored).quantisation == spec.quantisation
    assert torch.equal(logits(found), logits(made))
    take(spec.model_copy(update={"source": str(stored)}), tmp_path)  # as stage base does without fine-tuning
    assert torch.equal(logits(models.load_base(tmp_path, spec)), logits(made))
    q = spec.quantisation
    message = (
        f"stored quantised, {q}, but model.quantisation is {{}}.; set model.quantisation: {q}, or name the unquant"
    )
    refused(lambda: models.load_base(stored, PLAIN), message.format("none"))
    refused(lambda: models.load_base(stored, other), message.format(other.quantisation))
    refused(lambda: take(PLAIN.model_copy(update={"source": str(stored)}), tmp_path), message.format("none"))
    refused(
        lambda: models.load_base(stored, spec, quantise=False), "but fine-tuning .model.sft. needs full ones.; name"
    )


def test_a_quantisation_that_is_not_read(copy: Path, tmp_path: Path) -> None:
    edit_json(copy / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    refused(
        lambda: models.load_base(copy, NF4), "stored quantised, gptq, but model.quantisation is nf4.; name the unquant"
    )
    reward = tiny_rewards.bert(tmp_path / "bert")
    edit_json(reward / "config.json", quantization_config={"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"})
    spec = Classifier(kind="classifier", source=str(reward), max_length=32)
    refused(lambda: classifier.load("r", spec, [], "cpu"), "bert .its weights are stored quantised, nf4.; name the unq")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is refused without a GPU")
def test_float16_needs_a_gpu(base: Path, tmp_path: Path) -> None:
    half = Model(source="x", dtype="float16")
    refused(
        lambda: models.load_base(base, half), "model.dtype: float16 is computed on GPUs only, and there is none here"
    )
    spec = Classifier(kind="classifier", source=str(tiny_rewards.bert(tmp_path)), dtype="float16", max_length=32)
    refused(lambda: classifier.load("r", spec, [], "cpu"), "rewards.r.dtype: float16 is computed on GPUs only")


# Adapters with embeddings of their own.


def test_an_adapter_with_an_added_token_resizes_the_base(base: Path, tmp_path: Path) -> None:
    """Saved as PEFT saves it after a token was added: 321 embeddings where the base has 320."""
    folder, expected = tiny_models.save_resized_adapter(tmp_path / "adapter", base)
    answerer = answering.load(Base(base, PLAIN), [folder], "policy", Prompting(["a", "b"], Conditioning()))
    assert len(answerer.model.get_input_embeddings().weight) == 321
    assert answerer.tokenizer.convert_tokens_to_ids("<added>") == 320
    assert torch.equal(logits(answerer.model), expected)
    assert expected.shape[-1] == 321


def test_an_adapter_for_more_tokens_without_their_embeddings(copy: Path, tmp_path: Path) -> None:
    """Embeddings without an output layer, on a base that does not share them; then none at all."""
    edit_json(copy / "config.json", tie_word_embeddings=False)
    edit_tensors(copy / "model.safetensors", lambda t: {**t, "lm_head.weight": t["model.embed_tokens.weight"].clone()})
    folder, expected = tiny_models.save_resized_adapter(tmp_path / "adapter", copy)
    path = folder / "adapter_model.safetensors"

    def load() -> torch.nn.Module:
        return models.load_adapters(models.load_base(copy, PLAIN), {"x": folder})

    assert torch.equal(logits(load()), expected)
    edit_tensors(path, without("lm_head.weight"))
    refused(load, "it has embeddings for 321 tokens, the base for 320, and .*lm_head.* differ")
    edit_tensors(path, without("embed_tokens.weight"))
    edit_json(folder / "adapter_config.json", target_modules=["q_proj", "v_proj", "lm_head"])
    lora = {"lora_A.weight": torch.zeros(4, 32), "lora_B.weight": torch.zeros(321, 4)}
    edit_tensors(path, lambda t: {**t, **{f"base_model.model.lm_head.{name}": v for name, v in lora.items()}})
    refused(load, r"lm_head.lora_B.weight \(321, 4\) for \(320, 4\)")
