"""How processes find each other: real processes on this computer, and threads that play them where no JAX is needed."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.parallel import DistributedConfig, barrier, is_first, process_count, start_distributed, together
from expllm_jax.parallel import roll_call as module
from expllm_jax.parallel.cluster import Place, find_place, first_host
from expllm_jax.parallel.roll_call import RollCall, call_the_roll

ASKED = DistributedConfig()
SLURM = {
    "SLURM_JOB_ID": "4097", "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "2",
    "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "1,2",
    "SLURM_STEP_NODELIST": "gpu[003-004]-ib,last",
    "CUDA_VISIBLE_DEVICES": "0,1,2,3",
}  # fmt: skip
GKE = {"TPU_WORKER_HOSTNAMES": "a-0.svc,a-1.svc", "TPU_WORKER_ID": "1"}
SLICES = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "a-0.svc:8080"}
JOB = {"JOB_COMPLETION_INDEX": "3", "PROCESSES": "4", "COORDINATOR_ADDRESS": "job-0.pods"}


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def call(port: int, number: int, processes: int = 2, seconds: float = 20.0) -> RollCall:
    place = Place(f"localhost:{port}", processes, number, "the test")
    return call_the_roll(place, seconds, lambda text: None)


def outcomes(calls: list[tuple], **options) -> list[RollCall | ExpllmError]:
    """What each call of the roll gives; all are made at the same time."""

    def outcome(arguments: tuple) -> RollCall | ExpllmError:
        try:
            return call(*arguments, **options)
        except ExpllmError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(outcome, calls))


def test_one_process_is_first_and_waits_for_nobody():
    assert start_distributed() is None
    assert (is_first(), process_count()) == (True, 1)
    barrier("nobody else", 0.01)
    with pytest.raises(ExpllmError, match="^as it was$"), together():
        raise ExpllmError("as it was")


def test_an_ordinary_computer_is_one_process():
    assert find_place(ASKED, {}) is None
    assert find_place(ASKED, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None  # a batch script
    assert find_place(DistributedConfig("here:1", 1, 0), SLURM) is None  # what is said is believed before Slurm


@pytest.mark.parametrize(
    ("environ", "coordinator", "processes", "number", "devices"),
    [
        ({"EXPLLM_COORDINATOR": "n0:99", "EXPLLM_PROCESSES": "4", "EXPLLM_PROCESS_ID": "3"}, "n0:99", 4, 3, None),
        (SLURM, f"gpu003-ib:{65536 - 4096 + 3}", 3, 2, (2, 3)),
        (GKE, "a-0.svc:8482", 2, 1, None),
        (GKE | SLICES, "a-0.svc:8482", 4, 3, None),
        (JOB, "job-0.pods:8482", 4, 3, None),
    ],
)
def test_launchers_say_which_processes_there_are(environ, coordinator, processes, number, devices):
    place = find_place(ASKED, environ)
    assert place is not None
    assert (place.coordinator, place.processes, place.process_id) == (coordinator, processes, number)
    assert place.local_devices == devices


@pytest.mark.parametrize(
    ("asked", "environ", "problem"),
    [
        (DistributedConfig("h:1", 2, 2), {}, "the process id is 2 of 2"),
        (DistributedConfig("h", 2, 1), {}, "'h', not HOST:PORT"),
        (DistributedConfig(processes=2), {}, r"without --coordinator .* and --process-id \(or EXPLLM_PROCESS_ID\)"),
        (ASKED, {"EXPLLM_PROCESSES": "two", "EXPLLM_COORDINATOR": "h:1", "EXPLLM_PROCESS_ID": "0"}, "is 'two'"),
        (ASKED, {"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_ID is not set"),
    ],
)
def test_what_cannot_be_is_one_error(asked, environ, problem):
    with pytest.raises(ExpllmError, match=problem):
        find_place(asked, environ)


@pytest.mark.parametrize(
    ("nodes", "first"), [("n1", "n1"), ("n1,m[2-3]", "n1"), ("n[007,9-11]", "n007"), ("n[2-3]-x,y", "n2-x")]
)
def test_the_first_host_of_a_node_list(nodes, first):
    assert first_host(nodes) == first


def test_all_learn_who_is_missing():
    port = free_port()
    first, second = outcomes([(port, 0), (port, 1)], processes=4, seconds=1.0)
    assert isinstance(first, ExpllmError) and isinstance(second, ExpllmError)
    assert "process 2, 3 of 4 did not come within 1 s" in first.problem
    assert second.problem == first.problem


def test_two_processes_with_one_id_are_told():
    port = free_port()
    results = outcomes([(port, 0), (port, 1), (port, 1)], processes=3)
    assert ["two processes have the id 1" in str(error) for error in results[:1]] == [True]
    assert all(isinstance(error, ExpllmError) for error in results)


def test_processes_that_count_differently_are_told():
    port = free_port()
    results = outcomes([(port, 0, 2), (port, 1, 3)])
    assert all("as one of 3 processes, process 0 as one of 2" in str(error) for error in results)


def test_another_version_is_told(monkeypatch):
    port, versions = free_port(), iter([{"jax": "1"}, {"jax": "2"}])
    monkeypatch.setattr(module, "_versions", lambda: next(versions))
    results = outcomes([(port, 0), (port, 1)])
    assert all("runs jax" in str(error) and "same versions" in str(error) for error in results)


def test_a_first_process_that_is_not_there_is_one_error():
    with pytest.raises(ExpllmError, match="could not reach process 0 at localhost:.* within 0.5 s"):
        call(free_port(), 1, seconds=0.5)


def test_a_port_in_use_is_one_error():
    with socket.create_server(("", 0)) as other, pytest.raises(ExpllmError, match="cannot listen on port"):
        call(other.getsockname()[1], 0)


def test_strangers_on_the_port_do_not_count():
    port = free_port()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(call, port, 0)
        while True:
            try:
                with socket.create_connection(("localhost", port)) as stranger:
                    stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
                break
            except ConnectionRefusedError:
                pass
        second = threads.submit(call, port, 1)
        assert first.result(20).hosts == second.result(20).hosts == [socket.gethostname()] * 2


def test_a_failure_reaches_the_others_with_its_reason():
    port = free_port()
    first, second, third = outcomes([(port, 0), (port, 1), (port, 2)], processes=3)
    second.fail("no room on the disk", 2)
    for other in (first, third):
        failure = other.wait_for_failure(20)
        assert (failure.process, failure.problem, failure.status) == (1, "no room on the disk", 2)
        other.finish()  # or it would end this process after a while


def test_one_that_finished_may_hang_up():
    port = free_port()
    first, second, third = outcomes([(port, 0), (port, 1), (port, 2)], processes=3)
    second.finish()
    second._lines[0]._socket.shutdown(socket.SHUT_RDWR)  # as at the end of its process
    third._leaving = True  # or it would end this process, once it misses process 0
    third._lines[0]._socket.shutdown(socket.SHUT_RDWR)  # killed
    assert first.wait_for_failure(20).process == 2
    first.finish()


PROCESS = """
import os, signal, sys, time
import jax
jax.config.update("jax_num_cpu_devices", 1)
from expllm_jax.errors import ExpllmError
from expllm_jax.parallel import DistributedConfig, barrier, start_distributed, together
number, port, what = int(sys.argv[1]), sys.argv[2], sys.argv[3]
start_distributed(DistributedConfig(f"localhost:{port}", 2, number, 60))
try:
    with together():
        barrier("here", 60)
        barrier("here", 60)
        if number and what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if number and what == "late":
            time.sleep(60)
        barrier("there", 1 if what == "late" else 60)
except ExpllmError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_status)
"""


def two_processes(what: str) -> list[tuple[int, str]]:
    """(Exit status, stderr) of both."""
    port = str(free_port())
    started = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(number), port, what], stderr=subprocess.PIPE, text=True)
        for number in (0, 1)
    ]
    texts: dict[int, str] = {}
    readers = [
        threading.Thread(target=lambda k=k, p=p: texts.__setitem__(k, p.communicate(timeout=150)[1]))
        for k, p in enumerate(started)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return [(process.returncode, texts[k]) for k, process in enumerate(started)]


def test_two_real_processes_meet_and_end_well():
    assert [status for status, _ in two_processes("meet")] == [0, 0]


@pytest.mark.hosts
def test_the_other_process_ends_when_one_is_killed():
    (status, text), (killed, _) = two_processes("kill")
    assert (status, killed) == (1, -9)
    assert "process 1" in text and "it was killed, or its host is gone" in text


@pytest.mark.hosts
def test_a_barrier_names_who_did_not_come():
    (status, text), (other, _) = two_processes("late")
    assert (status, other) == (2, 2)
    assert "did not meet at 'there': process 1 (" in text and "did not come within 1 s" in text
