"""Names that an experiment file gives: to its task, rows, objectives and rewards. They become files and table entries.

A word that some table or page already means something else by is refused, and so is what a file system cannot hold or
cannot tell apart.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

LONGEST = 64  # characters; a checkpoint's folder has a row's name, a policy's and a hash in one
DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])", re.IGNORECASE)  # no file can be called so on Windows

# Words by what must not be called so, and what they mean (moa/store/tables.py, moa/method.py).
TAKEN: Mapping[str, Mapping[str, str]] = {
    "task": {"index": "the report's first page"},
    "run.methods": {"all": "what all rows share, in the table of costs"},
    "methods": {"all": "what all rows share, in the table of costs"},
    "objectives": {
        "all": "a metric of all objectives together",
        "control": "the control stream in the table of curves",
        "utility": "the weighted sum of the rewards in the table of curves",
        "reference": "the untrained policy in the table of payoffs",
    },
    "rewards": {"all": "a stage's only job, in the table of costs"},
}


def _no_device(name: str) -> str:
    if DEVICE.fullmatch(name):
        raise ValueError(f"'{name}' is a device on Windows, where no file can have this name; choose another")
    return name


Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=LONGEST), AfterValidator(_no_device)]


def _path(source: str) -> str:
    """Refuse what neither a path nor a hub id can be; whatever asks whether it exists would end in a trace."""
    if any(len(part.encode()) > 255 for part in source.split("/")) or len(source.encode()) > 4095:
        raise ValueError("longer than a path may be")
    try:
        Path(source).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{str(error).rstrip('.').lower()} of '~' in it; write the path out") from None
    return source


Source = Annotated[str, Field(min_length=1), AfterValidator(_path)]  # a hub id, a local path, or a word of ours


def check(section: str, names: Iterable[str]) -> None:
    """Refuse a name of `section` that means something else, or differs from another one in capitals alone.

    Raises:
        ValueError: with the section, the name and the remedy.
    """
    seen: dict[str, str] = {}
    for name in names:
        meaning = TAKEN[section].get(name.lower())
        if meaning is not None:
            raise ValueError(f"{section}: the name '{name}' is taken: it is {meaning}; choose another")
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(
                f"{section}: '{other}' and '{name}' differ in capitals alone, and some file systems cannot tell them"
                " apart; rename one"
            )
