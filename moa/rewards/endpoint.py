"""A model behind an OpenAI-compatible endpoint as reward or judge: it is asked for a number, in its own words.

What it has answered is in moa/rewards/answers.py; what it is asked over the network, in moa/rewards/asking.py.
"""

import asyncio
import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx2

from moa.errors import MoaError
from moa.experiment.endpoint import LIMITS, LIMITS_VARIABLE, Endpoint
from moa.job.command import Progress
from moa.rewards.answers import Answer, Answers
from moa.rewards.asking import Asker
from moa.rewards.scoring import Scorer, Scores, fill, whole

log = logging.getLogger("moa")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
READ = 20_000  # characters of an answer in which a number is looked for


class EndpointScorer(Scorer):
    """Asks what was not answered yet, and finds the numbers in the answers."""

    def __init__(self, name: str, spec: Endpoint, key: str | None) -> None:
        self.name, self.spec, self.low = name, spec, spec.low
        self.answers = Answers(spec.url, spec.model, spec.template, str(spec.max_tokens))
        self.asker = Asker(name, spec, key)

    def score(self, prompts: list[str], responses: list[str]) -> Scores:
        """Score n texts; equal ones are asked once, and answers are kept as they come.

        Raises:
            MoaError: no answer was had, or one holds no number within the bounds; answers so far are kept.
        """
        asked = {fill(self.spec.template, p, r): r for p, r in zip(prompts, responses, strict=True)}
        numbers = {}
        for text in asked:
            known = self.answers.get(text)
            if known is not None:
                numbers[text] = self._number(text, asked[text], known)
        missing = {text: response for text, response in asked.items() if text not in numbers}
        if missing:
            log.info("reward %s: %d answers are known, %d are asked for", self.name, len(numbers), len(missing))
            asyncio.run(self._ask(missing, numbers))
        return whole([numbers[fill(self.spec.template, p, r)] for p, r in zip(prompts, responses, strict=True)])

    async def _ask(self, missing: dict[str, str], numbers: dict[str, float]) -> None:
        """Add the number of every missing text; after a failure what is under way ends, and nothing else begins."""
        todo, failures = iter(missing.items()), list[MoaError]()
        clock = Progress(f"reward {self.name}", len(missing))

        async def work(client: httpx2.AsyncClient) -> None:
            for text, response in todo:
                if failures:
                    return
                try:
                    answer = await self.asker.ask(client, text, self.answers)
                    self.answers.put(text, answer)
                    numbers[text] = self._number(text, response, answer)
                except MoaError as error:
                    failures.append(error)
                    return
                clock.add(1)

        async with self.asker.client() as client:
            await asyncio.gather(*(work(client) for _ in range(self.spec.concurrency)))
        if failures:
            raise failures[0]

    def _number(self, text: str, response: str, answer: Answer) -> float:
        spec, said = self.spec, f"the answer {answer.text[:120]!r} to response {response[:80]!r}"
        remedy = (
            f"correct rewards.{self.name}.template or pattern, or delete {self.answers.path(text)} to ask it again;"
            " answers so far are kept"
        )
        found = re.search(spec.pattern, answer.text[:READ])
        try:
            value = float(found[1]) if found else None
        except (TypeError, ValueError):
            value = None
        if value is None:
            cut = f", which was cut off at max_tokens {spec.max_tokens}," if answer.cut else ""
            raise MoaError(f"reward {self.name}: no number in {said}{cut} by pattern {spec.pattern!r}; {remedy}")
        if not (math.isfinite(value) and spec.low <= value <= spec.high):
            raise MoaError(
                f"reward {self.name}: number {value:g} in {said} is outside of [{spec.low:g}, {spec.high:g}]; {remedy}"
            )
        return value


def check(name: str, spec: Endpoint) -> str | None:
    """Return the key, None where none is named; nothing is asked.

    Raises:
        MoaError: the run is offline, or the key is not in the environment; it is never shown.
    """
    offline = next((v for v in OFFLINE if os.environ.get(v, "").lower() in ("1", "true", "yes", "on")), None)
    if offline is not None and not spec.here:
        raise MoaError(
            f"rewards.{name}: {offline} is set, so the run is offline, and kind endpoint asks {spec.url}; unset it, or"
            " name another reward"
        )
    if spec.api_key_env is None:
        return None
    key = os.environ.get(spec.api_key_env, "")
    if not key:
        raise MoaError(
            f"rewards.{name}.api_key_env: no environment variable {spec.api_key_env}; export it with the endpoint's key"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise MoaError(
            f"rewards.{name}.api_key_env: what {spec.api_key_env} holds is no key: it has spaces, line ends or other"
            " letters than ASCII's; export it again"
        )
    return key


def export(asked: Mapping[str, Endpoint]) -> None:
    """Tell jobs started from here how endpoints are asked; keys are in their own variables alone."""
    limits = {name: {key: getattr(spec, key) for key in LIMITS} for name, spec in asked.items()}
    os.environ[LIMITS_VARIABLE] = json.dumps(limits)


def load(name: str, spec: Endpoint, models: Sequence[Path], device: str | None) -> EndpointScorer:
    """Return the scorer; nothing is asked yet. How it is asked stands in the environment of a run's jobs."""
    given = json.loads(os.environ.get(LIMITS_VARIABLE, "{}")).get(name, {})
    spec = Endpoint.model_validate({**spec.model_dump(), **given})
    return EndpointScorer(name, spec, check(name, spec))
