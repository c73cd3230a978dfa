"""Several processes, mostly one per host, that train one model together: how they start, wait for each other, and end.

Everything here also works, and does nothing, in one process. How many there are and which one this is can be asked
before a device is touched.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import math
from collections import Counter
from collections.abc import Iterator

import jax
from jax._src import distributed as _jax_distributed  # its key-value store and barriers have no public name

from expllm_jax.errors import ExpllmError
from expllm_jax.parallel.cluster import DistributedConfig, Place, find_place
from expllm_jax.parallel.roll_call import GRACE, RollCall, Say, call_the_roll, leave

HEARTBEAT_TIMEOUT = 100
"""Seconds after which JAX takes a silent process for dead and ends the others. The second net: the roll call's lines
notice a killed process at once and a host without power within about 35 s."""

_JOINED_AT_MOST = 60  # seconds that JAX's service gets to connect processes that are known to be there

_roll_call: RollCall | None = None
_words: dict[str, list[str]] = {}  # by topic: what process 0 tells itself
_told = itertools.count()  # keeps the words of one process apart
_meetings: Counter[str] = Counter()  # how often each barrier was used
_failed_with: int | None = None  # the exit status, once `together` saw this process fail


def start_distributed(asked: DistributedConfig | None = None, say: Say | None = None) -> Place | None:
    """Joins the other processes, if this is one of several (`cluster.find_place`); call it before a device is touched.

    Args:
      asked: what the user said; None: nothing.
      say: is told who is there, or missing.

    Returns:
      This process's place; None if it is alone.

    Raises:
      ExpllmError: what is said of the processes is not possible, or they did not all come in time: it names them.
    """
    global _roll_call
    asked = asked or DistributedConfig()
    place = find_place(asked)
    if place is None:
        return None
    say = say or (lambda text: None)
    if jax.distributed.is_initialized():
        raise ExpllmError("the processes have been connected already", "call start_distributed once, before all else")
    _roll_call = call_the_roll(place, asked.start_timeout, say)
    # Only the CPU backend reads it: without it, several CPU processes cannot add anything up.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.processes,
            place.process_id,
            local_device_ids=place.local_devices,
            cluster_detection_method="deactivate",  # the place is known; JAX would choose one GPU a task under Slurm
            initialization_timeout=_JOINED_AT_MOST,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
        )
    except RuntimeError as error:  # "must be called before any JAX calls"
        raise ExpllmError(
            f"the processes cannot be connected: {' '.join(str(error).split())[:300]}",
            "start the processes before anything else uses a device",
        ) from error
    atexit.register(_end)  # before JAX's own, which waits for all processes
    if place.process_id == 0:
        say(f"start: {place.processes} processes ({place.told_by}) on {', '.join(dict.fromkeys(_roll_call.hosts))}")
    return place


def process_count() -> int:
    """How many processes work together; 1 unless `start_distributed` found more. No device is touched."""
    return _jax_distributed.global_state.num_processes or 1


def process_id() -> int:
    """Which of them this is, from 0. No device is touched."""
    return _jax_distributed.global_state.process_id or 0


def is_first() -> bool:
    """Whether this is process 0: the one that writes what only one may write."""
    return process_id() == 0


def process_hosts() -> list[str]:
    """The host name of every process that `start_distributed` joined; empty if this one is alone."""
    return [] if _roll_call is None else list(_roll_call.hosts)


def barrier(name: str, seconds: float) -> None:
    """Returns once every process has called it with this `name`; at once in one process.

    Args:
      name: of this meeting; a name that is used again is the next meeting of that name, in every process.
      seconds: how long to wait.

    Raises:
      ExpllmError: not all came in time (it names those that did not), or one of them ended.
    """
    if process_count() == 1:
        return
    client = _jax_distributed.global_state.client
    _meetings[name] += 1
    arrived = f"expllm/arrived/{name} {_meetings[name]}"
    try:
        client.key_value_set(f"{arrived}/{process_id()}", "", allow_overwrite=True)
        client.wait_at_barrier(arrived, timeout_in_ms=math.ceil(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        came = set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            came = {int(key.rpartition("/")[2]) for key, _ in client.key_value_dir_get(arrived)}
        missing = [number for number in range(process_count()) if number not in came]
        failure = _roll_call.wait_for_failure(0) if _roll_call else None
        if failure is not None:
            why = str(failure)
        elif missing:
            why = f"process {', '.join(_named(number) for number in missing)} did not come within {seconds:g} s"
        else:
            why = " ".join(str(error).split())[:300]
        raise ExpllmError(
            f"the {process_count()} processes did not meet at '{name}': {why}",
            "see what that process says; the same command goes on from the last checkpoint",
        ) from error


def tell_first(topic: str, word: str) -> None:
    """Leaves a word for process 0, which finds it in `heard_by_first` as soon as this has returned. Nobody waits."""
    if is_first():
        _words.setdefault(topic, []).append(word)
    else:
        _jax_distributed.global_state.client.key_value_set(f"{_place_of(topic)}{process_id()}/{next(_told)}", word)


def heard_by_first(topic: str) -> list[str]:
    """What the processes have told process 0 under this topic since it last asked; empty in the others.

    Words of one process come in their order.
    """
    if not is_first():
        return []
    words = _words.pop(topic, [])
    if process_count() > 1:
        client = _jax_distributed.global_state.client
        found = client.key_value_dir_get(_place_of(topic))
        for key, _ in found:
            client.key_value_delete(key)
        words += [word for _, word in sorted(found, key=lambda entry: [*map(int, entry[0].split("/")[-2:])])]
    return words


def _place_of(topic: str) -> str:
    """Where words lie in JAX's key-value store."""
    return f"expllm/told/{topic}/"


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Around the work of a process: if it fails, the others are told and end as well, instead of waiting for it.

    What is raised inside is raised on; an ExpllmError names the process. When another process failed first, whatever
    that broke here becomes an ExpllmError that says so. Does nothing in one process.
    """
    global _failed_with
    if _roll_call is None:
        yield
        return
    try:
        yield
    except ExpllmError as error:
        _failed_with = error.exit_status
        _roll_call.fail(error.problem, error.exit_status)
        error.problem = f"{_roll_call.place_name()}: {error.problem}"
        raise
    except Exception as error:
        # A computation that lost its partner fails within moments of the partner's end.
        failure = _roll_call.wait_for_failure(2.0)
        if failure is None:
            _failed_with = ExpllmError.exit_status if isinstance(error, OSError) else 1  # as the command line does
            _roll_call.fail(" ".join(f"{type(error).__name__}: {error}".split())[:300], _failed_with)
            raise
        _failed_with = failure.status
        _roll_call.fail(str(failure), failure.status)
        raise ExpllmError(
            f"{_roll_call.place_name()}: {failure}", "the same command goes on from the last checkpoint"
        ) from error
    except BaseException as stop:
        _failed_with = 130 if isinstance(stop, KeyboardInterrupt) else 1
        _roll_call.fail(f"it was stopped ({type(stop).__name__})", _failed_with)
        raise


def _named(number: int) -> str:
    return f"{number} ({_roll_call.hosts[number]})" if _roll_call else str(number)


def _end() -> None:
    """At the end of the program: after a failure JAX's own end would wait for processes that will not come."""
    if _roll_call is None:
        return
    if _failed_with is None:
        _roll_call.finish()
        return
    if is_first():
        _roll_call.wait_until_alone(GRACE + 5)  # JAX's service lives here: without it the others end without a word
    leave(_failed_with)
