"""Which processes there are, from what the user or the launcher says: nothing is guessed, and a laptop is one process.

Looked at in this order, the first that speaks is believed:

1. `DistributedConfig`, or EXPLLM_COORDINATOR, EXPLLM_PROCESSES and EXPLLM_PROCESS_ID in the environment;
2. Slurm: a step of several tasks (`srun`); the batch script itself is no step;
3. Kubernetes (GKE) with TPUs: TPU_WORKER_HOSTNAMES, TPU_WORKER_ID, and MEGASCALE_* if there are several slices;
4. a Kubernetes Job or JobSet without TPUs: JOB_COMPLETION_INDEX, which Kubernetes sets, and PROCESSES and
   COORDINATOR_ADDRESS, which the manifest has to;
5. a TPU VM: the metadata server, asked by JAX's own code, only where JAX sees TPU chips.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from expllm_jax.errors import ExpllmError

START_TIMEOUT = 300.0
"""Seconds that processes wait for each other at the start: hosts of one pod may come up minutes apart."""

PORT = 8482
"""Where process 0 listens if the launcher names a host only: the port that JAX uses on TPU pods."""

_FLAGS = ("--coordinator", "--processes", "--process-id")
_VARIABLES = ("EXPLLM_COORDINATOR", "EXPLLM_PROCESSES", "EXPLLM_PROCESS_ID")


@dataclass(frozen=True)
class DistributedConfig:
    """Which processes there are, where nothing else says so; what is None is looked for in the environment."""

    coordinator: str | None = None  # HOST:PORT of process 0
    processes: int | None = None
    process_id: int | None = None  # 0 to processes - 1
    start_timeout: float = START_TIMEOUT  # seconds


@dataclass(frozen=True)
class Place:
    """One process among several."""

    coordinator: str  # HOST:PORT of process 0
    processes: int
    process_id: int
    told_by: str  # who says so, for people
    local_devices: tuple[int, ...] | None = None  # which GPUs of its host it takes; None: all

    def __post_init__(self) -> None:
        host, _, port = self.coordinator.rpartition(":")
        if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ExpllmError(
                f"{self.told_by}: the coordinator is {self.coordinator!r}, not HOST:PORT",
                "give the host name of process 0 and a free port on it, such as node1:8482",
            )
        if not 0 <= self.process_id < self.processes:
            raise ExpllmError(
                f"{self.told_by}: the process id is {self.process_id} of {self.processes} process(es)",
                f"ids go from 0 to {self.processes - 1}, one for each process",
            )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of process 0; an IPv6 address without its brackets."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def find_place(asked: DistributedConfig, environ: Mapping[str, str] = os.environ) -> Place | None:
    """This process among several; None where there is one only.

    Raises ExpllmError if what is said is not whole, or not possible.
    """
    for look in (_slurm, _gke_tpu, _kubernetes_job, _tpu_vm):
        if (place := _told(asked, environ) or look(environ)) is not None:
            return place if place.processes > 1 else None
    return None


def _told(asked: DistributedConfig, environ: Mapping[str, str]) -> Place | None:
    given = {}
    for flag, variable, value in zip(
        _FLAGS, _VARIABLES, (asked.coordinator, asked.processes, asked.process_id), strict=True
    ):
        if value is not None:
            given[flag] = (flag, str(value))
        elif environ.get(variable):
            given[flag] = (variable, environ[variable])
    if not given:
        return None
    missing = [
        f"{flag} (or {variable})" for flag, variable in zip(_FLAGS, _VARIABLES, strict=True) if flag not in given
    ]
    told_by = ", ".join(name for name, _ in given.values())
    if missing:
        raise ExpllmError(
            f"{told_by} without {' and '.join(missing)}", "give all three to every process, or none for one process"
        )
    (_, coordinator), processes, process_id = (given[flag] for flag in _FLAGS)
    return Place(coordinator, _whole(*processes), _whole(*process_id), told_by)


def _slurm(environ: Mapping[str, str]) -> Place | None:
    if _whole("SLURM_STEP_NUM_TASKS", environ.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return None
    task, step, nodes = (_value(environ, name) for name in ("SLURM_PROCID", "SLURM_STEP_ID", "SLURM_STEP_NODELIST"))
    job = _whole("SLURM_JOB_ID", _value(environ, "SLURM_JOB_ID"))
    # Jobs that share a node do not share a port: the last 4,096, as JAX does, and each step its own.
    port = 65536 - 4096 + (job + _whole("SLURM_STEP_ID", step)) % 4096
    return Place(
        f"{first_host(nodes)}:{port}",
        int(environ["SLURM_STEP_NUM_TASKS"]),
        _whole("SLURM_PROCID", task),
        f"Slurm job {job}",
        _slurm_devices(environ),
    )


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list: `n[003-005,9]-ib,other` is `n003-ib`, ..."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", nodes)
    if match is None:
        raise ExpllmError(f"SLURM_STEP_NODELIST is {nodes!r}, no list of hosts", "start with srun inside a Slurm job")
    return "".join(part or "" for part in match.groups())


def _slurm_devices(environ: Mapping[str, str]) -> tuple[int, ...] | None:
    """The GPUs of a task where several tasks share a host and each sees all its GPUs; None: what it sees is its own."""
    node = _whole("SLURM_NODEID", _value(environ, "SLURM_NODEID"))
    here = _tasks_per_node(_value(environ, "SLURM_STEP_TASKS_PER_NODE"))[node]
    visible = [device for device in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    share = len(visible) // here
    if here == 1 or len(visible) < here:
        return None
    first = _whole("SLURM_LOCALID", _value(environ, "SLURM_LOCALID")) * share
    return tuple(range(first, first + share))


def _tasks_per_node(text: str) -> list[int]:
    """How many tasks each node of a step has: `2(x3),1` is [2, 2, 2, 1]."""
    runs = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, nodes in runs for _ in range(int(nodes or 1))]


def _gke_tpu(environ: Mapping[str, str]) -> Place | None:
    workers = [host for host in environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    slices = _whole("MEGASCALE_NUM_SLICES", environ.get("MEGASCALE_NUM_SLICES") or "1")
    if len(workers) * slices <= 1:
        return None
    worker = _whole("TPU_WORKER_ID", _value(environ, "TPU_WORKER_ID"))
    number, host = 0, workers[0]
    if slices > 1:  # the first host of the first slice; its own port is MegaScale's
        number = _whole("MEGASCALE_SLICE_ID", _value(environ, "MEGASCALE_SLICE_ID"))
        host = _value(environ, "MEGASCALE_COORDINATOR_ADDRESS").split(":")[0]
    told_by = "TPU_WORKER_HOSTNAMES" + (", MEGASCALE_NUM_SLICES" if slices > 1 else "")
    return Place(f"{host}:{PORT}", len(workers) * slices, number * len(workers) + worker, told_by)


def _kubernetes_job(environ: Mapping[str, str]) -> Place | None:
    if "JOB_COMPLETION_INDEX" not in environ or "PROCESSES" not in environ:
        return None
    processes = _whole("PROCESSES", environ["PROCESSES"])
    if processes == 1:
        return None
    coordinator = _value(environ, "COORDINATOR_ADDRESS")
    if ":" not in coordinator:
        coordinator = f"{coordinator}:{PORT}"
    number = _whole("JOB_COMPLETION_INDEX", environ["JOB_COMPLETION_INDEX"])
    return Place(coordinator, processes, number, "JOB_COMPLETION_INDEX, PROCESSES")


def _tpu_vm(environ: Mapping[str, str]) -> Place | None:
    del environ  # the metadata server knows
    # No public name: jax.distributed.initialize() finds the place and dials at once, and then ends the program with a
    # stack trace if anybody is missing.
    from jax._src import cloud_tpu_init
    from jax._src.clusters.cloud_tpu_cluster import GceTpuCluster

    if not cloud_tpu_init.running_in_cloud_tpu_vm or not GceTpuCluster.is_env_present():
        return None
    pod: Any = GceTpuCluster
    processes = pod.get_process_count()
    if processes == 1:
        return None
    coordinator = pod.get_coordinator_address(timeout_secs=60, override_coordinator_port=None)
    return Place(coordinator, processes, pod.get_process_id(), "the TPU VM's metadata")


def _value(environ: Mapping[str, str], name: str) -> str:
    if not environ.get(name):
        raise ExpllmError(
            f"{name} is not set, though other variables of its launcher are",
            "start every process with the launcher (srun, the JobSet), or give " + ", ".join(_FLAGS),
        )
    return environ[name]


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ExpllmError(f"{name} is {text!r}", "give a whole number of 0 or more")
    return int(text)
