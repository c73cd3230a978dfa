"""The processes of a run name themselves to process 0 before JAX connects them, and stay on the line until the end.

When anybody is missing, JAX's own start ends the program with a stack trace and no name, and later it misses a dead
process only after a hundred seconds. So process 0 first calls the roll, on the port that JAX's service takes over
afterwards. It knows then who is missing, who came twice and who runs another version, and tells everybody. The
connections stay open: the operating system closes those of a dead process, so the others hear of it at once, and one
that fails says why before it leaves.

One line of JSON a message, from process k to process 0 and back:

    {"id": k, "processes": n, "host": "node3", "versions": {...}}     first
    {"hosts": ["node0", ...]}  or  {"problem": "...", "remedy": "..."}  the answer: all are here, or why it cannot begin
    {"finished": true}                                                 to process 0: this one ends well
    {"failed": k, "problem": "...", "status": 2}                       process k ends; process 0 tells the others
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.parallel.cluster import Place

Say = Callable[[str], None]

GRACE = 10.0
"""Seconds that a process gets to end by itself, and say why, after another has failed."""

_SAY_EVERY = 15.0  # seconds between two words about who is missing
_HELLO = 5.0  # seconds that one who calls gets to say who it is
_LONGEST = 1 << 20  # bytes of a message


@dataclass(frozen=True)
class Failure:
    """How another process ended."""

    process: int
    host: str
    problem: str
    status: int

    def __str__(self) -> str:
        return f"process {self.process} ({self.host}) ended: {self.problem}"


class RollCall:
    """The line to the other processes. `hosts[k]` is where process k runs; `failure` is set once one has failed."""

    def __init__(self, place: Place, hosts: list[str], lines: dict[int, _Line]) -> None:
        """For `call_the_roll`. `lines` go to all others in process 0, and to process 0 in the others."""
        self.place, self.hosts = place, hosts
        self.failure: Failure | None = None
        self._lines, self._lock = lines, threading.Lock()
        self._failed, self._leaving = threading.Event(), False
        self._listeners = [threading.Thread(target=self._listen, args=(k,), daemon=True) for k in lines]
        for listener in self._listeners:
            listener.start()
        threading.Thread(target=self._follow, daemon=True).start()

    def finish(self) -> None:
        """Tells process 0 that this one ends well; then its silence is no failure."""
        self._leaving = True
        if self.place.process_id:
            self._tell({"finished": True})

    def fail(self, problem: str, status: int) -> None:
        """Tells the others that this process ends now, and why."""
        self._leaving = True
        self._tell({"failed": self.place.process_id, "problem": problem, "status": status})

    def wait_for_failure(self, seconds: float) -> Failure | None:
        """The failure of another process, if one is heard of within so many seconds."""
        self._failed.wait(seconds)
        return self.failure

    def wait_until_alone(self, seconds: float) -> None:
        """Waits until the others have hung up, so that they hear process 0 out before its port closes."""
        until = time.monotonic() + seconds
        for listener in self._listeners:
            listener.join(max(0.0, until - time.monotonic()))

    def _tell(self, message: Mapping[str, Any], *, but: int | None = None) -> None:
        for number, line in self._lines.items():
            if number != but:
                with contextlib.suppress(OSError), self._lock:
                    line.send(message)

    def _listen(self, number: int) -> None:
        """What process `number` says until it hangs up."""
        finished = False
        while True:
            try:
                message = self._lines[number].receive()
            except (OSError, ValueError):
                message = None
            if message is None:
                break
            finished = finished or "finished" in message
            if "failed" in message:
                finished = True
                who = int(message["failed"])
                self._heard(Failure(who, self.hosts[who], str(message["problem"]), int(message["status"])))
        # Process 0 hangs up when it ends, well or not; JAX makes all wait for each other before a good end.
        if not finished and not (self._leaving or self.failure):
            self._heard(Failure(number, self.hosts[number], "it was killed, or its host is gone", 1))

    def _heard(self, failure: Failure) -> None:
        with self._lock:
            if self.failure is not None:
                return
            self.failure = failure
        if self.place.process_id == 0:
            message = {"failed": failure.process, "problem": failure.problem, "status": failure.status}
            self._tell(message, but=failure.process)
        self._failed.set()

    def _follow(self) -> None:
        """Ends this process some time after another failed: the main thread may wait for it inside a computation."""
        self._failed.wait()
        # Without process 0 there is no service of JAX's, whose client ends the program with a stack trace at once.
        time.sleep(GRACE if self.place.process_id == 0 or self.failure is None or self.failure.process else 0)
        if self._leaving:
            return
        print(f"expllm: error: {self.place_name()}: {self.failure}", file=sys.stderr)
        leave(self.failure.status if self.failure else 1)

    def place_name(self) -> str:
        """What this process is called in errors."""
        place = self.place
        return f"process {place.process_id} of {place.processes} ({self.hosts[place.process_id]})"


def leave(status: int) -> None:
    """Ends this process at once, without waiting for the others, whom JAX would wait for."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def call_the_roll(place: Place, seconds: float, say: Say) -> RollCall:
    """Waits until all processes are there.

    Args:
      place: of this process.
      seconds: how long.
      say: is told now and then who is missing.

    Raises:
      ExpllmError: in every process that is there: some are missing (named), one came twice, the processes do not agree
        on how many they are, or run different versions; process 0 cannot be reached, or cannot listen.
    """
    own = {
        "id": place.process_id, "processes": place.processes, "host": socket.gethostname(), "versions": _versions()
    }  # fmt: skip
    if place.process_id:
        return _answer(place, own, seconds, say)
    return _ask(place, own, seconds, say)


