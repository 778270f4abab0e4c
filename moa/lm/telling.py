"""A chat template that tells the preference: what a policy reads, as a program that any server of its model can run.

    tokenizer.apply_chat_template(messages, preference={"helpful": 0.8, "humor": 0.2}, add_generation_prompt=True)

gives the tokens that `conversation.Reading` and `conditioning.token_rows` give. An objective that is not named weighs
0; without a preference all weigh the same. Where the policy reads no chat, the text of the last message is the prompt.
"""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from moa.errors import MoaError
from moa.experiment.keys import Conditioning
from moa.experiment.preferences import corners
from moa.lm import chat
from moa.lm.conditioning import token_rows
from moa.lm.conversation import Reading, Turn
from moa.lm.targets import Targets

PROBES: tuple[tuple[list[Turn], str], ...] = (
    ([], "The lamp"),
    ([Turn("Hello!", "Hello. What is it?")], " A {preference} for\n{prompt}s, <b>please</b>? "),
)


def tokenizer(reading: Reading) -> PreTrainedTokenizerBase:
    """Return a tokenizer whose chat template tells the preference.

    Raises:
        MoaError: the template would give other tokens than the policy has learnt to read.
    """
    made = copy.deepcopy(reading.tokenizer)
    made.chat_template = template(reading)
    for key in ("is_local", "local_files_only"):  # how it was loaded here
        made.init_kwargs.pop(key, None)
    names = reading.prompting.objectives
    even = tuple(1 / len(names) for _ in names)
    for preference in (even, *corners(len(names))):
        for turns, message in PROBES:
            (expected,) = token_rows([reading.text(turns, message, preference)], reading.tokenizer)
            if _rendered(made, turns, message, dict(zip(names, preference, strict=True))) != expected:
                raise MoaError(
                    f"the tokenizer of {made.name_or_path or 'the model'} reads its chat template otherwise than this"
                    " policy has learnt to: no template can tell it the preference; use moa respond"
                )
    return made


def _rendered(
    made: PreTrainedTokenizerBase, turns: Sequence[Turn], message: str, preference: Mapping[str, float]
) -> list[int]:
    said = [
        {"role": role, "content": text} for t in turns for role, text in (("user", t.message), ("assistant", t.answer))
    ]
    asked: list[int] = made.apply_chat_template(
        [*said, {"role": "user", "content": message}],
        preference=preference,
        add_generation_prompt=True,
        return_dict=False,
    )
    return asked


def template(reading: Reading) -> str:
    """Return the template's text; the model's own comes last, as it stands."""
    asked, spec = reading.prompting, reading.prompting.conditioning
    lines = [f"{{{{- {literal(start)} -}}}}"] if (start := _start(reading)) else []
    if asked.conditioned:
        lines += [*_preference(asked.objectives), *_told(asked.objectives, spec.format, reading.targets)]
    if not spec.chat:
        prompt = _filled(spec, asked.conditioned, "messages[-1]['content']")
        return "\n".join([*lines, f"{{{{- {prompt} }}}}"])
    own = str(reading.tokenizer.get_chat_template())
    if "strftime_now" in own:
        lines.append(chat._fixed_date().replace("+%}", "-%}"))
    for key, value in spec.chat_template_kwargs.items():
        if key.isidentifier():  # no template can read another
            lines.append(f"{{%- if {key} is not defined %}}{{% set {key} = {literal(value)} %}}{{% endif -%}}")
    if asked.conditioned or spec.plain != "{prompt}":
        lines += _messages(spec, asked.conditioned)
    # No dash at its end: the line break after a tag is trimmed, so that the model's own template begins a line.
    return "\n".join([*lines, "{#- From here on it is the model's own. #}", own]) if lines else own


def _start(reading: Reading) -> str:
    """Return the begin token where texts get it without that the chat template writes it."""
    first = (1.0, *[0.0] * (len(reading.prompting.objectives) - 1))
    text = reading.text([], "a", first)
    written = reading.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return "" if token_rows([text], reading.tokenizer) == [written] else str(reading.tokenizer.bos_token)


def _preference(objectives: Sequence[str]) -> list[str]:
    """Return lines that leave `preference` with names that are known."""
    even = literal({name: 1 / len(objectives) for name in objectives})
    known = literal(list(objectives))
    refused = f"raise_exception(\"no objective '\" ~ name ~ \"'; known: \" ~ {known}|join(', '))"
    return [
        f"{{%- if not preference %}}{{% set preference = {even} %}}{{% endif -%}}",
        f"{{%- for name in preference if name not in {known} %}}{{{{ {refused} }}}}{{% endfor -%}}",
    ]


