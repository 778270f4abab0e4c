"""A conversation with a policy: its history through the chat template, the preference as every prompt tells it.

The system's message states the preference once, or every message of the user does (`conditioning.role`); the newest
preference stands in all of them, so that it takes effect at once. What no longer fits into the context leaves at the
front.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from moa.errors import MoaError
from moa.experiment.preferences import Preference
from moa.lm import answering
from moa.lm.answering import Answerer, Prompting, Sampling
from moa.lm.chat import render
from moa.lm.conditioning import as_text, place, preference_text, token_rows
from moa.lm.generation import Decoding
from moa.lm.targets import Targets


@dataclass(frozen=True)
class Turn:
    """A message and its answer."""

    message: str
    answer: str


@dataclass(frozen=True)
class Reading:
    """How a policy reads a conversation.

    Attributes:
        targets: where given, prompts show target rewards instead of the preference.
    """

    prompting: Prompting
    targets: Targets | None
    tokenizer: PreTrainedTokenizerBase

    def told(self, preference: Preference | None) -> str | None:
        """Return the preference as prompts tell it; None where they do not."""
        asked = self.prompting
        if preference is None or not asked.conditioned:
            return None
        if self.targets is not None:
            return self.targets.text(preference, asked.objectives)
        return preference_text(preference, asked.objectives, asked.conditioning.format)

    def text(self, turns: Sequence[Turn], message: str, preference: Preference | None) -> str:
        """Return the text before the answer to `message`, for `token_rows`; only a chat template reads the turns."""
        spec, shown = self.prompting.conditioning, self.told(preference)
        if not spec.chat:
            return place(message, shown, spec, self.tokenizer)
        stated = shown is not None and spec.role == "system"
        form = spec.plain if stated or shown is None else spec.template.replace("{preference}", shown)
        messages = [{"role": "system", "content": shown}] if stated and shown is not None else []
        for turn in (*turns, Turn(message, "")):
            messages.append(
                {"role": "user", "content": form.replace("{prompt}", as_text(turn.message, self.tokenizer))}
            )
            said = turn.answer.rpartition("</think>")[2]  # templates leave out of the history what was only thought
            messages.append({"role": "assistant", "content": as_text(said, self.tokenizer)})
        return render(messages[:-1], self.tokenizer, spec.chat_template_kwargs)


def reading(answerer: Answerer) -> Reading:
    """Return how the policies that answer read."""
    return Reading(answerer.prompting, answerer.cards[0].targets if answerer.cards else None, answerer.tokenizer)


class Conversation:
    """Turns with one answerer.

    What an answer draws depends on the seed, the message's number and how often it was asked for anew, alone.

    Attributes:
        turns: what was said, as far as it still fits.
        dropped: turns that the newest answer no longer read, and that are gone.
    """

    def __init__(self, answerer: Answerer, decoding: Decoding, seed: int) -> None:
        self.answerer, self.decoding, self.seed = answerer, decoding, seed
        self.reading = reading(answerer)
        self.preference: Preference | None = None
        self.reset()

    def reset(self) -> None:
        """Forget what was said."""
        self.turns: list[Turn] = []
        self.dropped, self._number, self._draw = 0, 0, 0

    def prefer(self, preference: Preference | None) -> None:
        """Answer at another preference from now on."""
        self.answerer.switch(preference)
        self.preference = preference

    def ask(self, message: str) -> str:
        """Return the answer to the next message; where there is none, nothing was said.

        Raises:
            MoaError: the message alone does not fit into the context, or the chat template refuses it.
        """
        return self._answer(self.turns, message, self._number + 1, 0)

    def again(self, draw: bool) -> str:
        """Return another answer to the last message, in place of the last: with another draw, or with the same one."""
        *before, last = self.turns
        return self._answer(before, last.message, self._number, self._draw + draw)

    def _answer(self, before: Sequence[Turn], message: str, number: int, draw: int) -> str:
        kept, text = self._fit(before, message)
        sampling = Sampling(self.decoding, 1, f"chat {self.seed} {number} {draw}")
        (said,) = answering.respond(self.answerer, [text], sampling)
        self.dropped, self._number, self._draw = len(before) - len(kept), number, draw
        self.turns = [*kept, Turn(message, said.text.strip())]
        return self.turns[-1].answer

    def _fit(self, before: Sequence[Turn], message: str) -> tuple[list[Turn], str]:
        """Return the newest turns that fit before the message, and the text of all."""
        room = self.answerer.context - self.decoding.max_new_tokens
        kept = list(before)
        while True:
            text = self.reading.text(kept, message, self.preference)
            count = len(token_rows([text], self.answerer.tokenizer)[0])
            if count <= room:
                return kept, text
            if not kept or not self.reading.prompting.conditioning.chat:
                raise MoaError(
                    f"the message and its frame are {count} tokens, and the model's context leaves room for {room}"
                    f" beside {self.decoding.max_new_tokens} new ones; shorten the message"
                )
            kept = kept[1:]
