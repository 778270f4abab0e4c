"""What looks at this machine, and makes models readable."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from moa.store.terminal import say


def convert(
    source: Annotated[Path, typer.Argument(help="a GGUF file, or a folder with pytorch_model.bin", metavar="SOURCE")],
    folder: Annotated[Path, typer.Argument(help="the folder to write; an existing one is kept", metavar="FOLDER")],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="number format of what GGUF holds in few bits")
    ] = "bfloat16",
) -> None:
    """Make safetensors of a GGUF file or pickled weights.

    Chat template, special tokens and context come along. A pickle is opened in a process of its own, for its tensors
    alone. The folder is loaded once as proof, and is there whole or not at all.
    """
    from moa.lm.convert import convert

    say(convert(source, folder, dtype))


def doctor(
    experiment: Annotated[Path | None, typer.Argument(help="experiment file whose needs are looked at, too")] = None,
) -> None:
    """Say what this machine can do, and what an experiment lacks.

    It takes seconds and changes nothing. Status 1 where the experiment needs something that is not here.
    """
    from moa.ahead.doctor import examine

    lines, whole = examine(experiment)
    for line in lines:
        say(line)
    if not whole:
        raise typer.Exit(1)
