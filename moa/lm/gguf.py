"""GGUF, the file that llama.cpp reads: Transformers dequantises it into a model and a tokenizer like any other."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase

from moa.errors import MoaError
from moa.lm import inspect, loading

MAGIC = b"GGUF"
AGAIN = "it may be cut off, damaged, or of an architecture that Transformers does not read from GGUF; get it again"


def is_gguf(path: Path) -> bool:
    """Return whether a file begins as GGUF does."""
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def read(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model, its weights dequantised to `dtype`, and the tokenizer with chat template and special tokens.

    Raises:
        MoaError: the file is not GGUF, cut off, damaged, one part of several, or of an unknown architecture.
    """
    name = f"{path}: cannot be read"
    if not is_gguf(path):
        raise MoaError(f"{path}: not a GGUF file, which begins with the letters GGUF; get it again")
    settings: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False, "local_files_only": True}
    with loading.reading(name, AGAIN), tempfile.TemporaryDirectory() as place:
        (Path(place) / path.name).symlink_to(path.resolve())  # what else lies beside it is not found
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place, **settings)
        model, report = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=dtype,
            quantization_config=GgufConfig(dequantize=True),  # packed, it would need kernels of the hub
            attn_implementation="sdpa",
            output_loading_info=True,
            **settings,
        )
    loading.check_report(report, name)
    loading.check_finite(model.state_dict(), name)
    # Dequantised, it is a model like any other; while these stand there, Transformers would not write it.
    model.hf_quantizer, model.is_quantized = None, False
    for key in ("quantization_config", "_model_name_or_path"):
        vars(model.config).pop(key, None)
    tokenizer.init_kwargs.pop("local_files_only", None)
    tokenizer.model_max_length = inspect.context(model.config.get_text_config().to_dict()) or inspect.UNBOUNDED
    return model, tokenizer


def drop_foreign_tokens(path: Path) -> None:
    """Take special tokens out of a tokenizer.json that no embedding stands for.

    Transformers 5.23 gives a byte-level vocabulary GPT-2's <|endoftext|>, also where the file has none.
    """
    state = inspect.read_json(path)
    size = len(state["model"]["vocab"])
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < size]
    path.write_text(json.dumps(state, ensure_ascii=False, indent=2), encoding="utf-8")
