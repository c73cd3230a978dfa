"""Ends a process in which no update finishes any more, so that whoever started it can start it again.

One stuck process (a dead link, a storage that does not answer) holds all others of a pod for as long as nobody looks.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

STUCK_STATUS = 75
"""Exit status of a process that ended itself; `EX_TEMPFAIL` of sysexits.h: trying again may help."""

FIRST = 4
"""The first update, which compiles and loads, may take this many times as long as the others."""

_POLLS = 20  # looks at the clock within the time allowed
_TELL_SECONDS = 10.0  # for writing the stacks down; what stopped the run may stop this as well


class Watchdog:
    """A thread that waits for signs of life; `with Watchdog(...) as dog:`, then `dog.alive(step)` after every update.

    Time in which the whole process stood still (a closed laptop, a debugger) does not count.

    Args:
      seconds: without a sign of life until the process ends; 0: never.
      run_dir: where `stuck-PROCESS.txt` goes.
      process: this process's number.
      start: the last update that an earlier process finished.
      clock: seconds; for tests.
      end: called with STUCK_STATUS after everything is told; for tests.
    """

    def __init__(
        self,
        seconds: float,
        run_dir: Path,
        *,
        process: int = 0,
        start: int = 0,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._seconds, self._process, self._clock, self._end = seconds, process, clock, end
        self._path = run_dir / f"stuck-{process}.txt"
        self._step, self._started = start, False
        self._signs, self._seen = 0, 0  # of life: given, and seen by the last look; only one thread writes each
        self._silent, self._looked = 0.0, clock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def alive(self, step: int | None = None) -> None:
        """Something was finished; `step`: it was an update, and this is its number."""
        if step is not None:
            self._step, self._started = step, True
        self._signs += 1

    def look(self) -> bool:
        """Counts the time since the last look, and ends the process if it was silent for too long; whether it was."""
        now, signs = self._clock(), self._signs
        # A look is never this late in a process that runs.
        self._silent = 0.0 if signs != self._seen else self._silent + min(now - self._looked, 2 * self._pause)
        self._looked, self._seen = now, signs
        if self._silent < self._allowed:
            return False
        telling = threading.Thread(target=self._tell, args=(self._silent,), daemon=True)
        telling.start()
        telling.join(_TELL_SECONDS)
        self._end(STUCK_STATUS)
        return True

    def __enter__(self) -> Watchdog:
        if self._seconds:
            self._looked = self._clock()
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def _allowed(self) -> float:
        return self._seconds * (1 if self._started else FIRST)

    @property
    def _pause(self) -> float:
        return self._seconds / _POLLS

    def _watch(self) -> None:
        while not self._over.wait(self._pause):
            if self.look():
                return

    def _tell(self, silent: float) -> None:
        told = (
            f"expllm: process {self._process} is stuck: no update finished for {silent:.0f} s, the last one was "
            f"{self._step}; it ends with status {STUCK_STATUS}, and the same command goes on from the last checkpoint. "
            f"Where it stood: {self._path}\n"
        )
        with contextlib.suppress(OSError, ValueError):
            os.write(2, told.encode())  # not through sys.stderr, whose lock the stuck thread may hold
        with contextlib.suppress(OSError), self._path.open("w", encoding="utf-8") as file:
            file.write(f"{told}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
