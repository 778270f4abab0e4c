"""What a folder with a model holds, read from its files alone: no torch, no weights, and nothing is run.

The plan may ask before any job begins. The loader (moa/lm/loading.py) asks again before it loads.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

from safetensors import SafetensorError, safe_open

from moa.errors import MoaError, one_line
from moa.store.files import read_object

Quantisation = Literal["none", "nf4", "int8"]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
AGAIN = "copy or download it again, or name what it belongs to"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
# A model that reads texts of any length still has one: BLOOM and Mamba were trained on so many tokens.
UNBOUNDED = 2048
BOUNDS = (
    *("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len", "max_seq_length"),
    *("max_sequence_length", "model_max_length", "context_length", "max_context_length"),
)
# Keys that name a way to compute; what is no part of PyTorch may be fetched and run.
IMPLEMENTATIONS = tuple(
    f"{part}_implementation{end}" for part in ("attn", "_attn", "experts", "_experts") for end in ("", "_internal")
)
ATTENTIONS = (None, "eager", "sdpa")
# Model types that read a text in both directions at once; config.is_decoder makes a few of them write after all.
ENCODERS = {
    *("albert", "bert", "big_bird", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "ernie"),
    *("eurobert", "megatron-bert", "modernbert", "mpnet", "nomic_bert", "roberta", "roberta-prelayernorm", "roformer"),
    *("xlm-roberta", "xlm-roberta-xl", "xmod"),
}
MEDIA = ("image_token", "audio_token", "video_token")  # a model of text never reads them


@dataclass(frozen=True)
class Stored:
    """A folder with a model.

    Attributes:
        name: how messages about it begin.
        config: its config.json.
        weights: its safetensors.
        shapes: of all tensors, by name.
        bytes: size of the weights on disk.
        quantisation: how the weights are stored; another word than `Quantisation` knows is a way that is not read.
        context: most tokens that config.json declares; None where it declares none.
        vocabulary: rows of the embeddings that config.json declares; None where it declares none.
        end_tokens: ids that end a response, as generation_config.json or config.json says.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]
    shapes: dict[str, tuple[int, ...]]
    bytes: int
    quantisation: str
    context: int | None
    vocabulary: int | None
    end_tokens: tuple[int, ...]


def unfit(name: str, reason: str, remedy: str) -> MoaError:
    """Return the error of a model that cannot be taken: how its messages begin, why, and what to do."""
    return MoaError(f"{name} ({reason}); {remedy}")


def inspect_model(folder: Path, name: str | None = None) -> Stored:
    """Return what a folder with a model holds; `name` is how messages begin.

    Raises:
        MoaError: files that are missing, damaged, pickled or not of one model, or a config.json that asks for code.
    """
    name = name or f"model {folder}: cannot be loaded"
    adapted = (folder / ADAPTER).is_file()
    if not (folder / "config.json").is_file():
        reason = "it is an adapter, not a model" if adapted else "config.json is missing"
        raise unfit(name, reason, "name a folder with config.json, model.safetensors and a tokenizer")
    if adapted:
        reason = f"it holds a model and an adapter, {ADAPTER}, so which one is meant is unclear"
        raise unfit(name, reason, "merge them, or move the adapter into a folder of its own")
    config, weights = read_json(folder / "config.json"), _weights(folder, name)
    shapes = {key: shape for path in weights for key, shape in tensors(path, name).items()}
    _check_config(config, name, shapes)
    generation = folder / "generation_config.json"
    ends = read_json(generation).get("eos_token_id") if generation.is_file() else None
    ends = text_config(config).get("eos_token_id") if ends is None else ends
    return Stored(
        name=name,
        folder=folder,
        config=config,
        weights=tuple(weights),
        shapes=shapes,
        bytes=sum(path.stat().st_size for path in weights),
        quantisation=_quantisation(config, name),
        context=context(text_config(config)),
        vocabulary=vocabulary(config),
        end_tokens=tuple(i for i in (ends if isinstance(ends, list) else [ends]) if is_count(i) or i == 0),
    )


def check_writes(stored: Stored) -> None:
    """Refuse an encoder where a causal language model is asked for: it reads texts and writes none."""
    kind = stored.config.get("model_type")
    if kind in ENCODERS and not stored.config.get("is_decoder"):
        remedy = "name a causal language model; an encoder can be a reward, of kind classifier or transformer"
        raise unfit(stored.name, f"it is an encoder, model type {kind}, which reads texts and writes none", remedy)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        MoaError: the file cannot be read, or holds something else.
    """
    return read_object(path, "JSON", "copy or download it again")


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config that describes the language model, which is most often all of it."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config


def context(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens a config says that its model reads, under any of the names in use; None for no bound."""
    return next((value for value in map(config.get, BOUNDS) if is_count(value)), None)


def vocabulary(config: Mapping[str, Any]) -> int | None:
    """Return the rows of the embeddings that a config declares; None where it declares none."""
    found = text_config(config).get("vocab_size")
    return found if is_count(found) else None


def is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def pad_token(value: object, rows: int | None) -> int | None:
    """Return a config's pad id, or None where it is no id of the vocabulary: -1 often says that there is none."""
    fits = isinstance(value, int) and value >= 0 and (rows is None or value < rows)
    return value if isinstance(value, int) and fits else None


