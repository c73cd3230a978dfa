"""How long to wait before a call is tried again, and how calls are spaced."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime


def backoff(tries: int, first: float, longest: float, rng: random.Random) -> float:
    """Seconds before the next try: `first` doubled with every failure but one, at most `longest`, and of that a random
    share from half to all, so that callers who failed together do not come back together.

    Args:
      tries: calls that failed so far, at least 1.
    """
    return min(longest, first * 2.0 ** min(tries - 1, 60)) * rng.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that an endpoint asks to be left alone: Retry-After in seconds or as a date (RFC 9110, 10.2.3), or the
    retry-after-ms that some send beside it. 0 if it asks for nothing that can be understood.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    asked = headers.get("retry-after", "")
    seconds = _number(asked)
    if seconds is not None:
        return seconds
    try:
        date = parsedate_to_datetime(asked)
    except ValueError:
        return 0.0
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


async def waited(seconds: float, stopping: asyncio.Event) -> bool:
    """Waits, but not once the run is stopping: then it returns False, and at once."""
    try:
        await asyncio.wait_for(stopping.wait(), seconds)
    except TimeoutError:
        return True
    return False


class Pace:
    """When the next call may begin. One for all calls to an endpoint.

    Args:
      per_minute: begin at most so many; None: no limit.
      stopping: set when nobody shall wait any more.
    """

    def __init__(self, per_minute: float | None, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0  # on the clock of the event loop

    def hold(self, seconds: float) -> None:
        """Lets no call begin for so long: what one call was told about being too many holds for all."""
        self._next = max(self._next, asyncio.get_running_loop().time() + seconds)

    async def turn(self) -> bool:
        """Returns True when a call may begin, False once none may."""
        clock = asyncio.get_running_loop().time
        while (wait := self._next - clock()) > 0 and not self._stopping.is_set():
            await waited(wait, self._stopping)
        self._next = max(self._next, clock() + self._interval)
        return not self._stopping.is_set()
