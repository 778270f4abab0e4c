"""The one place where models, tokenizers and adapters are loaded; what was loaded is checked, and no foreign code runs.

- Nothing is asked on standard input, and no code of a folder or of the hub is run: `trust_remote_code=False`.
- A model from the hub is fetched first, data files and safetensors alone (moa/store/hub.py), then treated as a folder.
- Transformers sees a model's weights and a config without what names code; nothing else of the folder is there for it.
- Tensors that are missing, left over, of other shapes, NaN or infinite are refused.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from moa.errors import MoaError
from moa.lm import inspect
from moa.lm.adapters import LoraConfig, PeftModel, get_peft_model_state_dict, light, put
from moa.lm.inspect import Stored
from moa.lm.inspect_adapter import ADAPTER_WEIGHTS, Adapter, inspect_adapter
from moa.store import hub
from moa.store.files import verify
from moa.store.lock import Repository

# Whatever a tokenizer splits texts by: words, signs, lines, and long runs, on which an expression may never end.
PROBE = "The lamp is 12.50 dollars, isn't it?\r\n\tJa! " * 4 + "".join(c * 200 for c in "aA 7.\n")
CODE = ("auto_map", "custom_pipelines")  # keys of a config that name Python files


@dataclass(frozen=True)
class Origin:
    """Where a model, a tokenizer or an adapter comes from.

    Attributes:
        source: folder or hub id.
        revision: commit, branch or tag of a hub id.
        name: how messages about it begin.
        keys: the keys of the experiment that name it.
    """

    source: str | Path
    revision: str | None
    name: str
    keys: str = "model.source, model.revision"

    @property
    def local(self) -> bool:
        """Return whether it is a folder."""
        return Path(self.source).expanduser().is_dir()


def at(source: str | Path, revision: str | None) -> str:
    """Return how messages call a source: with its revision, where one is named."""
    return f"{source} at revision {revision}" if revision else str(source)


def fetch(origin: Origin, weights: bool = True) -> Path:
    """Return the local folder of a model or an adapter: itself, or data files and safetensors from the hub.

    Raises:
        MoaError: no such folder, or the hub does not give it.
    """
    source, remedy = str(origin.source), f"check {origin.keys} and the network, or name a local folder"
    if origin.local:
        folder = Path(source).expanduser()
        if odd := sorted(p.name for p in folder.iterdir() if p.exists() and not (p.is_file() or p.is_dir())):
            raise inspect.unfit(origin.name, f"{odd[0]} is a pipe or a device, not a file", inspect.AGAIN)
        verify(folder, "" if weights else ".safetensors")
        return folder
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise inspect.unfit(origin.name, "no such folder", f"check {origin.keys}")
    asked = Repository("model", source, origin.revision)
    try:
        entry = hub.entry_of(asked)
        wanted = [name for name in entry.names if name.endswith(hub.TEXTS)]
        if weights:
            index = hub.fetch(asked, entry, inspect.INDEX) if inspect.INDEX in entry.names else None
            shards = inspect.shard_names(index) if index is not None else []
            wanted += [name for name in (*shards, inspect.WEIGHTS, ADAPTER_WEIGHTS) if name in entry.names]
        for name in wanted:
            hub.fetch(asked, entry, name)
    except hub.NotHad as error:
        raise inspect.unfit(origin.name, str(error), remedy) from error
    if not wanted:
        raise inspect.unfit(origin.name, f"{asked}: no file of a model is there", remedy)
    hub.refuse_strangers(asked, entry)
    return hub.snapshot(asked, entry)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, cut to what a message can hold."""
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0][:300]


@contextmanager
def reading(name: str, remedy: str) -> Iterator[None]:
    """Turn whatever a library raises while it reads somebody's files into one line, and keep its reports quiet.

    A file may hold anything, so that the libraries raise anything; their own error stays as the cause.
    """
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    except (MoaError, torch.OutOfMemoryError):
        raise
    except BaseException as error:
        # A library in Rust that gives up raises this, which is no Exception and cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise inspect.unfit(name, first_line(error), remedy) from error
    finally:
        transformers_logging.set_verbosity(before)