def _weights(folder: Path, name: str) -> list[Path]:
    """Return the files with a model's weights: one, or the shards that its index names."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        reason = f"its weights are pickled, {pickles[0]}, which can run code" if pickles else f"{WEIGHTS} is missing"
        remedy = (
            f"see that it holds {WEIGHTS}, the one form that is read: `moa convert {folder} NEW` makes it of others"
        )
        raise unfit(name, reason, remedy)
    shards = shard_names(folder / INDEX)
    missing = [file for file in shards if not (folder / file).is_file()]
    if missing:
        reason = f"{len(missing)} of {len(shards)} files of weights are missing, first {missing[0]}"
        raise unfit(name, reason, AGAIN)
    return [folder / file for file in shards]


def shard_names(index: Path) -> list[str]:
    """Return the files that an index of sharded weights names: safetensors beside it, nothing else."""
    where = read_json(index).get("weight_map")
    shards = sorted({str(file) for file in where.values()}) if isinstance(where, dict) else []
    if not shards or any(Path(file).name != file or not file.endswith(".safetensors") for file in shards):
        raise MoaError(f"{index}: names no safetensors of its own folder; copy or download the model again")
    return shards


def tensors(path: Path, name: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a file, without reading their values."""
    try:
        with safe_open(path, "np") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise unfit(name, f"{path.name} is damaged: {one_line(error)}", AGAIN) from error


def _check_config(config: Mapping[str, Any], name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a config that asks for code or other files, or for more layers or embeddings than there are weights."""
    for key, value in _items(config):
        kernels = [a for a in (value.values() if isinstance(value, dict) else [value]) if "/" in str(a)]
        if key in IMPLEMENTATIONS and kernels:
            reason = f"config.json names '{kernels[0]}' as {key}: code of the hub, which is never run"
            raise unfit(name, reason, "remove the key")
        if key in ("transformers_weights", "fusion_config", "configuration_files") and value:
            raise unfit(name, f"config.json has {key}: {value!r}, which is not read", "remove the key")
    text = text_config(config)
    layers = max((n for n in map(text.get, ("num_hidden_layers", "n_layer", "n_layers")) if is_count(n)), default=0)
    if layers > len(shapes):
        reason = f"config.json declares {layers} layers, but all its weights are {len(shapes)} tensors"
        raise unfit(name, reason, AGAIN)
    rows = vocabulary(config)
    if rows is not None and all(rows not in shape for shape in shapes.values()):
        longest = max((max(shape, default=0) for shape in shapes.values()), default=0)
        raise unfit(
            name, f"config.json declares {rows} embeddings, but no tensor has so many rows: {longest} at most", AGAIN
        )


def _items(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, at any depth."""
    todo: list[Any] = [config]
    while todo:
        item = todo.pop()
        if isinstance(item, Mapping):
            yield from item.items()
        todo += item.values() if isinstance(item, Mapping) else item if isinstance(item, list) else []


def _quantisation(config: Mapping[str, Any], name: str) -> str:
    found = config.get("quantization_config") or text_config(config).get("quantization_config")
    if not found:
        return "none"
    if not isinstance(found, dict):
        raise unfit(name, f"config.json has quantization_config: {found!r}, not an object", "remove the key")
    if found.get("load_in_8bit"):
        return "int8"
    return str(found.get("bnb_4bit_quant_type", "fp4") if found.get("load_in_4bit") else found.get("quant_method"))


def check_quantisation(stored: Stored, asked: Quantisation, training: bool = False) -> None:
    """Refuse weights that are stored quantised in another way than asked; full ones are quantised as they are loaded.

    `training` is fine-tuning, which needs full weights to change, or to merge its adapter into.
    """
    found = stored.quantisation
    if found in ("none", asked):
        return
    needs = "fine-tuning (model.sft) needs full ones" if training else f"model.quantisation is {asked}"
    fits = f"set model.quantisation: {found}, or " if found in ("nf4", "int8") and not training else ""
    reason = f"its weights are stored quantised, {found}, but {needs}"
    raise unfit(stored.name, reason, f"{fits}name the unquantised model, with quantisation: nf4 where memory is short")


def inspect_tokenizer(stored: Stored, classifier: bool = False) -> None:
    """Refuse a tokenizer.json with ids that the model's embeddings lack; the loader reads other forms too."""
    path = stored.folder / "tokenizer.json"
    if stored.vocabulary is None or not path.is_file():
        return
    found = read_json(path)
    inner = found.get("model")
    vocabulary = inner.get("vocab") if isinstance(inner, dict) else None
    tokens = dict(vocabulary) if isinstance(vocabulary, dict) else {}
    if isinstance(vocabulary, list):  # a unigram model's pieces with their scores, in the order of their ids
        tokens = {str(piece[0]): i for i, piece in enumerate(vocabulary)}
    tokens |= {str(t["content"]): t["id"] for t in found.get("added_tokens") or [] if {"content", "id"} <= set(t)}
    named = stored.folder / "tokenizer_config.json"
    spared = unread_tokens(read_json(named) if named.is_file() else {}, classifier)
    check_vocabulary(tokens, stored.vocabulary, stored.name, spared)


def unread_tokens(named: Mapping[str, Any], classifier: bool) -> set[str]:
    """Return special tokens that never reach the model, of those that a tokenizer names by their part.

    A model of text reads no images, and classifiers are padded by their model's config.
    """
    return {str(named.get(part)) for part in (*MEDIA, *(("pad_token",) if classifier else ()))}


def check_vocabulary(tokens: Mapping[str, int], rows: int, name: str, spared: Collection[str] = ()) -> None:
    """Refuse tokens (text -> id) whose id has none of a model's `rows` embeddings, but for the texts `spared`."""
    beyond = {i: text for text, i in tokens.items() if i >= rows and text not in spared}
    if beyond:
        last = max(beyond)
        reason = f"the tokenizer's ids go up to {last}, {beyond[last]!r}, the model has embeddings for {rows} tokens"
        raise unfit(name, reason, "take the tokenizer that belongs to the model, or resize the model's embeddings")
