"""Which model is asked, how, and what it may cost."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal
from urllib.parse import urlsplit

from expllm_jax.errors import ExpllmError

PICTURE_MODES = ("text", "picture")
LENGTH_KEYS = ("max_tokens", "max_completion_tokens")


@dataclasses.dataclass(frozen=True)
class LlmConfig:
    """Where the language model is and how it is asked. No secret is in here: the key is named, not held."""

    base_url: str  # of the API, up to and with its version: "http://localhost:8000/v1"
    model: str  # the name that the endpoint knows it by
    api_key_env: str = ""  # the environment variable that holds the key; "": the endpoint wants none
    temperature: float | None = 0.7  # of what is written; judgements are asked for at 0; None: sent with nothing
    max_tokens: int = 700  # of one answer; a longer one is cut off and therefore unusable
    length_key: str = "max_tokens"  # what the endpoint calls that limit: some models want "max_completion_tokens"
    timeout: float = 120.0  # seconds until a call without a whole answer is given up
    retries: int = 5  # further calls after one that failed in a way that may pass
    backoff: float = 1.0  # seconds before the first retry; doubles with each, and is drawn between half and all of that
    longest_backoff: float = 60.0  # seconds
    longest_retry_after: float = 300.0  # seconds; an endpoint that asks to be left alone for longer counts as down
    give_up_after: int = 20  # calls in a row without an answer, retries and all, after which the run stops
    concurrency: int = 16  # calls under way at once; servers batch them
    requests_per_minute: float | None = None  # None: as many as come
    picture_mode: Literal["text", "picture"] = "text"  # "picture": the model also sees the face
    picture_bytes: int = 1_000_000  # of a picture's file; a larger one is not sent
    picture_tokens: int = 1_500  # a picture counts as, until the endpoint says what it was
    budget_tokens: int | None = None  # in and out together, over all runs that share the cache; None: no limit
    budget: float | None = None  # money, in the currency of the prices
    price_in: float = 0.0  # per million tokens
    price_out: float = 0.0  # per million tokens
    prompts: str = "v1"  # a folder of `prompts/`
    draw: int = 0  # another number: ask anew also where an answer is kept, for faces that were rejected with it

    def __post_init__(self) -> None:
        self._check_url()
        if not self.model:
            raise ExpllmError("no model is named", "give the name that the endpoint knows it by, with --model")
        for key, allowed in (("picture_mode", PICTURE_MODES), ("length_key", LENGTH_KEYS)):
            if getattr(self, key) not in allowed:
                raise ExpllmError(f"{key} is {getattr(self, key)!r}", f"use one of {', '.join(allowed)}")
        at_least = {
            "temperature": 0, "max_tokens": 1, "retries": 0, "backoff": 0, "longest_backoff": 0,
            "longest_retry_after": 0, "give_up_after": 1, "concurrency": 1, "picture_bytes": 1, "picture_tokens": 0,
            "budget_tokens": 0, "budget": 0, "price_in": 0, "price_out": 0, "draw": 0,
        }  # fmt: skip
        for key, least in at_least.items():
            value = getattr(self, key)
            if value is not None and not least <= value < math.inf:
                raise ExpllmError(f"{key} is {value}", f"use {least} or more")
        for key in ("timeout", "requests_per_minute"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise ExpllmError(f"{key} is {value}", "use a number greater than 0")
        if self.budget is not None and not (self.price_in or self.price_out):
            raise ExpllmError(
                f"there is a budget of {self.budget:g}, but no price",
                "give --price-in and --price-out, per million tokens",
            )

    def _check_url(self) -> None:
        try:
            url = urlsplit(self.base_url)
            fits = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:  # a port that is no number, half a bracket
            fits, url = False, urlsplit("")
        if url.username or url.password or url.query or url.fragment:
            # Not quoted: it may hold a secret, and URLs are shown and recorded.
            raise ExpllmError(
                "the endpoint's address holds a user, a password or a query",
                "give the bare address, and name the environment variable of the key with --api-key-env",
            )
        if not fits:
            raise ExpllmError(
                f"{self.base_url!r} is no address of an endpoint", "use one like http://localhost:8000/v1"
            )

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """What so many tokens cost, in the currency of the prices."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6
