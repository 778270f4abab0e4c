"""A conversation with a trained policy, on a terminal or through a pipe: answers on standard output, the rest beside.

A line is a message, or a command that begins with a slash.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli.answering import ExperimentFile, PolicyFolder, parse_preference, told
from moa.errors import MoaError, nearest
from moa.job.process import importing
from moa.store.terminal import note, say

if TYPE_CHECKING:
    from moa.lm.conversation import Conversation
    from moa.respond import Source

COMMANDS = {
    "/prefer": "shows the preference; with weights, as /prefer helpful=0.8,humor=0.2, answers the last message at it",
    "/again": "answers the last message anew, with another draw",
    "/reset": "forgets what was said",
    "/help": "shows this",
    "/quit": "leaves, as Ctrl-D does; Ctrl-C ends an answer",
}


def chat(
    policy: PolicyFolder,
    preference: Annotated[
        str | None, typer.Option(help="the first preference; without it all objectives weigh the same")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the draws: the same conversation draws the same answers")] = 0,
    experiment: ExperimentFile = None,
) -> None:
    """Hold a conversation; /prefer changes the preference at once."""
    from moa.respond import find, load, weigh

    source = find(policy, experiment)
    first: Mapping[str, float] | None = parse_preference(preference)
    if first is None and source.steerable:
        first = source.even
    weights = weigh(source, first, policy)
    with importing():
        from moa.lm.conversation import Conversation
        from moa.lm.generation import Decoding

    conversation = Conversation(load(source), Decoding.evaluation(source.generation), seed)
    conversation.prefer(weights)
    Talk(conversation, source, policy).hold()


@dataclass(frozen=True)
class Talk:
    """What a person types, and what comes back."""

    conversation: "Conversation"
    source: "Source"
    policy: Path

    def hold(self) -> None:
        """Answer line by line until the input ends or says so; a mistake is said, and nothing is lost."""
        if not self.source.conditioning.chat:
            note("This policy has no chat template: it continues each text by itself, without what was said before.")
        note(f"{self._preference()}; /help shows the commands")
        for line in lines():
            if line.strip() == "/quit":
                break
            try:
                self._take(line)
            except KeyboardInterrupt:
                if not sys.stdin.isatty():
                    raise
                note("interrupted: the answer is left out")
            except MoaError as error:
                note(f"error: {error}")

    def _take(self, line: str) -> None:
        talk, (name, _, rest) = self.conversation, line.strip().partition(" ")
        if not line.startswith("/"):
            if line.strip():
                self._show(talk.ask(line.strip()))
        elif name not in COMMANDS:
            raise MoaError(f"no command '{name}'.{nearest(name, COMMANDS)} A message may begin with a space")
        elif name == "/prefer":
            self._prefer(rest)
        elif rest:
            raise MoaError(f"{name} stands alone")
        elif name == "/again":
            if not talk.turns:
                raise MoaError("/again: there is no message yet")
            self._show(talk.again(draw=True))
        elif name == "/reset":
            talk.reset()
            note("what was said is forgotten")
        else:
            note("\n".join(f"{command:8} {meaning}" for command, meaning in COMMANDS.items()))

    def _prefer(self, text: str) -> None:
        from moa.respond import weigh

        if text and self.source.steerable:
            self.conversation.prefer(weigh(self.source, parse_preference(text, "/prefer"), self.policy, "/prefer"))
        note(self._preference())
        if text and self.source.steerable and self.conversation.turns:
            self._show(self.conversation.again(draw=False))

    def _show(self, answer: str) -> None:
        if count := self.conversation.dropped:
            messages = "message no longer fits" if count == 1 else f"{count} messages no longer fit"
            note(f"the oldest {messages} into the model's context, and {'is' if count == 1 else 'are'} forgotten")
        say(answer)

    def _preference(self) -> str:
        weights = self.conversation.preference
        if weights is None:
            return "this policy takes no preference"
        return f"preference: {told(self.source.objectives, weights)}"


def lines() -> Iterator[str]:
    """Yield the lines of standard input, asked for with a prompt on a terminal.

    Raises:
        MoaError: it is no UTF-8.
    """
    if sys.stdin is None:  # the shell has closed it
        return
    asking = sys.stdin.isatty() and sys.stdout.isatty()
    if asking:
        import readline  # noqa: F401  arrow keys and the lines before
    while True:
        try:
            yield input("> ") if asking else next(sys.stdin).removesuffix("\n")
        except (EOFError, StopIteration):
            if asking:
                note("")
            return
        except KeyboardInterrupt:
            if not asking:
                raise
            note("\n/quit or Ctrl-D leaves")
        except UnicodeDecodeError:
            raise MoaError("standard input is not UTF-8; give text in UTF-8") from None
