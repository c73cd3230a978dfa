"""Notice that this computer is about to be taken away: signals, and the maintenance events of Google's cloud.

::

    with Preemption() as notice:
        for step in ...:
            ...
            if reason := notice.due(step):
                save and wait
                raise Preempted(step, reason)
"""

from __future__ import annotations

import os
import signal
import threading
import urllib.request
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any

from jax._src import distributed  # no public name says whether jax.distributed was started with its preemption service
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""SIGTERM is what schedulers, Kubernetes and a cloud machine's shutdown send. Slurm sends the signal one asks for some
time before the end (``sbatch --signal=B:USR1@60``)."""

METADATA_HOST = "GCE_METADATA_HOST"
"""Environment variable with the metadata server's host, as Google's own libraries read it; on a TPU VM it is
``metadata.google.internal``. Unset: no server is asked, so that a laptop never talks to the network."""

# What the server says when the machine is about to stop; every other answer lets it run on (NONE, FALSE, a live
# migration).
_STOPS: Mapping[str, str] = {"maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE", "preempted": "TRUE"}
_SECONDS_BETWEEN_QUESTIONS, _SECONDS_FOR_AN_ANSWER = 5.0, 5.0


class Preempted(Exception):
    """The run was asked to stop and everything is saved: the same command goes on from there.

    It is no `ExpllmError`, since nothing is to be mended.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"stopped after update {step} ({reason}); it is saved, and the same command goes on from it")
        self.step, self.reason = step, reason


class Preemption:
    """Listens from `with` to its end, and then gives the signals back to whoever had them.

    With several processes, SIGTERM stays with JAX's preemption service, which carries the notice to all of them and
    finds an update that none has passed; the other notices are handed to it as a SIGTERM to this process.

    Args:
      metadata_url: the folder `instance/` of a metadata server. None: the one that the environment names
        (`METADATA_HOST`), if any. A notice that already stands there at the start is not heeded: the run was begun
        knowing it, and would stop at its first update again and again; the shutdown's SIGTERM still stops it.
      poll_seconds: time between two questions to that server.
    """

    def __init__(self, *, metadata_url: str | None = None, poll_seconds: float = _SECONDS_BETWEEN_QUESTIONS) -> None:
        if metadata_url is None and (host := os.environ.get(METADATA_HOST)):
            metadata_url = f"http://{host}/computeMetadata/v1/instance"
        self._url, self._poll_seconds = metadata_url, poll_seconds
        self._reason: str | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._ended = threading.Event()
        self._poller: threading.Thread | None = None
        self._together = False

    def due(self, step: int) -> str | None:
        """Why the run has to stop after update `step`, or None.

        To be asked once after every update, by every process: all get their reason at the same step.
        """
        if not self._together:
            return self._reason
        if not multihost_utils.reached_preemption_sync_point(step):
            return None
        return self._reason or "a process was told to stop"

    def __enter__(self) -> Preemption:
        self._together = distributed.global_state.preemption_sync_manager is not None
        if threading.current_thread() is threading.main_thread():  # Python takes signals nowhere else
            for number in SIGNALS:
                if not (self._together and number == signal.SIGTERM):
                    self._previous[number] = signal.signal(number, self._on_signal)
        if self._url is not None:
            self._poller = threading.Thread(target=self._poll, name="maintenance events", daemon=True)
            self._poller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous.clear()
        if self._poller is not None:
            self._poller.join(timeout=2 * _SECONDS_FOR_AN_ANSWER)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop(signal.Signals(number).name)

    def _stop(self, reason: str) -> None:
        if self._reason is not None:
            return
        self._reason = reason
        if self._together:
            os.kill(os.getpid(), signal.SIGTERM)

    def _poll(self) -> None:
        standing = {name for name in _STOPS if self._says_stop(name)}
        while not self._ended.wait(self._poll_seconds):
            for name in _STOPS:
                if not self._says_stop(name):
                    standing.discard(name)
                elif name not in standing:
                    self._stop(f"{name}: {_STOPS[name]}")
                    return

    def _says_stop(self, name: str) -> bool:
        # Not through a proxy: the server belongs to this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        asked = urllib.request.Request(f"{self._url}/{name}", headers={"Metadata-Flavor": "Google"})
        try:
            with opener.open(asked, timeout=_SECONDS_FOR_AN_ANSWER) as answer:
                return answer.read(100).decode("ascii", "replace").strip() == _STOPS[name]
        except OSError:  # restarting, or a kind of machine that does not know this name: SIGTERM remains
            return False
