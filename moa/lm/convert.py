"""Makes a safetensors folder of what people have: a GGUF file, or a folder with a pickled `pytorch_model.bin`.

What was made is loaded by the project's own loader before it gets its name, so a folder is whole or not there. Nothing
heavy is loaded before the request is known to be right.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from moa.errors import MoaError
from moa.job import start
from moa.job.process import importing
from moa.lm import inspect
from moa.store import files, hub

NumberFormat = Literal["float32", "bfloat16", "float16"]
PICKLE, PICKLES = "pytorch_model.bin", "pytorch_model.bin.index.json"
KNOWN = f"name a .gguf file, or a folder with {PICKLE}"


def convert(source: Path, target: Path, dtype: NumberFormat = "bfloat16") -> str:
    """Write the model of `source` as a folder of safetensors, config and tokenizer; return a line on it.

    Args:
        source: a GGUF file, or a folder with one; a folder with pytorch_model.bin, or with its shards and their index.
        target: a folder that is not there yet.
        dtype: number format of dequantised weights; pickled ones keep theirs.

    Raises:
        MoaError: neither of the two, damaged, or no model that the project loads; the target exists, or the disk is
            full. Nothing is left then.
    """
    source, target = source.expanduser(), target.expanduser()
    if os.path.lexists(target):
        raise MoaError(f"{target}: exists already and is kept; name a new folder")
    found = find(source)
    with files.folder(target) as place:
        if found.is_dir():
            _from_pickle(found, place)
        else:
            _from_gguf(found, place, dtype)
        try:
            said = _prove(place, source)
        except MoaError as error:
            raise MoaError(str(error).replace(str(place), str(source))) from error
    return f"{target}: {said}"


def find(source: Path) -> Path:
    """Return the GGUF file that a source is or holds, or the folder of its pickled weights."""
    if not source.exists():
        raise MoaError(f"{source}: no such file or folder; {KNOWN} (a hub model: hf download NAME --local-dir FOLDER)")
    if source.is_file():
        if source.name in (PICKLE, PICKLES):
            return find(source.parent)
        if source.suffix == ".gguf" or _gguf(source):
            return source
    if not source.is_dir():
        raise MoaError(f"{source}: neither GGUF nor a folder of a model; {KNOWN}")
    if any((source / name).is_file() for name in (inspect.WEIGHTS, inspect.INDEX)):
        raise MoaError(f"{source}: holds safetensors already; name it in the experiment as it is")
    if any((source / name).is_file() for name in (PICKLE, PICKLES)):
        return source
    inside = sorted(source.glob("*.gguf"))
    if len(inside) == 1:
        return inside[0]
    some = f"{len(inside)} GGUF files ({', '.join(p.name for p in inside[:4])}); name one of them"
    raise MoaError(f"{source}: holds {some if inside else f'no weights of a model that is read; {KNOWN}'}")


def _gguf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"GGUF"


def _from_gguf(source: Path, place: Path, dtype: NumberFormat) -> None:
    with importing():
        from moa.lm import gguf, loading
        from moa.lm.precision import number_format

    if re.search(r"-\d{5}-of-(?!00001)\d{5}\.gguf$", source.name):
        raise MoaError(f"{source}: one part of several; join them first, by llama-gguf-split --merge")
    model, tokenizer = gguf.read(source, number_format(dtype, "--dtype"))
    with loading.reading(f"{source}: cannot be written as safetensors", gguf.AGAIN):
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        gguf.drop_foreign_tokens(place / "tokenizer.json")


def _from_pickle(source: Path, place: Path) -> None:
    """Write pickled weights as safetensors, shard by shard, and copy configs and tokenizer, but no code."""
    if not (source / "config.json").is_file():
        raise MoaError(f"{source}: config.json is missing; name the whole folder of a model")
    if (source / PICKLE).is_file():
        _unpickled(source / PICKLE, place / inspect.WEIGHTS)
    else:
        shards = _shards(source / PICKLES)
        names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
        for shard, name in zip(shards, names, strict=True):
            _unpickled(source / shard, place / name)
        where = {key: name for name in names for key in inspect.tensors(place / name, str(source))}
        size = sum((place / name).stat().st_size for name in names)
        index = {"metadata": {"total_size": size}, "weight_map": where}
        (place / inspect.INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name.endswith(hub.TEXTS) and path.name not in (PICKLES, files.SUMS):
            shutil.copyfile(path, place / path.name)


def _shards(index: Path) -> list[str]:
    """Return the files that an index of pickled shards names: of its own folder, and there."""
    where = inspect.read_json(index).get("weight_map")
    shards = sorted({str(file) for file in where.values()}) if isinstance(where, dict) else []
    if not shards or any(Path(file).name != file or not file.endswith(".bin") for file in shards):
        raise MoaError(f"{index}: names no .bin files of its own folder; get the model again")
    missing = [file for file in shards if not (index.parent / file).is_file()]
    if missing:
        raise MoaError(f"{index.parent / missing[0]}: missing, one of {len(shards)} shards; get the model again")
    return shards


def _unpickled(source: Path, target: Path) -> None:
    """Let a process of its own read a pickle: whatever is in it, this one goes on."""
    command = [sys.executable, "-m", "moa.lm.unpickle", str(source), str(target)]
    done = subprocess.run(command, env=start.environment(), capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return
    lines = done.stderr.strip().splitlines() or ["it said nothing"]
    if lines[-1].startswith("error: "):
        raise MoaError(lines[-1].removeprefix("error: "))
    raise MoaError(
        f"{source}: the process that opened it ended with status {done.returncode} ({lines[-1]}); where memory ran out,"
        " end other work, else get the file again"
    )


def _prove(place: Path, source: Path) -> str:
    """Load what was made, by the project's own loader, and return what it is."""
    with importing():
        from transformers.utils.logging import disable_progress_bar

        from moa.lm import loading

    disable_progress_bar()
    name = f"{source}: what it holds is no model that is loaded here"
    stored = inspect.inspect_model(place, name)
    declared = str((stored.config.get("architectures") or [""])[0])
    classifies = "SequenceClassification" in declared
    tokenizer = loading.tokenizer(loading.Origin(place, None, name, "it"), classifier=classifies)
    if declared.endswith(("CausalLM", "LMHeadModel", "ConditionalGeneration")):
        model = loading.causal_lm(stored, dtype="auto")
    else:
        model = loading.classifier(stored, new_head=not classifies, dtype="auto")
    parts = [
        f"{declared or model.config.model_type}, {model.num_parameters() / 1e6:,.1f} M parameters in",
        f"{str(model.dtype).removeprefix('torch.')}, {stored.context or 'any number of'} tokens of context,",
        f"{'a' if tokenizer.chat_template else 'no'} chat template, end token {tokenizer.eos_token or 'none'}",
    ]
    return " ".join(parts)
