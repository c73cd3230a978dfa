"""One question to the model, and the hash that its answer is kept under."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from expllm_jax.engine.llm.pictures import Picture

_BYTES_PER_TOKEN = 3  # English has more than four in every common tokenizer: an estimate that errs upwards
_TOKENS_PER_MESSAGE = 16  # of the chat's own marks


@dataclass(frozen=True)
class ChatRequest:
    """A system message, a user message and how to answer them."""

    model: str
    system: str
    user: str
    settings: tuple[tuple[str, Any], ...]  # of the call: temperature, seed, the limit on the answer's length
    max_tokens: int
    picture: Picture | None = None
    draw: int = 0  # tells apart questions that are the same

    @property
    def key(self) -> str:
        """SHA-256 of all that the model is told, 64 hex digits; of a picture by its own hash."""
        content = {
            "model": self.model,
            "system": self.system,
            "user": self.user,
            "settings": dict(self.settings),
            "picture": self.picture and self.picture.digest,
            "draw": self.draw,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def messages(self) -> list[dict[str, Any]]:
        """As the endpoint wants them; the picture as a data URL before the text."""
        user: Any = self.user
        if self.picture is not None:
            picture = {"type": "image_url", "image_url": {"url": self.picture.data_url()}}
            user = [picture, {"type": "text", "text": self.user}]
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]

    def estimated_tokens_in(self, picture_tokens: int) -> int:
        """About how many tokens the question has, rather too many than too few."""
        texts = (self.system, self.user)
        tokens = sum(_TOKENS_PER_MESSAGE + estimated_tokens(text) for text in texts)
        return tokens + (picture_tokens if self.picture is not None else 0)


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has, rather too many than too few."""
    return math.ceil(len(text.encode()) / _BYTES_PER_TOKEN)


@dataclass(frozen=True)
class Completion:
    """What the model answered, and what it took."""

    content: str | None  # None: the model gave no text
    finish_reason: str  # "stop"; "length": cut off
    tokens_in: int
    tokens_out: int
    estimated: bool  # the endpoint did not report the tokens
    cost: float  # in the currency of the prices