def tokenizer(origin: Origin, classifier: bool = False, **settings: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer; `settings` are from_pretrained's.

    Raises:
        MoaError: there is none, it needs code of its own, or the model beside it lacks embeddings for its tokens.
    """
    folder = fetch(origin, weights=False)
    # Transformers mends some tokenizers of the hub by their id; what was fetched is read under it.
    where, commit = (folder, None) if origin.local else (origin.source, folder.name)
    with reading(origin.name, f"check {origin.keys}; no code of a folder or of the hub is run"):
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(where), revision=commit, trust_remote_code=False, local_files_only=True, **settings
        )
        found(PROBE, verbose=False)
    config = folder / "config.json"
    rows = inspect.vocabulary(inspect.read_json(config)) if config.is_file() else None
    check_tokens(found, rows, origin.name, classifier)
    return found


def check_tokens(found: PreTrainedTokenizerBase, rows: int | None, name: str, classifier: bool = False) -> None:
    """Refuse a tokenizer with ids that a model of `rows` embeddings has none for; None is an unknown number."""
    if rows is not None:
        spared = inspect.unread_tokens({**(found.init_kwargs or {}), **found.special_tokens_map}, classifier)
        inspect.check_vocabulary(found.get_vocab(), rows, name, spared)


def causal_lm(stored: Stored, **settings: Any) -> PreTrainedModel:
    """Load a causal language model and check its tensors; `settings` are from_pretrained's."""
    inspect.check_writes(stored)
    model, report = _load(AutoModelForCausalLM, stored, settings)
    _check(model, report, stored)
    return model


def classifier(stored: Stored, new_head: bool = False, **settings: Any) -> PreTrainedModel:
    """Load a sequence classifier and check its tensors; with `new_head`, a language model that gets a head to train.

    A pooler may be left over, as where RoBERTa's class reads none, and a new head may bring one.
    """
    model, report = _load(AutoModelForSequenceClassification, stored, settings)
    trunk = f"{model.base_model_prefix}."

    def of_head(key: str) -> bool:
        return new_head and not key.startswith(trunk)

    def pools(key: str) -> bool:
        return "pooler" in key.split(".")

    absent = sorted(key for key in report["missing_keys"] if not key.startswith(trunk))
    if absent and not new_head:
        reason = f"it has no weights for {', '.join(absent[:4])}, so its scores would be random"
        raise inspect.unfit(stored.name, reason, "name a sequence classifier, or train one with kind transformer")
    report["missing_keys"] = {k for k in report["missing_keys"] if not (new_head and (of_head(k) or pools(k)))}
    report["unexpected_keys"] = {k for k in report["unexpected_keys"] if not (of_head(k) or pools(k))}
    _check(model, report, stored)
    return model


def _load(kind: Any, stored: Stored, settings: Mapping[str, Any]) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return a model of an auto class `kind`, and Transformers' report of what it found for it."""
    own = "its own code, auto_map in config.json, is never run; " if "auto_map" in stored.config else ""
    remedy = f"{own}name a whole model whose architecture Transformers knows"
    with reading(stored.name, remedy), _alone(stored) as folder:
        model, report = kind.from_pretrained(
            folder,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are reported, and refused afterwards
            output_loading_info=True,
            **settings,
        )
    model.name_or_path = model.config.name_or_path = str(stored.folder)
    return model, report


@contextmanager
def _alone(stored: Stored) -> Iterator[str]:
    """Yield a folder with a model's weights and the harmless part of its config: what else lies there is not found."""
    with tempfile.TemporaryDirectory() as place:
        index = stored.folder / inspect.INDEX
        for file in (*stored.weights, *([index] if len(stored.weights) > 1 or index.is_file() else [])):
            (Path(place) / file.name).symlink_to(file.resolve())
        (Path(place) / "config.json").write_text(json.dumps(_harmless(stored.config, stored.vocabulary)))
        yield place


def _harmless(config: Mapping[str, Any], rows: int | None) -> dict[str, Any]:
    """Return a config without keys that name code, and with a pad id only where it is one."""
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if key == "pad_token_id":
            kept[key] = inspect.pad_token(value, rows)
        elif key not in CODE and (key not in inspect.IMPLEMENTATIONS or value in inspect.ATTENTIONS):
            kept[key] = _harmless(value, rows) if isinstance(value, dict) else value
    return kept


def _check(model: PreTrainedModel, report: Mapping[str, Any], stored: Stored) -> None:
    """Refuse a model whose tensors are not exactly those that it was to have, or not numbers."""
    name = stored.name
    check_report(report, name)
    if getattr(model, "is_quantized", False):  # quantised, NaN is a number: the files say it
        for path in stored.weights:
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118
                    check_finite({key: file.get_tensor(key)}, name)
    else:
        check_finite(model.state_dict(), name)


def check_report(report: Mapping[str, Any], name: str) -> None:
    """Refuse what Transformers reports as missing, left over or misshapen."""
    shapes = [f"{key} {tuple(found)} for {tuple(asked)}" for key, found, asked in report["mismatched_keys"]]
    _refuse(name, report["missing_keys"], "missing, and would be random")
    _refuse(name, report["unexpected_keys"], "left over, without a place in the model")
    _refuse(name, shapes, "of another shape than config.json says")


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], name: str) -> None:
    """Refuse tensors that are not exactly those expected, by name and shape, or not finite."""
    asked = {key: tuple(tensor.shape) for key, tensor in expected.items()}
    _check_names(asked, {key: tuple(tensor.shape) for key, tensor in found.items()}, name)
    check_finite(found, name)


