"""`expllm train` in two processes on this computer: one run folder, one set of files, one end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from expllm_jax.checkpoints import Checkpointer
from expllm_jax.train import read_metrics

pytestmark = pytest.mark.hosts
PATIENCE = 240  # seconds for any of these commands


def start(folder: Path, environment: dict[str, str], number: int, port: int, *options: str) -> subprocess.Popen[str]:
    """Begins process `number` of two; its stdout and stderr go to files beside the folder."""
    command = [
        sys.executable, "-m", "expllm_jax.cli", "train", "tiny", "--out", folder, "--json", "--coordinator",
        f"localhost:{port}", "--processes", 2, "--process-id", number, *options,
    ]  # fmt: skip
    out, err = texts_of(folder, number)
    with out.open("w") as out_file, err.open("w") as err_file:
        return subprocess.Popen([*map(str, command)], stdout=out_file, stderr=err_file, text=True,
                                env=environment | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"})  # fmt: skip


def texts_of(folder: Path, number: int) -> tuple[Path, Path]:
    return Path(f"{folder}-{number}.out"), Path(f"{folder}-{number}.err")


def statuses(started: list[subprocess.Popen[str]]) -> list[int]:
    try:
        return [process.wait(timeout=PATIENCE) for process in started]
    finally:
        for process in started:
            process.kill()


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def two(tmp_path_factory, compiled) -> Path:
    """A finished run of two processes."""
    folder, port = tmp_path_factory.mktemp("two") / "run", free_port()
    assert statuses([start(folder, compiled, number, port) for number in (0, 1)]) == [0, 0], texts_of(folder, 0)
    return folder


def test_two_processes_make_the_run_that_one_makes(two, run):
    for stage in ("faces/annotations.jsonl", "tokenizer.model"):
        assert (two / stage).read_bytes() == (run / stage).read_bytes()
    ours, theirs = np.load(two / "features" / "train.npy"), np.load(run / "features" / "train.npy")
    np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=2e-2)  # float16 of sums in another order
    losses, expected = ([line["loss"] for line in read_metrics(folder)] for folder in (two, run))
    # Features as they are rounded differ in the last bit here and there, and so do the losses.
    assert len(losses) == 40 and losses == pytest.approx(expected, rel=1e-3)
    told = [texts_of(two, number)[0].read_text() for number in (0, 1)]
    assert json.loads(told[0])["steps"] == 40 and told[1] == ""
    said = [texts_of(two, number)[1].read_text() for number in (0, 1)]
    assert "start: 2 processes" in said[0] and "training 40/40" in said[0] and said[1] == ""
    assert json.loads((two / "environment.json").read_text())["processes"] == 2


def test_told_to_stop_both_save_the_same_update_and_the_same_command_goes_on(two, tmp_path, compiled):
    folder, longer = tmp_path / "run", ("--set", f"mixture={two / 'records'}", "--set", "train.steps=3000")
    started = [start(folder, compiled, number, port, *longer) for port in [free_port()] for number in (0, 1)]
    until = time.monotonic() + PATIENCE
    while not (folder / "metrics.jsonl").is_file() or len(read_metrics(folder)) < 3:
        assert time.monotonic() < until and all(process.poll() is None for process in started), texts_of(folder, 1)
        time.sleep(0.1)
    started[1].send_signal(signal.SIGTERM)
    assert statuses(started) == [128 + signal.SIGTERM] * 2
    told = json.loads(texts_of(folder, 0)[0].read_text())
    with Checkpointer(folder, create=False) as checkpointer:
        assert checkpointer.latest_step == told["steps"] < 3000
    # What it goes on from shows at once: it is stopped again by its own SIGTERM, after more updates.
    again = [start(folder, compiled, number, port, *longer) for port in [free_port()] for number in (0, 1)]
    while len(read_metrics(folder)) < told["steps"] + 3:
        assert time.monotonic() < until and all(process.poll() is None for process in again), texts_of(folder, 1)
        time.sleep(0.1)
    again[0].send_signal(signal.SIGTERM)
    assert statuses(again) == [128 + signal.SIGTERM] * 2
    assert [line["step"] for line in read_metrics(folder)][: told["steps"] + 3] == [*range(1, told["steps"] + 4)]


def test_a_process_that_does_not_come_is_named(tmp_path):
    folder = tmp_path / "run"
    process = start(folder, dict(os.environ), 0, free_port(), "--start-timeout", "2")
    assert statuses([process]) == [2]
    said = texts_of(folder, 0)[1].read_text()
    assert "process 1 of 2 did not come within 2 s" in said and "Traceback" not in said
    assert not folder.exists()
