"""A conversation: its history, the newest preference in all of it, its draws and its bound; and what is typed in it."""

import gc
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moa import cli
from moa.errors import MoaError, shown
from moa.experiment.keys import Conditioning
from moa.lm import answering
from moa.lm.answering import Answerer, Prompting
from moa.lm.conditioning import token_rows
from moa.lm.conversation import Conversation, Reading, Turn
from moa.lm.generation import Decoding
from moa.respond import find, load
from moa.store import terminal
from tests import tiny_models, tiny_task

DECODING = Decoding(6, 1.0, 1.0)
ONE, OTHER = (1.0, 0.0), (0.25, 0.75)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_task.save(tmp_path_factory.mktemp("results") / "t", tiny_models.CHAT, chat=True, format="tags")


@pytest.fixture(scope="module")
def answerer(task: Path) -> Answerer:
    return load(find(task / "policies" / "linear", None))


@pytest.fixture
def talk(answerer: Answerer) -> Conversation:
    made = Conversation(answerer, DECODING, 0)
    made.prefer(ONE)
    return made


def reading(answerer: Answerer, **keys: Any) -> Reading:
    prompting = Prompting(["a", "b"], Conditioning.model_validate(keys), conditioned=True)
    return Reading(prompting, None, answerer.tokenizer)


@pytest.mark.parametrize(
    "keys",
    [
        {"chat": True, "role": "system", "template": "{preference}\n{prompt}", "plain": "Q: {prompt}"},
        {"chat": True, "template": "{prompt} as {preference}"},
        {"chat": False},
    ],
)
def test_a_first_message_is_read_as_a_prompt_is(answerer: Answerer, keys: dict[str, Any]) -> None:
    read = reading(answerer, **keys)
    for message, preference in (("The {lamp}", OTHER), ("</s> Hi", None)):
        assert read.text([], message, preference) == read.prompting.text(message, preference, answerer.tokenizer)


def test_the_newest_preference_stands_in_the_whole_history(answerer: Answerer) -> None:
    turns = [Turn("One", "Two"), Turn("Three", "Four")]
    told = reading(answerer, chat=True, template="{preference}: {prompt}", format="tags")
    p = "<a=25> <b=75>"
    expected = f"[user] {p}: One [assistant] Two [user] {p}: Three [assistant] Four [user] {p}: Five [assistant]"
    assert told.text(turns, "Five", OTHER).removeprefix("<s>") == expected
    stated = reading(answerer, chat=True, role="system", format="tags")
    expected = f"[system] {p} [user] One [assistant] Two [user] Three [assistant] Four [user] Five [assistant]"
    assert stated.text(turns, "Five", OTHER).removeprefix("<s>") == expected


def test_what_was_only_thought_is_no_history(answerer: Answerer) -> None:
    told = reading(answerer, chat=True)
    turns = [Turn("One", "<think>Two?</think>\n\nThree")]
    assert (
        told.text(turns, "Four", None).removeprefix("<s>") == "[user] One [assistant] \n\nThree [user] Four [assistant]"
    )


def test_the_same_conversation_gives_the_same_answers(talk: Conversation, answerer: Answerer) -> None:
    """Whatever was asked before; another seed and another draw give others."""
    said = [talk.ask("The lamp"), talk.ask("My sister")]
    drawn = talk.again(draw=True)
    assert drawn != said[1] and [t.answer for t in talk.turns] == [said[0], drawn]
    talk.reset()
    assert talk.turns == [] and [talk.ask("The lamp"), talk.ask("My sister")] == said
    other = Conversation(answerer, DECODING, 1)
    other.prefer(ONE)
    assert other.ask("The lamp") != said[0]


def test_a_preference_changes_the_last_answer_with_the_draws_that_it_had(talk: Conversation) -> None:
    before = talk.ask("The lamp")
    talk.prefer(OTHER)
    after = talk.again(draw=False)
    talk.reset()
    assert talk.ask("The lamp") == after != before


