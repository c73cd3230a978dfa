"""What the answers may take: tokens and money, counted, and a stop before the call that could exceed them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from expllm_jax.engine.llm.config import LlmConfig
from expllm_jax.engine.narration import BudgetSpent


@dataclass(frozen=True)
class Spent:
    """What answers took, in all."""

    calls: int = 0  # that were answered
    tokens_in: int = 0
    tokens_out: int = 0
    estimated_calls: int = 0  # whose tokens the endpoint did not report
    cost: float = 0.0  # in the currency of the prices, each call at the price of its time

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out

    def plus(self, tokens_in: int, tokens_out: int, estimated: bool, cost: float) -> Spent:
        """With one more answer."""
        return Spent(
            self.calls + 1,
            self.tokens_in + tokens_in,
            self.tokens_out + tokens_out,
            self.estimated_calls + estimated,
            self.cost + cost,
        )


class Budget:
    """Lets a call begin only if it could not exceed the budget even at its longest answer.

    Calls under way hold what they may take. A call that would fit if those ended shorter waits for them.

    Args:
      spent: what was spent before, by earlier runs on the same cache.
    """

    def __init__(self, config: LlmConfig, spent: Spent) -> None:
        self._config = config
        self.spent = spent
        self._held_tokens = 0
        self._held_cost = 0.0
        self._holders = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def held(self, tokens_in: int, tokens_out: int) -> AsyncIterator[None]:
        """Holds what a call may take while it is under way; what it did take is told with `count` before the end.

        Raises:
          BudgetSpent: it does not fit, whatever the calls under way take.
        """
        tokens, cost = tokens_in + tokens_out, self._config.cost(tokens_in, tokens_out)
        async with self._changed:
            while not self._fits(tokens + self._held_tokens, cost + self._held_cost):
                if self._holders == 0 or not self._fits(tokens, cost):
                    raise BudgetSpent(self._told())
                await self._changed.wait()
            self._hold(1, tokens, cost)
        try:
            yield
        finally:
            async with self._changed:
                self._hold(-1, -tokens, -cost)
                self._changed.notify_all()

    def count(self, tokens_in: int, tokens_out: int, estimated: bool, cost: float) -> None:
        """Adds an answer to what is spent."""
        self.spent = self.spent.plus(tokens_in, tokens_out, estimated, cost)

    def _hold(self, holders: int, tokens: int, cost: float) -> None:
        self._holders += holders
        self._held_tokens += tokens
        # Sums of floats do not come back to 0 by themselves.
        self._held_cost = self._held_cost + cost if self._holders else 0.0

    def _fits(self, tokens: int, cost: float) -> bool:
        most_tokens, most = self._config.budget_tokens, self._config.budget
        return (most_tokens is None or self.spent.tokens + tokens <= most_tokens) and (
            most is None or self.spent.cost + cost <= most
        )

    def _told(self) -> str:
        limits, spent = [], self.spent
        if self._config.budget_tokens is not None:
            limits.append(f"{spent.tokens:,} of {self._config.budget_tokens:,} tokens")
        if self._config.budget is not None:
            limits.append(f"{spent.cost:.4f} of {self._config.budget:g} in money")
        estimated = f" ({spent.estimated_calls:,} of them estimated)" if spent.estimated_calls else ""
        return (
            f"the budget does not allow another call: {' and '.join(limits)} are spent, "
            f"in {spent.calls:,} calls{estimated}; raise it to go on"
        )
