"""The policy: a base LM (4-bit or not), LoRA adapters on it, and one value head per advantage stream.

The reference policy is the base with its adapters switched off, so that no second copy is in memory and the KL is
exactly 0 before the first update (LoRA's B starts at 0).
"""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from moa.errors import MoaError
from moa.experiment.keys import Lora, Model
from moa.store.provenance import warn_unpinned

log = logging.getLogger("moa")
disable_progress_bar()  # logs are files; stages report their own progress
# PEFT 0.21 asks for it
warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning)


def device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _at(source: str | Path, revision: str | None) -> str:
    return f"{source} at revision {revision}" if revision else str(source)


def load_tokenizer(source: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer that can pad and end.

    Without a pad token the end token pads. It is masked there, so that padding is never learnt.
    """
    if not Path(source).exists():
        warn_unpinned(f"model {source}", revision)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, revision=revision, padding_side="left"
        )
    except (OSError, ValueError) as error:
        raise MoaError(
            f"model {_at(source, revision)}: no usable tokenizer ({_first_line(error)}); check model.source and"
            " model.revision"
        ) from error
    if tokenizer.eos_token_id is None:
        raise MoaError(
            f"model {source}: the tokenizer has no end token, so a response could never end; set eos_token in"
            " tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        log.info("tokenizer of %s has no pad token: its end token %r pads", source, tokenizer.eos_token)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def quantisation(model: Model) -> BitsAndBytesConfig | None:
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
        bnb_4bit_compute_dtype=getattr(torch, model.dtype),
    )


def load_base(
    source: str | Path, model: Model, *, revision: str | None = None, quantise: bool = True, stored_dtype: bool = False
) -> PreTrainedModel:
    """Load a causal LM from safetensors onto the device, in `model.dtype` or as it is stored; no remote code.

    Raises:
        MoaError: the model, its revision or its safetensors are missing.
    """
    config = quantisation(model) if quantise else None
    try:
        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision,
            dtype="auto" if stored_dtype else getattr(torch, model.dtype),
            quantization_config=config,
            device_map={"": device()} if config is not None else None,
            use_safetensors=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise MoaError(
            f"model {_at(source, revision)}: cannot be loaded ({_first_line(error)}); check model.source,"
            " model.revision and that it holds safetensors"
        ) from error
    loaded = _differentiable(loaded) if config is not None else loaded.to(device())
    # A checkpoint's own sampling defaults must not leak in; where its turn ends must.
    loaded.generation_config = type(loaded.generation_config)(eos_token_id=loaded.generation_config.eos_token_id)
    loaded.config.use_cache = True
    return loaded.eval()


def _differentiable(model: PreTrainedModel) -> PreTrainedModel:
    """Keep a 4-bit base's layers differentiable on the CPU.

    With AVX512-BF16, bitsandbytes 0.50 repacks a layer at its first forward pass without gradients, for a kernel that
    is coarser, wants sizes that are multiples of 64, and silently cuts the gradient of every later pass in eval mode.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model


def context_length(model: PreTrainedModel) -> int:
    """Return how many tokens the model can read."""
    return int(model.config.get_text_config().max_position_embeddings)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]


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
        model = get_peft_model(base, lora_config(lora))
    except ValueError as error:
        raise MoaError(f"model.lora.targets {lora.targets}: {_first_line(error)}") from error
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
    seen: list[Tensor] = []
    # Asking the model for hidden states would keep every layer's; its output layer reads the last one alone.
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, read: seen.append(read[0]))
    try:
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions(mask),
            use_cache=False,
            logits_to_keep=response + 1,
        ).logits
    finally:
        hook.remove()
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
    if heads is not None:
        save_file(
            {f"{name}.{part}": _row(heads, i, part) for i, name in enumerate(streams) for part in ("weight", "bias")},
            folder / "value_heads.safetensors",
        )
    (folder / "policy.json").write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _row(heads: ValueHeads, index: int, part: str) -> Tensor:
    parameter = heads.linear.weight if part == "weight" else heads.linear.bias
    return parameter[index : index + 1].detach().cpu().contiguous()


def fetch_adapter(source: str, revision: str | None) -> Path:
    """Return an adapter's local folder: itself, or its card and safetensors from the hub."""
    if Path(source).expanduser().exists():
        return Path(source).expanduser()
    warn_unpinned(f"adapter {source}", revision)
    try:
        return Path(
            snapshot_download(
                source, revision=revision, allow_patterns=["adapter_config.json", "adapter_model.safetensors"]
            )
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        what = f"adapter {_at(source, revision)}: cannot be had from the hub ({_first_line(error)})"
        raise MoaError(f"{what}; check `adapter`, `revision` and the network, or name a local folder") from error


def adapter_folder(folder: Path) -> Path:
    """Return where a policy folder, or a plain PEFT folder, keeps its adapter."""
    for candidate in (folder / "adapter", folder):
        if (candidate / "adapter_config.json").exists():
            return candidate
    raise MoaError(
        f"{folder}: no adapter here (adapter_config.json is missing); give a policy folder of results/<task>/policies"
        " or a PEFT adapter"
    )


def load_adapters(base: PreTrainedModel, folders: dict[str, Path]) -> PeftModel:
    """Return the base with every adapter of `folders` (name -> folder) loaded, none merged; safetensors only."""
    model: PeftModel | None = None
    for name, folder in folders.items():
        source = adapter_folder(folder)
        if not (source / "adapter_model.safetensors").exists():
            raise MoaError(f"{source}: adapter_model.safetensors is missing; adapters are read from safetensors only")
        try:
            if model is None:
                model = PeftModel.from_pretrained(base, str(source), adapter_name=name)
            else:
                model.load_adapter(str(source), adapter_name=name)
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise MoaError(
                f"{source}: the adapter does not fit the base ({_first_line(error)}); it was trained on another model,"
                " or its files are damaged"
            ) from error
    if model is None:
        raise MoaError("no adapter to load")
    return model.eval()


def restore_adapter(model: PeftModel, path: Path) -> None:
    """Load adapter weights from a checkpoint file into the active adapter."""
    set_peft_model_state_dict(model, load_file(path, device=str(device())))
