"""A declared reward that a model behind an endpoint gives."""

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from moa.experiment.strict import Limit, Strict, holds_response

# How an endpoint is asked, which changes no answer: jobs have these from the environment, so that nothing reruns.
LIMITS, LIMITS_VARIABLE = ("requests", "concurrency", "timeout", "retries", "api_key_env"), "MOA_ENDPOINTS"


class Endpoint(Strict):
    """A chat model behind an OpenAI-compatible endpoint that is asked for a number; its answers are kept on disk."""

    kind: Literal["endpoint"]
    url: str = Field(pattern=r"^https?://[^\s/@?#]+(/[^\s@?#]*)?$")
    """Address of the endpoint up to where `/chat/completions` follows; without a key or a password."""
    model: str = Field(min_length=1)
    """Name of the model, as the endpoint calls it."""
    template: str
    """What it is asked, in one message; made of {prompt} and {response}."""
    pattern: str = r"(-?\d+(?:\.\d+)?)"
    """Regular expression whose one group is the number; its first match in the answer counts."""
    low: Limit
    """Least number that it may give, and the score of a blank response; another is an error."""
    high: Limit
    """Largest number that it may give."""
    max_tokens: int = Field(64, ge=1, le=100_000)
    """Most tokens of an answer."""
    requests: int = Field(1000, ge=1, le=1_000_000_000)
    """Most requests in all, by every job and rerun in this folder; what is answered already asks nothing."""
    concurrency: int = Field(4, ge=1, le=64)
    """Requests at a time."""
    timeout: float = Field(60.0, gt=0, le=3600)
    """Seconds that a request may take."""
    retries: int = Field(4, ge=0, le=20)
    """Further tries of a request after a timeout, status 429 or 5xx, or an answer that is cut off."""
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that holds the key; null sends none."""

    @model_validator(mode="after")
    def _askable(self) -> "Endpoint":
        holds_response(self.template)
        if self.high <= self.low:
            raise ValueError(f"high ({self.high:g}) must be above low ({self.low:g})")
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression: {error}") from None
        if groups != 1:
            raise ValueError(f"pattern {self.pattern!r} has {groups} groups; give one, (...), around the number")
        _ = urlsplit(self.url).port  # a ValueError where it is none
        if self.api_key_env is not None and self.url.startswith("http:") and not self.here:
            raise ValueError(f"url {self.url} would carry the key in the open; give an https address")
        return self

    @property
    def here(self) -> bool:
        """Return whether the endpoint is on this machine."""
        return urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")
