"""What a folder with a LoRA adapter holds, read from its files alone: no torch, no weights, and nothing is run.

PEFT imports what some keys of adapter_config.json name, and fetches what others do. Only keys that say what the
adapter's tensors mean reach it, and no regular expression: matching one may never end.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moa.errors import MoaError, short
from moa.lm.inspect import ADAPTER, AGAIN, is_count, read_json, tensors, unfit
from moa.store.files import verify

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
LAYER = re.compile(r"base_model\.model\.(.+)\.lora_(?:embedding_)?[AB](?:\.weight)?")  # names of an adapter's tensors
EXPRESSIONS = ("target_modules", "exclude_modules", "layers_pattern")  # a text among them is a regular expression
NAME = re.compile(r"[\w.^$\\-]+")  # what PEFT matches as an expression, too, but which then repeats nothing
STRONGEST = 1000.0  # alpha / rank; with more the base would not be heard


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
    for written in (folder, folder.parent):  # a policy's folder holds its adapter's
        verify(written)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise MoaError(f"{folder}: {ADAPTER_WEIGHTS} is missing, or no file; adapters are read from safetensors only")
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
    settings |= _layers(path, settings, shapes)
    _check_patterns(path, settings)
    ranks = [shape[0] for key, shape in shapes.items() if re.search(r"\.lora_(embedding_)?A(\.|$)", key) and shape]
    if not ranks:
        raise unfit(f"{folder}: the adapter does not fit the base", f"{ADAPTER_WEIGHTS} holds no LoRA tensor", AGAIN)
    if not settings.get("rank_pattern") and settings.get("r", 8) != max(ranks):
        raise MoaError(
            f"{path}: r is {settings.get('r', 8)}, but the adapter's tensors have rank {max(ranks)}; correct r"
        )
    _check_scales(path, settings, max(ranks))
    return Adapter(folder, settings, shapes)


def _layers(path: Path, settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the layers that the tensors name, in place of expressions that may match them; {} where all are lists.

    Whether the base has just these layers is seen when the adapter is put on it.
    """
    if not any(isinstance(settings.get(key), str) for key in EXPRESSIONS):
        return {}
    if settings.get("target_parameters"):
        raise MoaError(f"{path}: target_parameters beside an expression; list the layers in target_modules instead")
    named = sorted({match[1] for match in map(LAYER.fullmatch, shapes) if match})
    none = dict.fromkeys(("exclude_modules", "layers_pattern", "layers_to_transform"))
    return {**none, "target_modules": named}


def _check_patterns(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse names that PEFT would match as regular expressions of any form."""
    for key in ("rank_pattern", "alpha_pattern", "modules_to_save", "layers_pattern"):
        found = settings.get(key) or []
        for name in found if isinstance(found, dict | list) else [found]:
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise MoaError(f"{path}: {key} has {short(repr(name))}, no name of a layer; name the layers there")


def _check_scales(path: Path, settings: Mapping[str, Any], rank: int) -> None:
    """Refuse ranks that no tensor has, and scales that are no numbers or would drown the base."""
    for key, value in {"r": settings.get("r", 8), **_by_layer(path, settings, "rank_pattern")}.items():
        if not is_count(value) or value > rank:
            said = f"the rank of {short(key)} is {short(repr(value))}, but the adapter's tensors have {rank} at most"
            raise MoaError(f"{path}: {said}; correct it")
    most = STRONGEST * rank
    for key, value in {
        "lora_alpha": settings.get("lora_alpha", 8),
        **_by_layer(path, settings, "alpha_pattern"),
    }.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= most:
            said = (
                f"{short(key)} is {short(repr(value))}, expected a number up to {most:g}, {STRONGEST:g} times the rank"
            )
            raise MoaError(f"{path}: {said}; correct it: so strong an adapter would drown the base")


def _by_layer(path: Path, settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = settings.get(key) or {}
    if not isinstance(found, dict):
        raise MoaError(f"{path}: {key} is {short(repr(found))}, expected an object of layers; correct it")
    return found