def _check_names(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], name: str) -> None:
    _refuse(name, expected.keys() - found.keys(), "missing, and would be random")
    _refuse(name, found.keys() - expected.keys(), "left over, without a place in the base")
    other = [f"{key} {found[key]} for {shape}" for key, shape in expected.items() if found[key] != shape]
    _refuse(name, other, "of another shape")


def check_finite(tensors: Mapping[str, Tensor], name: str) -> None:
    """Refuse tensors with NaN or infinity."""
    broken = [key for key, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    _refuse(name, broken, "not finite (NaN or infinity)")


def _refuse(name: str, keys: Iterable[str], what: str) -> None:
    if found := sorted(keys):
        are = "tensor is" if len(found) == 1 else "tensors are"
        raise inspect.unfit(name, f"{len(found)} {are} {what}, first {found[0]}", inspect.AGAIN)


def adapter(model: PreTrainedModel | PeftModel, name: str, folder: Path) -> PeftModel:
    """Put a LoRA adapter on a base, or beside the adapters that are on it, as `name`.

    Embeddings that come with a first adapter, as with added tokens, take the place of the base's, with as many rows.

    Raises:
        MoaError: the adapter does not fit the base, or its files are unfit.
    """
    found = inspect_adapter(folder)
    where = f"{found.folder}: the adapter does not fit the base"
    with reading(where, inspect.AGAIN):
        config = LoraConfig(task_type="CAUSAL_LM", inference_mode=True, **found.settings)
        if isinstance(model, PeftModel):
            brought: dict[str, Tensor] = {}
            with light():
                model.add_adapter(name, config)
        else:
            brought = _embeddings(model, found, where)
            model = put(model, config, name)
        own = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        expected = {key: tuple(tensor.shape) for key, tensor in {**brought, **own}.items()}
        _check_names(expected, found.shapes, where)
        model.load_adapter(str(found.folder), name)
    loaded = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    check_finite({**brought, **loaded}, where)
    return model


def _embeddings(base: PreTrainedModel, found: Adapter, where: str) -> dict[str, Tensor]:
    """Give the base as many embeddings as the adapter brings; return those that it brings, by their names in its file.

    The output layer's come with them, or are the same.
    """
    wanted = {id(layer) for layer in (base.get_input_embeddings(), base.get_output_embeddings())}
    names = {f"base_model.model.{name}.weight": name for name, module in base.named_modules() if id(module) in wanted}
    have, rows = len(base.get_input_embeddings().weight), {found.shapes[key][0] for key in names if key in found.shapes}
    if rows - {have}:
        tied = len({base.get_submodule(name).weight.data_ptr() for name in names.values()}) == 1
        absent = [key for key in names if key not in found.shapes]
        if len(rows) > 1 or (absent and not tied):
            reason = (
                f"it has embeddings for {max(rows)} tokens, the base for {have}, and {absent or 'other'} layers differ"
            )
            raise inspect.unfit(where, reason, "save the adapter with its embeddings and its output layer")
        base.resize_token_embeddings(max(rows), mean_resizing=False)
    return {key: base.get_submodule(name).weight for key, name in names.items() if key in found.shapes}