def _ask(place: Place, own: Mapping[str, Any], seconds: float, say: Say) -> RollCall:
    """Process 0: listens until all have come, then tells them so."""
    host, port = place.address
    present: dict[int, Mapping[str, Any]] = {0: own}
    lines: dict[int, _Line] = {}
    end, spoken = time.monotonic() + seconds, time.monotonic()
    try:
        with _listener(port) as listener:
            while len(present) < place.processes:
                now = time.monotonic()
                missing = ", ".join(str(number) for number in range(place.processes) if number not in present)
                if now >= end:
                    here = ", ".join(f"{number} on {present[number]['host']}" for number in sorted(present))
                    raise ExpllmError(
                        f"process {missing} of {place.processes} did not come within {seconds:g} s (here: {here})",
                        f"see whether it was started and can reach {place.coordinator}; --start-timeout waits longer",
                    )
                if now - spoken >= _SAY_EVERY:
                    spoken = now
                    say(f"start: waiting for process {missing} of {place.processes} at {place.coordinator}")
                listener.settimeout(min(1.0, end - now))
                with contextlib.suppress(TimeoutError):
                    line = _Line(listener.accept()[0], _HELLO)
                    _enter(line, own, present, lines)
    except ExpllmError as error:
        for line in lines.values():
            with contextlib.suppress(OSError):
                line.send({"problem": error.problem, "remedy": error.remedy})
                line.close()
        raise
    except OSError as error:
        raise ExpllmError(
            f"process 0 cannot listen on port {port} ({os.strerror(error.errno) if error.errno else error})",
            "choose another port, or end what uses it: perhaps a second process 0",
        ) from error
    hosts = [str(present[number]["host"]) for number in range(place.processes)]
    for line in lines.values():
        with contextlib.suppress(OSError):  # who died since is missed by the listening threads
            line.send({"hosts": hosts})
            line.wait(None)
    return RollCall(place, hosts, lines)


