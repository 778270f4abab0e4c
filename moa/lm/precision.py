"""In which numbers a model is kept and computed, and where: device, number format, quantisation."""

import logging
from typing import cast

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from moa.errors import MoaError
from moa.experiment.keys import Model


def device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def number_format(dtype: str, key: str) -> torch.dtype:
    """Return the number format of that name; `key` is where the experiment names it.

    Raises:
        MoaError: float16 without a GPU.
    """
    if dtype == "float16" and device().type != "cuda":
        raise MoaError(
            f"{key}: float16 is computed on GPUs only, and there is none here: a CPU is slow in it, and loses more;"
            " set float32, or bfloat16 for half the memory"
        )
    return cast(torch.dtype, getattr(torch, dtype))


def quantisation_config(model: Model) -> BitsAndBytesConfig | None:
    """Return bitsandbytes' settings: NF4 with double quantisation, or int8 (the papers' setting)."""
    if model.quantisation == "none":
        return None
    if model.quantisation == "int8":
        # it warns of every layer of every pass that inputs become float16
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=number_format(model.dtype, "model.dtype"),
    )


def differentiable(model: PreTrainedModel) -> PreTrainedModel:
    """Keep a 4-bit base's layers differentiable on the CPU.

    With AVX512-BF16, bitsandbytes 0.50 repacks a layer at its first forward pass without gradients, for a kernel that
    is coarser, wants sizes that are multiples of 64, and silently cuts the gradient of every later pass in eval mode.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model
