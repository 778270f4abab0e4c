"""Chat templates: the same text tomorrow, every message in it, and an end to what never ends."""

import copy
import json
import time

import pytest
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast

from moa.errors import MoaError
from moa.experiment.keys import Conditioning
from moa.lm import chat
from moa.lm.conditioning import build, token_rows
from moa.lm.generation import decode
from tests import tiny_models

TURNS = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }} {% endfor %}"
SYSTEM = {"role": "system"}


def with_template(template: str) -> PreTrainedTokenizerFast:
    made = copy.deepcopy(tiny_models.sentencepiece())
    made.chat_template = template
    made.name_or_path = "models/chatty"
    return made


def shown(template: str, **keys: object) -> str:
    """The text of 'The lamp' at preference (1, 0)."""
    spec = Conditioning.model_validate({"chat": True, **keys})
    return build(" The lamp\n", (1.0, 0.0), ["a", "b"], spec, with_template(template))


def test_a_template_that_asks_for_the_date_gets_the_same_one_every_day() -> None:
    told = shown(TURNS + "{{ strftime_now('%d %b %Y, %A %-d.%m.%y %H:%M') }}")
    assert told == "[user] a 1.00 b 0.00  The lamp 26 Jul 2024, Friday 26.07.24 00:00"
    # As Llama 3's: a date of the user's own stands above it.
    llama = (
        "{%- if not date_string is defined %}\n{%- if strftime_now is defined %}\n{%- set date_string ="
        " strftime_now('%d %b %Y') %}\n{%- endif %}\n{%- endif %}\nToday {{ date_string }}. " + TURNS
    )
    assert shown(llama).startswith("Today 26 Jul 2024. [user]")
    assert shown(llama, chat_template_kwargs={"date_string": "1 May 2025"}).startswith("Today 1 May 2025. [user]")


def test_a_random_choice_is_the_same_in_every_process() -> None:
    template = TURNS + "{{ range(1000) | random }}"
    assert shown(template) == shown(template + " ").removesuffix(" ")


def test_switches_reach_the_template_and_unknown_ones_are_named() -> None:
    template = TURNS + "{% if enable_thinking is defined and not enable_thinking %}<quiet>{% endif %}"
    assert shown(template).endswith("The lamp ")
    assert shown(template, chat_template_kwargs={"enable_thinking": False}).endswith("The lamp <quiet>")
    unknown = (
        "chat_template_kwargs: the chat template of models/chatty does not use 'enable_thinkin'.*'enable_thinking'"
    )
    with pytest.raises(MoaError, match=unknown):
        shown(template, chat_template_kwargs={"enable_thinkin": False})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"chat": False, "chat_template_kwargs": {"a": 1}}, "go with chat: true"),
        ({"chat": True, "chat_template_kwargs": {"messages": []}}, "'messages' is not to be set"),
    ],
)
def test_switches_that_no_template_may_get(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Conditioning.model_validate(keys)


@pytest.mark.parametrize(
    ("template", "keys", "message"),
    [
        ("Answer.{% for m in messages %}[{{ m['role'] }}]{% endfor %}", {}, "leaves out the user's message 'a 1.00"),
        ("{% for m in messages %}{{ m['content'][:9] }}{% endfor %}", {}, "leaves out the user's message"),
        ("{{ messages[-1]['content'] }}", SYSTEM, "leaves out the system's message 'a 1.00 b 0.00'.*role: user"),
        (TURNS + "{% for i in range(10 ** 9) %}x{% endfor %}", {}, "refuses the messages .*Range too big"),
        (TURNS + "{{ 1 // 0 }}", {}, "refuses the messages .ZeroDivisionError"),
        (TURNS + "{{ ''.__class__.__mro__ }}", {}, "refuses the messages .SecurityError"),
        (TURNS + "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", {}, "refuses the messages .RecursionError"),
        (TURNS + "{% if %}", {}, "refuses the messages .TemplateSyntaxError"),
        (TURNS + "{{ 'x' * 10 ** 7 }}", {}, "makes more than 1000000 characters of 896"),
        (TURNS + "{{ 'x' * 10 ** 11 }}", {}, "needs more than 1024 MiB"),
    ],
)
def test_a_template_that_does_not_do_its_work_is_named(template: str, keys: dict[str, str], message: str) -> None:
    with pytest.raises(MoaError, match=rf"conditioning: the chat template of models/chatty {message}"):
        shown(template, **keys)


@pytest.mark.parametrize(
    "endless",
    [
        "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}",
        "{% set text = messages[0]['content'] %}{% for a in text %}{% for b in text %}{% for c in text %}"
        "{% endfor %}{% endfor %}{% endfor %}",
        "{{ 10 ** (10 ** 9) }}",  # one operation, which no signal interrupts
    ],
)
def test_a_template_that_never_ends_is_ended(endless: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "SECONDS", 1)
    began = time.process_time()
    with pytest.raises(MoaError, match="the chat template of models/chatty does not end within 1 seconds; try chat: f"):
        shown(TURNS + endless)
    assert time.process_time() - began < 1, "what does not end does not end in a child"


def test_an_added_token_that_the_template_writes_is_text_in_a_prompt() -> None:
    """<think> is no special token of the tokenizer's, but the template marks with it where thinking begins."""
    tokenizer = with_template(TURNS + "<think>")
    tokenizer.add_tokens(["<think>", "blue"])  # not special
    think, blue = tokenizer.convert_tokens_to_ids(["<think>", "blue"])
    built = build("Hi <think> blue", None, ["a"], Conditioning(chat=True), tokenizer)
    (row,) = token_rows([built], tokenizer)
    assert row.count(think) == 1 and row[-1] == think, "the template's own"
    assert row.count(blue) == 1, "a word is a word"
    assert "Hi <think> blue" in decode([row], tokenizer)[0]


def test_a_policys_card_keeps_the_switches() -> None:
    """Training writes the section into policy.json; `moa respond` reads it from there."""
    given = Conditioning.model_validate({"chat": True, "chat_template_kwargs": {"enable_thinking": False, "n": [1]}})
    assert Conditioning.model_validate(json.loads(json.dumps(given.model_dump()))) == given
