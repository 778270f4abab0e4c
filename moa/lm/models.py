"""The policy: a base LM (4-bit or not), LoRA adapters on it, and one value head per advantage stream.

The reference policy is the base with its adapters switched off, so that no second copy is in memory and the KL is
exactly 0 before the first update (LoRA's B starts at 0).
"""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from moa.errors import MoaError
from moa.experiment.keys import Lora, Model
from moa.lm import inspect, loading
from moa.lm.adapters import LoraConfig, PeftModel, get_peft_model_state_dict, put, set_peft_model_state_dict
from moa.lm.inspect_adapter import adapter_folder
from moa.lm.precision import device, differentiable, number_format, quantisation_config

log = logging.getLogger("moa")
SETS = ("target_modules", "exclude_modules")
disable_progress_bar()  # logs are files; stages report their own progress
# PEFT 0.21 asks for it
warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning)


def load_tokenizer(source: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer that can pad and end.

    Without a pad token the end token pads. It is masked there, so that padding is never learnt.

    Raises:
        MoaError: there is none, it needs code of its own, or the model beside it lacks embeddings for its tokens.
    """
    origin = loading.Origin(source, revision, f"model {loading.at(source, revision)}: no usable tokenizer")
    tokenizer = loading.tokenizer(origin, padding_side="left")
    if tokenizer.eos_token_id is None:
        raise MoaError(
            f"model {source}: the tokenizer has no end token, so a response could never end; set eos_token in"
            " tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        log.info("tokenizer of %s has no pad token: its end token %r pads", source, tokenizer.eos_token)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(
    source: str | Path, model: Model, *, revision: str | None = None, quantise: bool = True, stored_dtype: bool = False
) -> PreTrainedModel:
    """Load a causal LM from safetensors onto the device, in `model.dtype` or as it is stored.

    Weights that are stored quantised are taken as they are where `model.quantisation` says so.

    Args:
        source: folder or hub id.
        model: how it is loaded.
        revision: commit of a hub id.
        quantise: whether weights that are stored in full are quantised; false is for training all of them.
        stored_dtype: whether they stay as they are stored, quantised ones too.

    Raises:
        MoaError: files are missing or damaged, hold other tensors than config.json says, or would run foreign code.
    """
    dtype = number_format(model.dtype, "model.dtype")
    origin = loading.Origin(source, revision, f"model {loading.at(source, revision)}: cannot be loaded")
    stored = inspect.inspect_model(loading.fetch(origin), origin.name)
    whole = stored.quantisation == "none"
    training = not (quantise or stored_dtype)
    inspect.check_quantisation(stored, "none" if training else model.quantisation, training)
    settings: dict[str, Any] = {"dtype": "auto" if stored_dtype else dtype}
    config = quantisation_config(model) if quantise or not whole else None
    if config is not None:
        settings["device_map"] = {"": device()}
    if config is not None and whole:  # given at all, Transformers forgets how weights are stored
        settings["quantization_config"] = config
    if (
        not whole and "quantization_config" in stored.config
    ):  # weights stay as they are stored, what is computed has our precision
        kept = stored.config["quantization_config"] | {"bnb_4bit_compute_dtype": model.dtype}
        stored = replace(stored, config=stored.config | {"quantization_config": kept})
    loaded = loading.causal_lm(stored, **settings)
    loaded = loaded.to(device()) if config is None else differentiable(loaded)
    # A checkpoint's own sampling defaults must not leak in; where its turn ends must.
    loaded.generation_config = type(loaded.generation_config)(eos_token_id=list(stored.end_tokens) or None)
    loaded.name_or_path = loaded.config.name_or_path = str(source)
    loaded.config.use_cache = True
    return loaded.eval()


def context_length(model: PreTrainedModel) -> int:
    """Return how many tokens the model reads: what its config declares, or a default for a model without a bound."""
    declared = inspect.context(model.config.get_text_config().to_dict())
    if declared is None:
        log.info("%s declares no bound on its context: %d tokens", model.name_or_path, inspect.UNBOUNDED)
    return declared or inspect.UNBOUNDED


def lora_config(lora: Lora) -> LoraConfig:
    """Return PEFT's configuration of section `model.lora`."""
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        bias="none",
        task_type="CAUSAL_LM",
    )


def add_adapter(base: PreTrainedModel, lora: Lora, seed: int) -> PeftModel:
    """Return the base with a fresh adapter whose product is 0; the seed fixes A."""
    torch.manual_seed(seed)
    try:
        model = put(base, lora_config(lora))
    except ValueError as error:
        raise MoaError(
            f"model.lora.targets {lora.targets}: {loading.first_line(error)}; name there the layers that get an adapter"
        ) from error
    without_dropout(model)
    model.eval()
    return model


def without_dropout(model: nn.Module) -> None:
    """Switch dropout off for good: it would make the ratio differ from 1 before the first update."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def train_in_float32(model: nn.Module) -> None:
    """Put what is trained into float32: TRL keeps a quantised base's adapter in bfloat16, which loses small updates."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@contextmanager
