"""Tiny language models and tokenizers on disk for tests of the stages: random weights, a few hundred tokens."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
)

from moa.experiment.keys import Lora, Scratch
from moa.lm import scratch
from moa.lm.models import ValueHeads, add_adapter, save_policy
from moa.tasks import reviews

SCRATCH = Scratch(vocabulary=320, hidden=32, layers=2, heads=2, feed_forward=64, context=128)
LORA = Lora(rank=4, alpha=8, dropout=0.0)
CHAT = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}[assistant]"
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHAT
)


@cache
def texts() -> tuple[reviews.Review, ...]:
    """60 reviews of the embedded corpus."""
    return tuple(reviews.generate(60, 0, 0, 0, 0).texts)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, as experiments from scratch have it."""
    return scratch.train_tokenizer([t.prompt + t.response for t in texts()], SCRATCH)


@cache
def sentencepiece() -> PreTrainedTokenizerFast:
    """Like Llama's: a space is put before every text and the first one is taken off in decoding; BOS in front."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")  # no token holds two words
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False)
    made.train_from_iterator([t.prompt + t.response for t in texts()], trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    state = json.loads(made.to_str())
    # bytes are ordinary tokens
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] not in bytes_]
    made = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
        padding_side="left",
    )


def model(seed: int = 0) -> LlamaForCausalLM:
    """Random weights, large enough to make different prompts give different tokens."""
    made = scratch.new_model(SCRATCH, tokenizer(), seed).eval()
    for parameter in made.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(5)
    return made


def save_base(folder: Path, seed: int = 0) -> Path:
    """Save model and tokenizer as stage base does."""
    model(seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_adapter(
    folder: Path,
    *,
    seed: int,
    name: str = "policy",
    weights: tuple[float, ...] | None = None,
    conditioned: bool = False,
) -> Path:
    """Save a policy whose adapter is random and large, so that it matters."""
    policy = add_adapter(model(), LORA, seed)
    for key, parameter in policy.named_parameters():
        if "lora_B" in key:
            parameter.data.normal_(0, 0.3)
    folder.mkdir(parents=True)
    card = {"policy": name, "weights": weights, "objectives": ["a", "b"], "conditioned": conditioned}
    save_policy(folder, policy, ValueHeads(32, 2), ["a", "b"], card)
    return folder


def save_unbounded(folder: Path, name: str) -> Path:
    """Save a model whose config declares no context, with our tokenizer: 'bloom' or 'mamba'."""
    torch.manual_seed(0)
    ids = {"vocab_size": len(tokenizer()), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    made = {
        "bloom": lambda: BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=2, **ids)),
        "mamba": lambda: MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, **ids)),
    }
    made[name]().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_resized_adapter(folder: Path, base: Path) -> tuple[Path, torch.Tensor]:
    """Save an adapter as PEFT does after a token was added, with its tokenizer; return its logits (1, 4, V) too."""
    known = PreTrainedTokenizerFast.from_pretrained(base)
    known.add_tokens(["<added>"])
    model = LlamaForCausalLM.from_pretrained(base).eval()
    torch.manual_seed(0)
    model.resize_token_embeddings(len(known))
    policy = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")).eval()
    for key, parameter in policy.named_parameters():
        if "lora_B" in key:
            parameter.data.normal_(0, 0.3)
    policy.save_pretrained(folder, save_embedding_layers=True)
    known.save_pretrained(folder)
    ids = known("My lamp is good and useful", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return folder, policy(input_ids=ids).logits[:, -5:-1]


def edit_json(path: Path, **changes: Any) -> Path:
    """Change keys of a JSON file; None takes a key away."""
    found = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
    return path.parent


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """Change the tensors of a safetensors file."""
    save_file({k: t.contiguous() for k, t in change(load_file(path)).items()}, path, metadata={"format": "pt"})
    return path.parent


def length(prompts: list[str], responses: list[str]) -> list[float]:
    """A reward without bounds: characters."""
    return [float(len(r)) for r in responses]
