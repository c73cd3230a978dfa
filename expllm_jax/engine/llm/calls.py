"""Questions and their answers: from the cache if they are there, from the endpoint within the budget if not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from expllm_jax.engine.llm.budget import Budget
from expllm_jax.engine.llm.cache import ReplyCache
from expllm_jax.engine.llm.client import ChatClient
from expllm_jax.engine.llm.config import LlmConfig
from expllm_jax.engine.llm.request import ChatRequest, Completion


class Calls:
    """Answers questions so that each is paid for once: after a restart, and when several ask the same at once.

    Args:
      replies: the file of the cache.

    Raises:
      ExpllmError: as `ChatClient` and `ReplyCache`.
    """

    def __init__(self, config: LlmConfig, replies: Path) -> None:
        self._config = config
        self._client = ChatClient(config)
        self._cache = ReplyCache(replies)
        self._budget = Budget(config, self._cache.spent())
        self._under_way: dict[str, asyncio.Task[Completion]] = {}
        self._asked = self._answered = 0

    async def answer(self, request: ChatRequest) -> Completion:
        """The answer to a question; raises as `ChatClient.complete`, and BudgetSpent.

        Who stops waiting does not stop the call: its answer, on its way and paid for, still goes into the cache.
        """
        self._asked += 1
        key = request.key
        call = self._under_way.get(key)
        if call is None:
            call = self._under_way[key] = asyncio.create_task(self._fetched(key, request))
            call.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(call)

    async def close(self) -> None:
        """Waits for the requests on the wire and keeps their answers; a second time does nothing."""
        self._client.stop()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        await self._client.close()
        self._cache.close()

    def report(self) -> dict[str, Any]:
        """What was asked in this run, and what all runs on this cache spent: plain JSON values."""
        spent, traffic = self._budget.spent, self._client.traffic
        return {
            "questions": self._asked,
            "questions_from_cache": self._asked - self._answered,
            "requests": traffic.sent,
            "requests_unanswered": traffic.unanswered,
            "spent": {
                "calls": spent.calls,
                "tokens_in": spent.tokens_in,
                "tokens_out": spent.tokens_out,
                "calls_estimated": spent.estimated_calls,
                "cost": spent.cost,
            },
        }

    async def _fetched(self, key: str, request: ChatRequest) -> Completion:
        kept = await self._cache.get(key)
        if kept is not None:
            return kept
        tokens_in = request.estimated_tokens_in(self._config.picture_tokens)
        async with self._budget.held(tokens_in, request.max_tokens):
            reply = await self._client.complete(request)
            self._budget.count(reply.tokens_in, reply.tokens_out, reply.estimated, reply.cost)
            await self._cache.put(key, request.model, reply)
        self._answered += 1
        return reply

    def _ended(self, key: str, call: asyncio.Task[Completion]) -> None:
        del self._under_way[key]
        if not call.cancelled():
            call.exception()  # seen, also if nobody waits any more
