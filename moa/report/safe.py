"""What keeps text from the database harmless in a page: escaping templates, escaped JSON, a strict content policy.

Generated text is hostile input. It reaches a page only through templates that escape it, as the text of table cells.
"""

import base64
import hashlib
import html
import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def environment() -> jinja2.Environment:
    """Return the environment of all templates; it escapes every value, and an undefined name is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    assert made.autoescape is True, "templates must escape"
    return made


def source(name: str) -> Markup:
    """Return a file of ours (style sheet, script) as trusted text."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def chart_json(value: Any) -> Markup:
    """Return `value` as JSON that is safe inside a <script type="application/json"> element; floats keep six digits."""
    text = json.dumps(_rounded(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return Markup("".join(ESCAPES.get(c, c) for c in text))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value


def chart_text(value: str) -> str:
    """Return `value` for a chart's text: Plotly reads HTML-like tags and entities there, so both are escaped."""
    return html.escape(value, quote=False)


def visible(value: str) -> str:
    """Return `value` with control and direction-changing characters shown as their code, e.g. '[U+202E]'."""
    return "".join(f"[U+{ord(c):04X}]" if _hidden(c) else c for c in value)


def _hidden(character: str) -> bool:
    code = ord(character)
    control = (code < 32 and character not in "\n\t") or 127 <= code < 160
    return control or 0x200B <= code <= 0x200F or 0x2028 <= code <= 0x202E or 0x2060 <= code <= 0x2069 or code == 0xFEFF


def policy(scripts: list[Markup]) -> str:
    """Return the Content-Security-Policy that allows exactly these inline scripts and nothing from elsewhere."""
    hashes = (
        " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
        or "'none'"
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none';"
        " form-action 'none'"
    )
