"""Tables in Markdown, and text in their cells."""

import html
import re
from collections.abc import Sequence

from moa.errors import visible


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; every column but the first is right-aligned."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def cell(text: str) -> str:
    """Return what a policy or a data set wrote as one cell of a Markdown table: nothing in it is markup."""
    shown = html.escape(visible(" ".join(text.split())), quote=False)
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", shown) or "(blank)"
