"""One call to the endpoint, tried again as long as that makes sense, and counted.

The official client speaks the protocol; its own retries are off, so that ours are the only ones. It is imported here,
inside a function, and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from expllm_jax.engine.llm.config import LlmConfig
from expllm_jax.engine.llm.request import ChatRequest, Completion, estimated_tokens
from expllm_jax.engine.llm.retries import Pace, backoff, retry_after, waited
from expllm_jax.engine.narration import NarratorFailed, UnusableReply
from expllm_jax.errors import ExpllmError

if TYPE_CHECKING:
    import openai

_PASSING = frozenset({408, 409, 425, 429})  # and all from 500 on: the same call may work later
_OF_THIS_REQUEST = frozenset({"content_filter", "content_policy_violation", "context_length_exceeded"})
_NO_KEY = "none"  # the official client insists on sending one; servers without keys ignore it
_SHOWN = 300  # characters of what an endpoint says


@dataclass
class Traffic:
    """What went over the wire in this run."""

    sent: int = 0  # requests, retries included
    unanswered: int = 0  # of these: no answer that could be read came back; the endpoint may have charged for some


class _TryAgain(Exception):
    """This try failed in a way that may pass."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.problem = problem
        self.wait = wait  # seconds that the endpoint asked for


class ChatClient:
    """Asks the endpoint of a configuration. At most `concurrency` requests are on the wire.

    Raises:
      ExpllmError: the environment variable of the key is not set, or the package openai is missing.
    """

    def __init__(self, config: LlmConfig) -> None:
        self._config = config
        self._key = _api_key(config.api_key_env)
        _require_openai()
        self._client: openai.AsyncOpenAI | None = None
        self._room = asyncio.Semaphore(config.concurrency)
        self._stopping = asyncio.Event()
        self._pace = Pace(config.requests_per_minute, self._stopping)
        self._rng = random.Random()
        self._given_up = 0  # calls in a row that ended without an answer
        self.traffic = Traffic()

    async def complete(self, request: ChatRequest) -> Completion:
        """The endpoint's answer, whatever the model said in it.

        Raises:
          NarratorFailed: none came in all tries.
          UnusableReply: the endpoint refuses this one question.
          ExpllmError: it would refuse every question, or has not answered for too long.
        """
        tries = 0
        while True:
            try:
                async with self._room:
                    reply = await self._once(request)
                self._given_up = 0
                return reply
            except _TryAgain as failure:
                tries += 1
                self.traffic.unanswered += 1
                too_long = failure.wait > self._config.longest_retry_after
                if tries > self._config.retries or too_long:
                    self._give_up(failure.problem, tries)
                self._pace.hold(failure.wait)
                first, longest = self._config.backoff, self._config.longest_backoff
                pause = max(failure.wait, backoff(tries, first, longest, self._rng))
                if not await waited(pause, self._stopping):
                    problem = f"the run stopped before another try (the last: {failure.problem})"
                    raise NarratorFailed(problem) from None

    def stop(self) -> None:
        """Lets requests on the wire end, and ends calls that wait for another try."""
        self._stopping.set()

    async def close(self) -> None:
        """Closes the connections; a later call opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _give_up(self, problem: str, tries: int) -> NoReturn:
        self._given_up += 1
        if self._given_up >= self._config.give_up_after:
            raise ExpllmError(
                f"{self._config.base_url} has not answered {self._given_up} calls in a row (the last: {problem})",
                "see that it is up, and give the same command again: what is finished is kept",
            )
        raise NarratorFailed(f"no answer in {tries} {'try' if tries == 1 else 'tries'} (the last: {problem})")

    async def _once(self, request: ChatRequest) -> Completion:
        """One request. Raises _TryAgain, and what `complete` raises."""
        import openai

        if not await self._pace.turn():
            raise NarratorFailed("the run stopped before the question was sent")
        self.traffic.sent += 1
        try:
            # The client's own limit is for each read; a server that drips a byte now and then would never end.
            async with asyncio.timeout(self._config.timeout):
                response = await self._open().chat.completions.with_raw_response.create(
                    model=request.model, messages=request.messages(), **dict(request.settings)
                )
        except (TimeoutError, openai.APITimeoutError):
            raise _TryAgain(f"no whole answer within {self._config.timeout:g} s") from None
        except openai.APIStatusError as error:
            self._refused(error)
        except openai.APIConnectionError as error:
            cause = error.__cause__
            told = f"{type(cause).__name__}: {cause}" if cause is not None else str(error)
            raise _TryAgain(f"the connection failed ({self._shown(told)})") from None
        return self._read(request, response.http_response.content)

    def _refused(self, error: openai.APIStatusError) -> NoReturn:
        status, said = error.status_code, self._shown(error.message)
        problem = f"the endpoint answers {status}: {said}"
        if error.code in _OF_THIS_REQUEST:
            raise UnusableReply(problem) from None
        if status == 413:
            raise NarratorFailed(f"{problem} (the question is too large for it)") from None
        spent_for_good = error.code == "insufficient_quota"  # comes as 429, but waiting does not help
        if (status in _PASSING or status >= 500) and not spent_for_good:
            raise _TryAgain(problem, retry_after(error.response.headers)) from None
        raise ExpllmError(f"{self._config.base_url} refuses the call: {problem}", self._remedy(status)) from None

    def _remedy(self, status: int) -> str:
        if status in (401, 403):
            name = self._config.api_key_env
            if name:
                return f"see that the environment variable {name} holds a key that may use {self._config.model}"
            return "name the environment variable that holds the key with --api-key-env"
        if status == 404:
            return f"see that the address is that of the API (it often ends in /v1) and knows {self._config.model}"
        return "mend the settings; every other call would be refused as well"

    def _read(self, request: ChatRequest, body: bytes) -> Completion:
        """The answer in a body. Raises _TryAgain for one that is not what the protocol says: something between us and
        the model broke it, and the model may do better the next time."""
        try:
            told = json.loads(body.decode())
            choice = told["choices"][0]
            content, finish = choice["message"].get("content"), choice.get("finish_reason")
            usage = told.get("usage") or {}
            if not isinstance(content, str | None):
                raise TypeError(f"content is a {type(content).__name__}")
            (content or "").encode()  # half a surrogate pair cannot be kept
            counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            shown = self._shown(body[: 4 * _SHOWN].decode(errors="replace"))
            raise _TryAgain(f"the answer is no chat completion ({type(error).__name__}): {shown!r}") from None
        reported = [count for count in counts if isinstance(count, int) and count >= 0]
        estimated = len(reported) < len(counts)
        if estimated:
            reported = [request.estimated_tokens_in(self._config.picture_tokens), estimated_tokens(content or "")]
        tokens_in, tokens_out = reported
        content = None if content is None else self._without_key(content)
        cost = self._config.cost(tokens_in, tokens_out)
        return Completion(content, str(finish or ""), tokens_in, tokens_out, estimated, cost)

    def _without_key(self, text: str) -> str:
        """Some endpoints quote the key they were sent."""
        return text.replace(self._key, "[key]") if self._key else text

    def _shown(self, text: str) -> str:
        text = " ".join(self._without_key(text).split())
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"

    def _open(self) -> Any:
        if self._client is None:
            import openai

            client = openai.AsyncOpenAI(
                base_url=self._config.base_url,
                api_key=self._key or _NO_KEY,
                timeout=self._config.timeout,
                max_retries=0,
            )
            if not self._key:  # it takes these from the environment; an endpoint without a key is not whom they are for
                client.organization = client.project = None
            self._client = client
        return self._client


def _api_key(variable: str) -> str:
    """The key in the environment variable of that name; "" if none is named."""
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ExpllmError(
            f"the environment variable {variable} is not set",
            "put the endpoint's key into it, or name another variable",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        # It cannot be a header's value, and the error that says so would quote it.
        raise ExpllmError(
            f"what the environment variable {variable} holds is no key: blanks, line ends or characters beyond ASCII",
            "put the key alone into it",
        )
    return key


def _require_openai() -> None:
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise ExpllmError(
            f"the language-model narrator needs the package openai ({error})",
            "install it with: pip install 'expllm_jax[llm]'",
        ) from error
