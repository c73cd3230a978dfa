"""One line that says how far a long job is: rewritten in place on a terminal, now and then a new line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO


class Progress:
    """Reports `done / total` with the rate and the time left.

    The rate is that of this process since `begin`; call it once what happens only once (compiling) is over.

    Args:
      total: units of the whole job; None if nobody knows. Nothing is said then before the first `every` seconds are
        over, for that would be no news.
      label: what the line begins with.
      unit: what the rate counts, in the plural.
      done: units done by an earlier process.
      stream: where the line goes.
      every: seconds between lines where the stream is no terminal (where it is one: every 0.2 s).
      clock: seconds; for tests.
    """

    def __init__(
        self,
        total: int | None,
        label: str,
        unit: str,
        *,
        done: int = 0,
        stream: TextIO | None = None,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._label, self._unit, self._clock = total, label, unit, clock
        self._stream = sys.stderr if stream is None else stream
        self._in_place = self._stream.isatty()
        self._every = 0.2 if self._in_place else every
        self._shown_at, self._width = -float("inf") if total is not None else clock(), 0
        self.begin(done)

    def begin(self, done: int) -> None:
        """Starts the clock of the rate with `done` units behind it."""
        self._done_at_start, self._start, self._done = done, self._clock(), done

    @property
    def rate(self) -> float:
        """Units per second since `begin`; 0 before anything is done."""
        seconds = self._clock() - self._start
        return (self._done - self._done_at_start) / seconds if seconds > 0 else 0.0

    def update(self, done: int, detail: str = "", *, shown: str = "") -> None:
        """Tells that `done` units are done; `shown` replaces "done/total" in the line."""
        self._done = done
        now = self._clock()
        if now - self._shown_at >= self._every or (self._total is not None and done >= self._total):
            self._shown_at = now
            shown = shown or (f"{done}" if self._total is None else f"{done}/{self._total}")
            self._write(f"{self._label} {shown}" + (f"  {detail}" if detail else ""))

    def say(self, text: str) -> None:
        """A line of its own."""
        self._stream.write(("\r" + text.ljust(self._width) if self._in_place else text) + "\n")
        self._stream.flush()
        self._width = 0

    def close(self) -> None:
        """Ends the line on a terminal."""
        if self._in_place and self._width:
            self._stream.write("\n")
            self._stream.flush()

    def _write(self, line: str) -> None:
        if self.rate > 0:
            left = 0 if self._total is None else max(0, self._total - self._done) / self.rate
            line += f"  {self.rate:.3g} {self._unit}/s" + (f"  {duration(left)} left" if left else "")
        if self._in_place:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def duration(seconds: float) -> str:
    """2 h 05 min, 3 min 20 s, or 7 s."""
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"