def recomputing(model: PeftModel) -> Iterator[None]:
    """Let gradient checkpointing act while the block runs: Transformers checkpoints in training mode only.

    Outside, the model is in evaluation mode, because checkpointing would switch off the cache that sampling needs.
    """
    model.train(bool(model.is_gradient_checkpointing))
    try:
        yield
    finally:
        model.eval()


def broken_parameter(*modules: nn.Module) -> str | None:
    """Return the name of the first trained parameter that holds NaN or infinity; None where all are finite."""
    named = [(name, p.detach()) for module in modules for name, p in module.named_parameters() if p.requires_grad]
    # The largest magnitudes say it in one look (NaN wins every comparison); only where it is so is every tensor asked.
    if not named or bool(torch.nn.utils.get_total_norm([p for _, p in named], norm_type=torch.inf).isfinite()):
        return None
    return next(name for name, p in named if not torch.isfinite(p).all())


class ValueHeads(nn.Module):
    """One linear value head per stream on the last hidden state; starts at zero, kept in float32."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, heads)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (B, T, D) to (H, B, T) float32."""
        values: Tensor = self.linear(hidden.float())
        return values.movedim(-1, 0)


def hidden_size(model: PreTrainedModel | PeftModel) -> int:
    return int(model.config.get_text_config().hidden_size)


def output_matrix(model: PeftModel) -> Tensor:
    """Return W (V, D), which makes logits of the last hidden state; adapters never touch it."""
    return cast(Tensor, model.get_output_embeddings().weight).detach()


def positions(mask: Tensor) -> Tensor:
    """Return position ids (B, S) that count from each row's first real token."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


@contextmanager
def last_hidden(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what the output layer reads while the block runs.

    Asking the model for hidden states would keep every layer's.
    """
    seen: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, read: seen.append(read[0]))
    try:
        yield seen
    finally:
        hook.remove()


def forward(model: nn.Module, ids: Tensor, mask: Tensor, response: int) -> tuple[Tensor, Tensor]:
    """Run the model once over prompt and response.

    Args:
        model: causal LM, with or without adapters.
        ids: (B, P + T) tokens, prompt left-padded, response right-padded.
        mask: (B, P + T).
        response: T.

    Returns:
        logits (B, T, V) that predict each response token, and the hidden states (B, T, D) they come from.
    """
    with last_hidden(model) as seen:
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions(mask),
            use_cache=False,
            logits_to_keep=response + 1,
        ).logits
    return logits[:, -response - 1 : -1], seen[0][:, -response - 1 : -1]


def save_policy(
    folder: Path, model: PeftModel, heads: ValueHeads | None, streams: Sequence[str], card: dict[str, Any]
) -> None:
    """Write adapter (plain PEFT layout), value heads and policy.json into an existing folder.

    `heads` is None where the method has none.
    """
    # Embeddings are never trained; PEFT's "auto" would ask the hub whether they were.
    model.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
    (folder / "adapter" / "README.md").unlink(missing_ok=True)  # PEFT's stub card says nothing
    _sort(folder / "adapter" / inspect.ADAPTER)
    if heads is not None:
        save_file(
            {f"{name}.{part}": _row(heads, i, part) for i, name in enumerate(streams) for part in ("weight", "bias")},
            folder / "value_heads.safetensors",
        )
    (folder / "policy.json").write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _sort(path: Path) -> None:
    """Put the layers that an adapter targets in order: PEFT keeps them as a set, which has another order every time."""
    config = inspect.read_json(path)
    config |= {key: sorted(value) for key, value in config.items() if key in SETS and isinstance(value, list)}
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _row(heads: ValueHeads, index: int, part: str) -> Tensor:
    parameter = heads.linear.weight if part == "weight" else heads.linear.bias
    return parameter[index : index + 1].detach().cpu().contiguous()


def fetch_adapter(source: str, revision: str | None) -> Path:
    """Return an adapter's local folder: itself, or its files from the hub."""
    name = f"adapter {loading.at(source, revision)}: cannot be had from the hub"
    return loading.fetch(loading.Origin(source, revision, name, "`adapter`, `revision`"))


def load_adapters(base: PreTrainedModel, folders: dict[str, Path]) -> PeftModel:
    """Return the base with every adapter of `folders` (name -> folder) loaded, none merged; safetensors only."""
    model: PreTrainedModel | PeftModel = base
    for name, folder in folders.items():
        model = loading.adapter(model, name, adapter_folder(folder))
    if not isinstance(model, PeftModel):
        raise MoaError("no adapter to load")
    return model.eval()


def own_tokenizer(model: PeftModel, folder: Path, rows: int) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer that came with an adapter's embeddings, and changed their number, `rows`.

    None where the base's own tokenizer goes on.
    """
    source, now = adapter_folder(folder), len(model.get_input_embeddings().weight)
    if now == rows or not (source / "tokenizer_config.json").is_file():
        return None
    tokenizer = load_tokenizer(source)
    loading.check_tokens(tokenizer, now, f"{source}: no usable tokenizer")
    return tokenizer


def restore_adapter(model: PeftModel, path: Path) -> None:
    """Load adapter weights from a checkpoint file into the active adapter; they must be exactly its own."""
    found = load_file(path, device=str(device()))
    loading.check_tensors(get_peft_model_state_dict(model), found, str(path))
    set_peft_model_state_dict(model, found)