def test_what_no_longer_fits_leaves_at_the_front(talk: Conversation) -> None:
    """The model reads 128 tokens: what is kept is the longest end of the history that fits."""
    room = talk.answerer.context - DECODING.max_new_tokens
    said, dropped = [], 0
    for number in range(8):
        talk.ask(f"The lamp is good for number {number}")
        said.append(talk.turns[-1])
        dropped += talk.dropped
        assert talk.turns == said[dropped:]
        text = talk.reading.text(talk.turns[:-1], talk.turns[-1].message, ONE)
        assert len(token_rows([text], talk.answerer.tokenizer)[0]) <= room
        if talk.dropped:
            more = talk.reading.text(said[dropped - 1 : -1], talk.turns[-1].message, ONE)
            assert len(token_rows([more], talk.answerer.tokenizer)[0]) > room, "one more turn would not have fitted"
    assert dropped
    kept = list(talk.turns)
    with pytest.raises(MoaError, match=rf"are \d+ tokens, and .* leaves room for {room} beside 6 new ones; shorten"):
        talk.ask("lamp " * 200)
    assert talk.turns == kept, "nothing is lost"


class Typed(io.StringIO):
    """Standard input or output of a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def chat(
    task: Path, answerer: Answerer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run `moa chat` in this process; returns status, output and errors."""
    monkeypatch.setattr("moa.respond.load", lambda source: replace(answerer))

    def run(typed: str | bytes, *options: str, row: str = "linear") -> tuple[int, str, str]:
        stream = io.TextIOWrapper(io.BytesIO(typed.encode() if isinstance(typed, str) else typed), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", stream)
        monkeypatch.setattr(sys, "argv", ["moa", "chat", "--policy", str(task / "policies" / row), *options])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed, code = capsys.readouterr(), ended.value.code
        if isinstance(code, str):
            return 1, printed.out, f"{printed.err}{code}\n"
        return code or 0, printed.out, printed.err

    yield run
    gc.unfreeze()  # the command holds what it imports, and DuckDB counts its objects when Python ends


def test_a_conversation_through_a_pipe(chat: Callable[..., tuple[int, str, str]], talk: Conversation) -> None:
    """Answers alone on standard output; a mistake is one line, after which it goes on."""
    talk.answerer = replace(talk.answerer)
    talk.decoding = Decoding(6, 0.7, 0.9)  # of the evaluation
    talk.prefer((0.5, 0.5))
    expected = [talk.ask("The lamp"), talk.again(draw=True)]
    talk.prefer(OTHER)
    expected += [talk.again(draw=False), talk.ask("My sister")]
    typed = "\n/again\nThe lamp\n/again\n/prefer a=0.25,b=0.75\n/prefer\n/prefer c=1\n/prefer a=0.9\n/nope\n/again x\n"
    status, out, err = chat(typed + "  My sister\r\n/reset\n/help\n/quit\nnot asked\n")
    assert (status, out) == (0, "".join(f"{shown(answer)}\n" for answer in expected))
    mistakes = [line for line in err.splitlines() if line.startswith("error: ")]
    starts = [
        "/again: there is no message",
        "/prefer: no objective 'c'",
        "/prefer: [0.9, 0.0] is off",
        "no command '/nope'",
    ]
    assert len(mistakes) == 5
    assert all(line.startswith(f"error: {start}") for line, start in zip(mistakes, starts, strict=False))
    assert err.count("preference: a 0.25, b 0.75") == 2 and "what was said is forgotten" in err
    assert all(command in err for command in ("/prefer", "/again ", "/reset ", "/help ", "/quit "))


@pytest.mark.parametrize(
    ("typed", "options", "message"),
    [
        (b"\xff\xfe\n", (), "error: standard input is not UTF-8; give text in UTF-8\n"),
        ("", ("--preference", "a=0.3"), "error: --preference: [0.3, 0.0] is off the simplex"),
        ("", ("--preference", "a"), "error: --preference 'a': expected objective=weight pairs"),
    ],
)
def test_refused(
    chat: Callable[..., tuple[int, str, str]], typed: str | bytes, options: tuple[str, ...], message: str
) -> None:
    status, out, err = chat(typed, *options)
    assert (status, out) == (1, "") and err.splitlines(keepends=True)[-1].startswith(message)


def test_a_policy_that_takes_no_preference(chat: Callable[..., tuple[int, str, str]]) -> None:
    status, _, err = chat("/prefer a=1\n", row="reference")
    assert status == 0 and err.count("this policy takes no preference") == 2


def test_a_long_conversation_says_what_is_forgotten(chat: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = chat("The lamp is good for my sister and the family\n" * 6)
    assert status == 0 and len(out.splitlines()) == 6
    assert "the oldest message no longer fits into the model's context, and is forgotten" in err


def test_a_model_without_a_chat_template_continues_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_task.save(tmp_path / "t") / "policies" / "linear"
    source = find(folder, None)
    answerer = load(source)
    talk = Conversation(answerer, DECODING, 0)
    talk.prefer(ONE)
    answers = [talk.ask("The lamp"), talk.ask("The lamp")]
    assert answers[0] != answers[1], "each message has draws of its own"
    assert talk.reading.text(talk.turns, "The lamp", ONE) == "a 1.00 b 0.00 The lamp"
    monkeypatch.setattr("moa.respond.load", lambda source: answerer)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    from moa.cli.chatting import chat

    chat(folder)
    assert "has no chat template: it continues each text by itself" in capsys.readouterr().err
    gc.unfreeze()


def test_ctrl_c_and_ctrl_d_on_a_terminal(
    task: Path, answerer: Answerer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends an answer, and at the prompt says how to leave; Ctrl-D leaves."""
    from moa.cli.chatting import chat

    typed: list[Any] = ["The lamp", KeyboardInterrupt, "The lamp", "/again", EOFError]
    calls: list[int] = []
    real = answering.respond

    def type_next(prompt: str) -> str:
        found = typed.pop(0)
        if isinstance(found, str):
            return found
        raise found

    def interrupted(*given: Any) -> Any:
        calls.append(1)
        if len(calls) in (1, 3):
            raise KeyboardInterrupt
        return real(*given)

    out = Typed()
    monkeypatch.setattr("builtins.input", type_next)
    monkeypatch.setattr(sys, "stdin", Typed())
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr("moa.respond.load", lambda source: answerer)
    monkeypatch.setattr(answering, "respond", interrupted)
    chat(task / "policies" / "linear")
    err = capsys.readouterr().err
    assert typed == [] and len(out.getvalue().splitlines()) == 1, "the second call alone was answered"
    assert err.count("interrupted: the answer is left out") == 2 and "/quit or Ctrl-D leaves" in err
    gc.unfreeze()


def test_ctrl_c_ends_a_piped_conversation(
    chat: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(answering, "respond", interrupted)
    status, out, err = chat("The lamp\nMy sister\n")
    assert (status, out) == (130, "") and err.endswith("error: interrupted\n")


@pytest.mark.parametrize(("width", "columns"), [(200, True), (82, True), (81, False), (10, False), (0, False)])
def test_answers_stand_beside_each_other_where_there_is_room(
    width: int, columns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three columns of 24 characters, each with padding and a frame: 3 * (24 + 3) + 1 = 82. 0 is a file."""
    out = Typed() if width else io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr("shutil.get_terminal_size", lambda fallback=(80, 24): os.terminal_size((width, 24)))
    answers = ["A lamp, and a \x1b[31mred one\u202e.\nIt stands.", "word " * 40, "[bold]no markup"]
    terminal.beside(["a 1, b 0", "a 0.5, b 0.5", "a 0, b 1"], answers)
    text = out.getvalue()
    assert "\x1b" not in text and "\u202e" not in text and "[bold]no markup" in text and text.count("word") == 40
    assert r"\u001b[31mred" in text.replace("\n", "") or columns
    if columns:
        assert max(map(len, text.splitlines())) <= width
        first = text.splitlines()[1]
        assert first.index("a 1, b 0") < first.index("a 0.5, b 0.5") < first.index("a 0, b 1")
    else:
        assert text.startswith("a 1, b 0:\nA lamp") and "\n\na 0.5, b 0.5:\nword" in text
