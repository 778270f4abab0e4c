"""One question to an OpenAI-compatible endpoint, with whatever can go wrong on the way.

The time of a request and the size of its answer are bounded, redirects are not followed, and the key goes nowhere but
into a header of the request. A timeout, a broken connection, status 429 or 5xx and JSON that is cut off are tried
again; anything else ends the run in one line.
"""

import asyncio
import email.utils
import json
import logging
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

import httpx2

from moa.errors import MoaError
from moa.experiment.rewards import Endpoint
from moa.rewards.answers import Answer, Answers

log = logging.getLogger("moa")
MOST_BYTES = 2**20  # of what an endpoint sends for one question
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds before the second try, doubled for each further one
LONGEST_ASKED = 120.0  # seconds that an endpoint may ask to be left alone


class Again(Exception):
    """A failure that may pass; `wait` is how many seconds the endpoint asks to be left alone."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class Asker:
    """Asks a model; `name` is the reward's, for messages."""

    def __init__(self, name: str, spec: Endpoint, key: str | None) -> None:
        self.name, self.spec, self._key = name, spec, key
        # Certificates are read once; an address without TLS needs none.
        plain = spec.url.startswith("http:")
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if plain else httpx2.create_ssl_context()
        for library in ("httpx2", "httpcore2"):  # they would report every request
            logging.getLogger(library).setLevel(logging.WARNING)

    def client(self) -> httpx2.AsyncClient:
        """Return a client; a proxy of the environment is used, but not for this machine."""
        headers = {"Accept-Encoding": "identity"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        return httpx2.AsyncClient(
            headers=headers,
            verify=self._tls,
            timeout=self.spec.timeout,
            follow_redirects=False,
            trust_env=not self.spec.here,
        )

    async def ask(self, client: httpx2.AsyncClient, text: str, answers: Answers) -> Answer:
        """Return the answer to a text, after as many tries as it takes and is allowed.

        Raises:
            MoaError: the requests are used up, no try succeeded, or the endpoint refuses.
        """
        for tried in range(self.spec.retries + 1):
            if not answers.count(self.spec.requests):
                raise MoaError(
                    f"reward {self.name}: {self.spec.requests} requests were made, and rewards.{self.name}.requests"
                    " allows no more; raise it and run the same command again: what was answered is kept"
                )
            try:
                async with asyncio.timeout(self.spec.timeout):
                    return await self._once(client, text)
            except TimeoutError:
                failed = Again(f"no whole answer within {self.spec.timeout:g} s")
            except httpx2.TransportError as error:
                failed = Again(f"{type(error).__name__}: {self._safe(str(error)) or 'the connection failed'}")
            except Again as error:
                failed = error
            if tried == self.spec.retries:
                raise self._refused(f"{failed}, after {tried + 1} tries")
            if failed.wait is not None and failed.wait > LONGEST_ASKED:
                raise self._refused(f"{failed}; it asks to be left alone for {failed.wait:.0f} s")
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2**tried) if failed.wait is None else failed.wait
            log.info("reward %s: %s; next try in %.1f s", self.name, failed, wait)
            await asyncio.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _refused(self, what: str) -> MoaError:
        return MoaError(
            f"reward {self.name}: {self.spec.url} did not answer ({what}); see that it is up and that url, model and"
            " key are right, then run the same command again: what was answered is kept"
        )

    async def _once(self, client: httpx2.AsyncClient, text: str) -> Answer:
        asked = {
            "model": self.spec.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self.spec.max_tokens,
            "temperature": 0,
        }
        content = bytearray()
        async with client.stream("POST", f"{self.spec.url.rstrip('/')}/chat/completions", json=asked) as response:
            status, headers = response.status_code, response.headers
            if 300 <= status < 400:
                host = urlsplit(headers.get("location", "")).netloc or "elsewhere"
                raise self._refused(f"HTTP {status}, a redirect to {self._safe(host)}, which is not followed")
            async for part in response.aiter_raw():
                content += part
                if len(content) > MOST_BYTES:
                    raise self._refused(f"it sends more than {MOST_BYTES} bytes")
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        said = self._safe(_message(found) or content.decode(errors="replace"))
        if status == 429 or status >= 500:
            raise Again(f"HTTP {status}: {said}", _wait(headers.get("retry-after")))
        if status != 200:
            raise self._refused(f"HTTP {status}: {said}")
        if found is None:
            raise Again(f"JSON that is cut off or none: {said}")
        return self._answer(found, said)

    def _answer(self, found: Any, said: str) -> Answer:
        try:
            choice = found["choices"][0]
            text, cut = choice["message"]["content"], choice.get("finish_reason") == "length"
        except (KeyError, IndexError, TypeError, AttributeError):
            text, cut = None, False
        if not isinstance(text, str):
            raise self._refused(f"no chat completion with a text: {said}")
        return Answer(text if self._key is None else text.replace(self._key, "***"), cut)

    def _safe(self, said: str) -> str:
        """Return the beginning of what somebody sent, on one line, without the key if it is in there."""
        return " ".join((said if self._key is None else said.replace(self._key, "***")).split())[:200]


def _message(found: Any) -> str:
    """Return the message of an error as OpenAI's API sends it; '' where there is none."""
    error = found.get("error") if isinstance(found, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else ""


def _wait(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or a date; None where it says neither."""
    if value is None:
        return None
    try:
        return max(0.0, float(value)) if value.strip().isdigit() else max(0.0, _date(value) - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def _date(value: str) -> float:
    return email.utils.parsedate_to_datetime(value).timestamp()
