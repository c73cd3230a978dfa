"""Several processes, one per host, that train one model together: how they start, wait for each other, and end.

Everything here also works, and does nothing, in one process. What is known before the processes have met (how many,
which one this is) is kept by JAX and read without touching a device.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import jax
from jax._src import distributed as _jax_distributed  # the key-value store and barriers have no public name

from expllm_jax.errors import ExpllmError

START_TIMEOUT = 300.0
"""Seconds that processes wait for each other at the start: hosts of one pod may come up minutes apart."""


@dataclass(frozen=True)
class DistributedConfig:
    """Which processes there are, where nothing else says so; what is None is looked for (`start_distributed`)."""

    coordinator: str | None = None  # HOST:PORT of process 0
    processes: int | None = None
    process_id: int | None = None  # 0 to processes - 1
    start_timeout: float = START_TIMEOUT  # seconds


def start_distributed(asked: DistributedConfig | None = None) -> None:
    """Joins the other processes, if there are any; call it before anything touches a device."""


def process_count() -> int:
    """How many processes work together; 1 unless `start_distributed` found more. No device is touched."""
    return _jax_distributed.global_state.num_processes or 1


def process_id() -> int:
    """Which of them this is, from 0. No device is touched."""
    return _jax_distributed.global_state.process_id or 0


def is_first() -> bool:
    """Whether this is process 0: the one that writes what only one may write."""
    return process_id() == 0


def barrier(name: str, seconds: float) -> None:
    """Returns once every process has called it with this `name`; at once in one process.

    Args:
      name: of this meeting; a name is used for one meeting only (put the step in it).
      seconds: how long to wait.

    Raises:
      ExpllmError: not all came in time (it names those that did not), or one of them ended.
    """
    if process_count() == 1:
        return
    client = _jax_distributed.global_state.client
    arrived = f"expllm/barriers/{name}"
    client.key_value_set(f"{arrived}/{process_id()}", "", allow_overwrite=True)
    try:
        client.wait_at_barrier(f"expllm/{name}", timeout_in_ms=math.ceil(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        came = set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            came = {int(key.rpartition("/")[2]) for key, _ in client.key_value_dir_get(arrived)}
        missing = [str(number) for number in range(process_count()) if number not in came]
        who = f"process {', '.join(missing)} did not come" if missing else " ".join(str(error).split())[:300]
        raise ExpllmError(
            f"the {process_count()} processes did not meet at '{name}' within {seconds:g} s: {who}",
            "see what that process says; the same command goes on from the last checkpoint",
        ) from error
