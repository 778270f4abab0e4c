"""The one place where a pickle is opened: a process of its own, which reads tensors alone and writes safetensors.

    python -m moa.lm.unpickle pytorch_model.bin model.safetensors

torch.load with `weights_only` builds tensors and nothing else. What goes wrong ends in one line and status 1.
"""

import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from moa.errors import MoaError, one_line, shown

LFS = b"version https://git-lfs"  # how the text begins that stands for a file until Git LFS fetches it


def unpickle(source: Path, target: Path) -> None:
    """Write the tensors of a pickle as safetensors, by the same names.

    Tensors that share memory, as tied embeddings do, are written one by one: each name has its values.

    Raises:
        MoaError: it is damaged, cut off, something else, or holds more than tensors by name.
    """
    found = _loaded(source)
    if not isinstance(found, dict) or not found:
        raise MoaError(f"{source}: holds {type(found).__name__}, not tensors by name; name the weights of a model")
    wrong = next((key for key, value in found.items() if not isinstance(key, str) or not _plain(value)), None)
    if wrong is not None:
        what = type(found[wrong]).__name__
        raise MoaError(f"{source}: holds {what} as {wrong!r}, not a plain tensor; name the weights alone of a model")
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for key, value in found.items():
        storage = value.untyped_storage()
        alone = value.is_contiguous() and storage.nbytes() == value.nbytes and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        tensors[key] = value.detach() if alone else value.detach().clone(memory_format=torch.contiguous_format)
    save_file(tensors, target, metadata={"format": "pt"})


def _loaded(source: Path) -> Any:
    with source.open("rb") as stream:
        if stream.read(len(LFS)) == LFS:
            raise MoaError(f"{source}: stands for a file that Git LFS has not fetched; run git lfs pull there")
    try:
        return torch.load(source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source))
    except Exception as error:  # a foreign file raises anything
        lines = [line.strip() for line in str(error).splitlines()]
        named = next((line for line in lines if "GLOBAL" in line), None)  # an object that is no tensor's
        if named is not None:
            raise MoaError(
                f"{source}: holds more than tensors, which could run code, and is not opened ({named[:200]}); get the"
                " model as safetensors"
            ) from error
        why = next((line for line in lines if line.startswith("Unsupported")), one_line(error))[:200]
        raise MoaError(f"{source}: cut off, damaged, or no pickle of PyTorch ({why}); get it again") from error


def _plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized and not value.is_meta


if __name__ == "__main__":
    try:
        unpickle(Path(sys.argv[1]), Path(sys.argv[2]))
    except MoaError as mistake:
        sys.exit(shown(f"error: {mistake}"))