def _told(objectives: Sequence[str], form: str, targets: Targets | None) -> list[str]:
    """Return lines that set `told` to what prompts show (`conditioning.preference_text`, or `Targets.text`)."""
    weights = [f"preference.get({literal(name)}, 0)|float" for name in objectives]
    if targets is None:
        parts = [_weight(name, weight, form) for name, weight in zip(objectives, weights, strict=True)]
        return [f"{{%- set told = {' ~ '.join(_spaced(parts))} -%}}"]
    norm = {"l2": f"({' + '.join(f'({w}) ** 2' for w in weights)}) ** 0.5", "linf": f"[{', '.join(weights)}]|max"}
    parts = [
        _target(
            targets,
            k,
            name,
            f"(({w}) / norm * {literal(targets.high[k] - targets.low[k])} + {literal(targets.low[k])})",
        )
        for k, (name, w) in enumerate(zip(objectives, weights, strict=True))
    ]
    return [
        f"{{%- set norm = {norm.get(targets.map, '1.0')} -%}}",
        f"{{%- set told = {' ~ '.join(_spaced(parts))} -%}}",
    ]


def _spaced(parts: Sequence[str]) -> list[str]:
    return [piece for part in parts for piece in ("' '", part)][1:]


def _weight(name: str, weight: str, form: str) -> str:
    """Return the expression of an objective's weight as text, in a format of `conditioning.format`."""
    rounded = f"({weight})|round(6)"
    shown = {
        "digits": f"{literal(name + ' ')} ~ '%.2f'|format({rounded})",
        "bars": f"{literal(name)} ~ ' +' * (10 * {rounded})|round|int",
        "tags": f"{literal(f'<{name}=')} ~ (100 * {rounded})|round|int ~ '>'",
    }
    return shown[form]


def _target(targets: Targets, k: int, name: str, wanted: str) -> str:
    """Return the expression of an objective's target reward as text."""
    if targets.step is not None:
        wanted = f"(({wanted} / {targets.step})|round * {targets.step})|round(9)"
    if targets.format == "bars":
        low, span = literal(targets.low[k]), literal(targets.high[k] - targets.low[k])
        return _weight(name, f"[0, [1, ({wanted} - {low}) / {span}]|min]|max", "bars")
    shown = name if targets.format == "names" else f"<rm{k + 1}_score>"
    return f"{literal(shown + ' ')} ~ '%.1f'|format(({wanted})|round(1) + 0.0)"


def _filled(spec: Conditioning, shown: bool, prompt: str) -> str:
    """Return the expression of a message: prompt and preference in their frame."""
    values = {"{prompt}": prompt, "{preference}": "told"}
    pieces = re.split(r"(\{prompt\}|\{preference\})", spec.template if shown else spec.plain)
    return " ~ ".join(values.get(piece, literal(piece)) for piece in pieces if piece)


def _messages(spec: Conditioning, conditioned: bool) -> list[str]:
    """Return lines that put the preference into `messages`: into the system's, or into every one of the user's."""
    system = conditioned and spec.role == "system"
    text = _filled(spec, conditioned and not system, "message['content']")
    first = "{'role': 'system', 'content': told}" if system else ""
    # A system message of the caller's comes after the preference; training has shown none.
    theirs = "{'role': 'system', 'content': told ~ '\\n' ~ message['content']}"
    return [
        f"{{%- set seen = namespace(messages=[{first}]) -%}}",
        "{%- for message in messages -%}",
        "{%- if message['role'] == 'user' -%}",
        f"{{%- set seen.messages = seen.messages + [{{'role': 'user', 'content': {text}}}] -%}}",
        *(
            ["{%- elif loop.first and message['role'] == 'system' -%}", f"{{%- set seen.messages = [{theirs}] -%}}"]
            if system
            else []
        ),
        "{%- else -%}",
        "{%- set seen.messages = seen.messages + [message] -%}",
        "{%- endif -%}",
        "{%- endfor -%}",
        "{%- set messages = seen.messages -%}",
    ]


def literal(value: Any) -> str:
    """Return a JSON value as Jinja writes it."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