def _enter(line: _Line, own: Mapping[str, Any], present: dict[int, Mapping[str, Any]], lines: dict[int, _Line]) -> None:
    """Takes down who has come. What is no process of ours (a port scanner, a health check) is sent away."""
    try:
        came = line.receive()
        number, processes, host = int(came["id"]), int(came["processes"]), str(came["host"])  # type: ignore[index]
        versions = dict(came["versions"])  # type: ignore[index]
    except (OSError, ValueError, KeyError, TypeError):
        line.close()
        return
    name = f"process {number} on {host}"
    problem = remedy = ""
    if processes != own["processes"]:
        problem = f"{name} was started as one of {processes} processes, process 0 as one of {own['processes']}"
        remedy = "give every process the same --processes"
    elif number in present and not (number in lines and lines[number].is_closed()):  # closed: it was started again
        problem = f"two processes have the id {number}: one on {present[number]['host']}, one on {host}"
        remedy = "give every process an id of its own"
    elif versions != own["versions"]:
        problem = f"{name} runs {_shown(versions)}, process 0 {_shown(own['versions'])}"
        remedy = "install the same versions on every host"
    if problem:
        with contextlib.suppress(OSError):
            line.send({"problem": problem, "remedy": remedy})
        line.close()
        raise ExpllmError(problem, remedy)
    present[number], lines[number] = came, line  # type: ignore[assignment]


def _answer(place: Place, own: Mapping[str, Any], seconds: float, say: Say) -> RollCall:
    """Another process: names itself to process 0 and waits for its answer."""
    end, reason, spoken = time.monotonic() + seconds, "", time.monotonic()
    line = None
    while line is None:
        try:
            line = _Line(socket.create_connection(place.address, timeout=min(5.0, seconds)), None)
        except OSError as error:
            reason = error.strerror or str(error)
            if time.monotonic() >= end:
                raise ExpllmError(
                    f"process {place.process_id} of {place.processes} could not reach process 0 at "
                    f"{place.coordinator} within {seconds:g} s ({reason})",
                    "see whether process 0 was started, on that host, and whether its port is open",
                ) from error
            if time.monotonic() - spoken >= _SAY_EVERY:
                spoken = time.monotonic()
                say(f"start: process {place.process_id} cannot reach {place.coordinator} yet ({reason})")
            time.sleep(min(0.2, seconds / 10))
    try:
        line.send(own)
        line.wait(seconds + 10)  # process 0 began to wait before, and gives up before
        answer = line.receive()
    except (OSError, ValueError):
        answer = None
    if answer is None or not ("hosts" in answer or "problem" in answer):
        line.close()
        raise ExpllmError(
            f"what listens at {place.coordinator} does not answer process {place.process_id} as process 0 would",
            "another program uses that port, or a run that has begun already: end it, or choose another port",
        )
    if "problem" in answer:
        line.close()
        raise ExpllmError(str(answer["problem"]), str(answer.get("remedy", "")))
    line.wait(None)
    return RollCall(place, [str(host) for host in answer["hosts"]], {0: line})


class _Line:
    """A connection that carries lines of JSON."""

    def __init__(self, connection: socket.socket, seconds: float | None) -> None:
        self._socket = connection
        # A host that loses its power says nothing: the system asks after it.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):  # not on every system
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.wait(seconds)
        self._file = connection.makefile("rb")

    def wait(self, seconds: float | None) -> None:
        """How long `receive` waits before it raises TimeoutError; None: for ever."""
        self._socket.settimeout(seconds)

    def send(self, message: Mapping[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next message; None if the other side hung up. Raises ValueError if it is none of ours."""
        text = self._file.readline(_LONGEST)
        if not text.endswith(b"\n"):
            return None
        message = json.loads(text)
        if not isinstance(message, dict):
            raise ValueError("not a message of ours")
        return message

    def is_closed(self) -> bool:
        """Whether the other side has hung up; only where no answer is under way."""
        self._socket.setblocking(False)  # MSG_DONTWAIT alone would wait: Python keeps to the time-out
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.wait(_HELLO)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def _listener(port: int) -> socket.socket:
    """Listens on all addresses of this host, by IPv6 and IPv4 where it has both."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", port), backlog=1024)


def _shown(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{package} {number}" for package, number in versions.items())


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("expllm_jax", "jax", "jaxlib"):
        with contextlib.suppress(PackageNotFoundError):  # a checkout that was never installed
            versions[package] = version(package)
    return versions
