"""What a folder with a LoRA adapter holds, read from its files alone: no torch, no weights, and nothing is run.

PEFT imports what some keys of adapter_config.json name, and fetches what others do. Only keys that say what the
adapter's tensors mean reach it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moa.errors import MoaError
from moa.lm.inspect import ADAPTER, read_json, tensors

ADAPTER_WEIGHTS = "adapter_model.safetensors"
# What the tensors of an adapter mean, and what says nothing about them.
KEYS = frozenset(
    {
        *("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "fan_in_fan_out", "bias"),
        *("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform"),
        *("layers_pattern", "target_parameters", "trainable_token_indices", "ensure_weight_tying", "lora_bias"),
    }
)
NOTES = frozenset(
    {
        *("peft_type", "task_type", "inference_mode", "init_lora_weights", "base_model_name_or_path", "revision"),
        *("peft_version", "auto_mapping", "loftq_config", "eva_config", "megatron_core", "qalora_group_size"),
    }
)
# How A and B began; other ways (PiSSA, OLoRA, CorDA, LoftQ) change the base's own weights.
BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Adapter:
    """A folder with a LoRA adapter.

    Attributes:
        settings: what of adapter_config.json decides the adapter; nothing in it names code, a file or a model.
        shapes: of all tensors, by name.
    """

    folder: Path
    settings: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]


def adapter_folder(folder: Path) -> Path:
    """Return where a policy folder, or a plain PEFT folder, keeps its adapter."""
    for candidate in (folder / "adapter", folder):
        if (candidate / ADAPTER).exists():
            return candidate
    raise MoaError(
        f"{folder}: no adapter here ({ADAPTER} is missing); give a policy folder of results/<task>/policies or a PEFT"
        " adapter"
    )


def inspect_adapter(folder: Path) -> Adapter:
    """Return what a folder with a LoRA adapter holds.

    Raises:
        MoaError: files that are missing, damaged or pickled, another kind of adapter, or settings that would change
            the base or make PEFT import or fetch something.
    """
    path = folder / ADAPTER
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise MoaError(f"{folder}: {ADAPTER_WEIGHTS} is missing; adapters are read from safetensors only")
    config = read_json(path)
    merge = "merge it into its model where you trust it, and name that as `model`"
    if config.get("peft_type") != "LORA":
        raise MoaError(f"{path}: peft_type is {config.get('peft_type')!r}, but only LORA adapters are read; {merge}")
    if config.get("init_lora_weights", True) not in BEGINNINGS:
        raise MoaError(
            f"{path}: init_lora_weights is {config['init_lora_weights']!r}, which changes the base under the adapter;"
            f" convert it to a plain LoRA adapter, or {merge}"
        )
    unread = sorted(key for key in set(config) - KEYS - NOTES if config[key])
    if unread:
        raise MoaError(f"{path}: {unread[0]} is {config[unread[0]]!r}, which is not read; {merge}")
    settings = {key: value for key, value in config.items() if key in KEYS}
    shapes = tensors(folder / ADAPTER_WEIGHTS, f"{folder}: the adapter does not fit the base")
    ranks = [shape[0] for key, shape in shapes.items() if ".lora_A." in key and shape]
    if not settings.get("rank_pattern") and ranks and settings.get("r", 8) != max(ranks):
        raise MoaError(
            f"{path}: r is {settings.get('r', 8)}, but the adapter's tensors have rank {max(ranks)}; correct r"
        )
    return Adapter(folder, settings, shapes)
