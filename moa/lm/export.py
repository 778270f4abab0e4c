"""Policies as folders that plain Transformers and PEFT read: an adapter, or a model with the adapter merged into it.

A soup is exact in both: the adapters' factors stand side by side, so that their product is the sum of the products,

    [p_1 s_1 B_1 ... p_K s_K B_K] [A_1; ...; A_K] = sum_k p_k s_k B_k A_k
"""

import json
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from moa.lm import inspect, loading, models
from moa.lm.answering import Base
from moa.lm.conversation import Reading
from moa.lm.generation import Decoding, end_tokens
from moa.lm.inspect import Stored
from moa.lm.inspect_adapter import ADAPTER_WEIGHTS, adapter_folder, inspect_adapter

SECOND = re.compile(r"\.lora_(embedding_)?B(\.|$)")  # names of the factors on the left of the product


def write_adapter(folder: Path, shares: Mapping[Path, float], base: str, revision: str | None = None) -> None:
    """Write one adapter into an existing folder: a policy's own, or the soup of several by their shares.

    Its config names the base that it goes on, a folder or a hub id with its commit.

    Raises:
        MoaError: an adapter is missing or damaged.
    """
    parts = {adapter_folder(policy): share for policy, share in shares.items() if share > 0}
    for part in parts:
        inspect_adapter(part)
    first = next(iter(parts))
    config = inspect.read_json(first / inspect.ADAPTER)
    if len(parts) == 1:
        shutil.copyfile(first / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
    else:
        tensors, rank = _soup(parts)
        config |= {"r": rank, "lora_alpha": rank}
        save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config |= {"base_model_name_or_path": base, "revision": revision, "inference_mode": True}
    (folder / inspect.ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _soup(parts: Mapping[Path, float]) -> tuple[dict[str, torch.Tensor], int]:
    """Return the tensors of a soup, float32, and its rank; the policies of a run have the same layers."""
    found: dict[str, list[torch.Tensor]] = {}
    ranks = []
    for part, share in parts.items():
        config = inspect.read_json(part / inspect.ADAPTER)
        ranks.append(int(config["r"]))
        for name, tensor in load_file(part / ADAPTER_WEIGHTS).items():
            scale = share * config["lora_alpha"] / config["r"] if SECOND.search(name) else 1.0
            found.setdefault(name, []).append(scale * tensor.float())
    beside = {name: int(SECOND.search(name) is not None) for name in found}
    return {name: torch.cat(t, beside[name]).contiguous() for name, t in found.items()}, sum(ranks)


def write_merged(folder: Path, base: Base, shares: Mapping[Path, float], dtype: str) -> None:
    """Write the base with an adapter, or a soup, merged into it: computed in float32, rounded once to `dtype`.

    Without shares it is the base alone. A quantised policy is merged into the weights from which its base was
    quantised.

    Raises:
        MoaError: base or adapter cannot be loaded, or do not belong together.
    """
    whole = base.model.model_copy(update={"dtype": "float32", "quantisation": "none"})
    model: Any = models.load_base(base.source, whole, revision=base.revision)
    if shares:
        with tempfile.TemporaryDirectory() as place:
            write_adapter(Path(place), shares, str(base.source))
            _untie(model, inspect_adapter(Path(place)).shapes)
            model = models.load_adapters(model, {"default": Path(place)}).merge_and_unload(safe_merge=True)
    model.config.use_cache = True
    model.to(getattr(torch, dtype)).save_pretrained(folder)


def _untie(model: PreTrainedModel, shapes: Collection[str]) -> None:
    """Give the output layer a matrix of its own where it shares the embeddings' and an adapter changes one of them.

    Merged into the shared matrix, the product would act in both places.
    """
    ends = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    names = [name for name, module in model.named_modules() if id(module) in ends]
    if model.config.tie_word_embeddings and any(f".{name}.lora_" in key for name in names for key in shapes):
        head = model.get_output_embeddings()
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False


def stored_base(base: Base) -> Stored:
    """Return what the files of the base say, those of a hub's fetched."""
    origin = loading.Origin(base.source, base.revision, f"model {loading.at(base.source, base.revision)}")
    return inspect.inspect_model(loading.fetch(origin), origin.name)


def generation(stored: Stored, reading: Reading, decoding: Decoding) -> GenerationConfig:
    """Return the decoding as Transformers has it; an end token cannot come first."""
    made = reading.tokenizer
    declared = SimpleNamespace(generation_config=GenerationConfig(eos_token_id=list(stored.end_tokens) or None))
    return GenerationConfig(
        do_sample=True,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        top_k=0,
        min_new_tokens=1,
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=end_tokens(cast(nn.Module, declared), made, decoding.stop),
        pad_token_id=made.pad_token_id,
        bos_token_id=made.bos_token_id,
    )
