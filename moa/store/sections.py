"""What a job is given that is too long for its command line: files named by their content, which the plan writes.

Linux lets one argument be 128 KiB, and a shell's whole command is one argument. A name that is a hash of the content
keeps Snakemake's rule: what a job receives has changed exactly where its parameter has. A file that is left over hurts
nobody, so a dry run writes it as well: its printed commands can then be run by hand.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from moa.errors import MoaError, one_line
from moa.store.files import atomically
from moa.store.provenance import text_hash

FOLDER = Path(".moa/sections")
HASHED = re.compile(r"[0-9a-f]{16}")


def keep(text: str, suffix: str = ".json") -> str:
    """Write `text` into its file, unless that holds it already, and return the path."""
    path = FOLDER / f"{text_hash(text)}{suffix}"
    if not path.is_file() or path.read_bytes() != text.encode():
        atomically(path, lambda temporary: temporary.write_bytes(text.encode()))
    return str(path)


def listed(paths: Iterable[object]) -> str:
    """Return the argument that stands for many: '@' and a file with one on each line, which argparse reads."""
    return "@" + keep("".join(f"{path}\n" for path in paths), ".txt")


def read(given: str) -> str:
    """Return the JSON of a section, which is given as a file or as it is.

    Raises:
        MoaError: no such file, or it does not hold what the plan wrote.
    """
    if given.lstrip().startswith("{"):
        return given
    path, remedy = Path(given), "run snakemake again, which writes it anew"
    try:
        text = path.read_text(encoding="utf-8")
        whole = isinstance(json.loads(text), dict)
    except FileNotFoundError:
        raise MoaError(f"--section {path}: no such file; {remedy}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise MoaError(f"--section {path}: not a section of an experiment ({one_line(error)}); {remedy}") from None
    if not whole or (HASHED.fullmatch(path.stem) and path.stem != text_hash(text)):
        raise MoaError(f"--section {path}: does not hold what the plan wrote; {remedy}")
    return text
