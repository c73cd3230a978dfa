"""How fast updates are, and how much of the devices they use."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

from expllm_jax.train.flops import Work


class Whole(NamedTuple):
    """What throughput is measured for: an update of the whole run, over all processes."""

    records: int
    row_tokens: int  # rows x their length
    shares: int  # processes that read rows of their own; each is taken to have as much work as this one
    # Of useful work, and of what all devices could do a second; None where the devices' peak is not known.
    flops_of: Callable[[Work], float]
    peak_flops: float | None


class Throughput:
    """Sums up updates as they finish. Rates are over the time since the last line, validation left out.

    `mfu` is the share of the devices' peak that useful operations take (`train.flops.update_flops` of the tokens and
    pictures that are no padding).

    Args:
      whole: see Whole.
      clock: seconds; for tests.
    """

    def __init__(self, whole: Whole, clock: Callable[[], float] = time.monotonic) -> None:
        self._whole, self._clock = whole, clock
        self._seconds: list[float] = []  # of every update so far
        self._waited, self._flops = 0.0, 0.0
        self._begin_line()
        self._last = clock()

    def finished(self, work: Work, waited: float) -> None:
        """An update has finished: what this process's share of it was, and how long it had waited for data."""
        now = self._clock()
        self._seconds.append(now - self._last)
        self._line_seconds += now - self._last
        self._last = now
        self._waited += waited
        self._line_work = Work(*map(sum, zip(self._line_work, work, strict=True)))
        self._line_updates += 1

    def rest(self) -> None:
        """Leaves out the time since the last update: something else was done."""
        self._last = self._clock()

    def line(self) -> dict[str, float]:
        """Rates since the last line: `records_per_second`, `tokens_per_second` (padding left out),
        `supervised_per_second`, `update_seconds`, `padding` (the share of the rows' tokens without a record), `mfu`."""
        whole, seconds, updates = self._whole, max(self._line_seconds, 1e-9), max(self._line_updates, 1)
        work = Work(*(whole.shares * value for value in self._line_work))
        flops = whole.flops_of(work)
        self._flops += flops
        told = {
            "records_per_second": whole.records * updates / seconds,
            "tokens_per_second": work.tokens / seconds,
            "supervised_per_second": work.supervised / seconds,
            "update_seconds": seconds / updates,
            "padding": 1 - work.tokens / (whole.row_tokens * updates),
        }
        if whole.peak_flops:
            told["mfu"] = flops / seconds / whole.peak_flops
        self._begin_line()
        return told

    def summary(self) -> dict[str, float]:
        """Of this process's updates: `updates`, their `median_seconds`, the `wait_share` of the time that went by until
        data came (some of it while the devices were busy), and `mfu` at the median; {} before the first."""
        if not self._seconds:
            return {}
        if self._line_updates:
            self.line()
        median, count = statistics.median(self._seconds), len(self._seconds)
        told = {"updates": count, "median_seconds": median, "wait_share": self._waited / max(sum(self._seconds), 1e-9)}
        if self._whole.peak_flops:
            told["mfu"] = self._flops / count / median / self._whole.peak_flops
        return told

    def _begin_line(self) -> None:
        self._line_work, self._line_updates, self._line_seconds = Work(0.0, 0.0, 0.0, 0.0, 0.0), 0, 0.0
