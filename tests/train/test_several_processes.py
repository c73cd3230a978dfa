"""Runs of two real processes on this computer, over gloo: they learn what one process learns, and end together."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from expllm_jax.checkpoints import load_frozen, params_fingerprint
from expllm_jax.models import select
from expllm_jax.train import read_metrics
from tests.train.tiny import tiny_config, tiny_model
from tests.train.tiny_run import tiny_train_config

pytestmark = pytest.mark.hosts
ROOT = Path(__file__).parents[2]
STEPS = 8
BOUND = 240  # seconds for any of these runs; where a process was killed, the others need about 10 to end


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def told(self) -> dict:
        return json.loads(self.out.splitlines()[-1])


def processes(folder: Path, compiled: str, count: int, *options: str, killed: int | None = None) -> list[Ended]:
    """Runs `one_of_several` in `count` processes; the one of number `killed` gets no further than update 5."""
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": compiled,
                   "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"}  # fmt: skip
    started, texts = [], []
    try:
        for number in range(count):
            command = [sys.executable, "-m", "tests.train.one_of_several", folder, f"localhost:{port}", count, number]
            end = ["--killed-at=6"] if number == killed else []
            # Files, not pipes: whoever is read last must not be held up by a pipe that is full.
            texts.append((Path(f"{folder}-{number}.out"), Path(f"{folder}-{number}.err")))
            with texts[-1][0].open("w") as out, texts[-1][1].open("w") as err:
                started.append(
                    subprocess.Popen([*map(str, command), f"--steps={STEPS}", *options, *end], stdout=out, stderr=err,
                                     env=environment, cwd=ROOT)
                )  # fmt: skip
        for process in started:
            process.wait(timeout=BOUND)
    finally:
        for process in started:
            process.kill()
    return [
        Ended(process.returncode, out.read_text(), err.read_text())
        for process, (out, err) in zip(started, texts, strict=True)
    ]


def records_of(ended: list[Ended]) -> list[list[int]]:
    """The records of every update, over all processes."""
    shares = [process.told["records"] for process in ended]
    return [sorted(sum(update, [])) for update in zip(*shares, strict=True)]


def losses_of(folder: Path) -> list[float]:
    lines = [line for line in read_metrics(folder) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return [line["loss"] for line in lines]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, compilation_cache_dir) -> tuple[list[list[int]], list[float]]:
    """Records and losses of the run in one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    ended = processes(folder, compilation_cache_dir, 1)
    assert ended[0].status == 0, ended[0].err
    return records_of(ended), losses_of(folder)


@pytest.fixture(scope="module")
def two(tmp_path_factory, compilation_cache_dir) -> tuple[Path, list[Ended]]:
    """The same run in two processes; not to be written to."""
    folder = tmp_path_factory.mktemp("two") / "run"
    ended = processes(folder, compilation_cache_dir, 2)
    assert [process.status for process in ended] == [0, 0], ended
    return folder, ended


def test_two_processes_learn_what_one_learns_from_the_same_records(alone, two) -> None:
    folder, ended = two
    records, losses = alone
    assert records_of(ended) == records
    assert all(len(share) == 2 for process in ended for share in process.told["records"])  # of a batch of 4
    assert losses_of(folder) == pytest.approx(losses, rel=1e-5)
    assert ended[0].told["fingerprint"] == ended[1].told["fingerprint"]


def test_what_does_not_train_is_saved_by_both_as_one_whole(two) -> None:
    folder, _ = two
    frozen = select(tiny_model(tiny_config(rank=2))[1], tiny_train_config().trainable)[1]
    assert params_fingerprint(load_frozen(folder)) == params_fingerprint(frozen)
    assert not list(folder.glob(".*.partial"))


def test_a_run_goes_on_in_another_number_of_processes(tmp_path: Path, alone, compilation_cache_dir) -> None:
    folder, seen = tmp_path / "run", []
    # Stopped after updates 4 and 6: each part begins at the checkpoint that another number of processes wrote.
    for count, stop, status in ((2, 5, 2), (1, 3, 2), (2, 0, 0)):
        ended = processes(folder, compilation_cache_dir, count, f"--stop-at={stop}")
        assert [process.status for process in ended] == [status] * count, ended
        assert all("stopped here on purpose" in process.err for process in ended if status)
        seen += records_of(ended)
    records, losses = alone
    assert seen == records
    assert losses_of(folder) == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("who", [0, 1])
def test_when_one_process_is_killed_the_other_ends_and_a_restart_goes_on(
    tmp_path: Path, alone, compilation_cache_dir, who: int
) -> None:
    folder = tmp_path / "run"
    ended = processes(folder, compilation_cache_dir, 2, killed=who)
    killed, left = ended[who], ended[1 - who]
    assert killed.status == -9 and left.status == 1, left
    assert f"process {who}" in left.err and "it was killed, or its host is gone" in left.err
    ended = processes(folder, compilation_cache_dir, 2)
    assert [process.status for process in ended] == [0, 0], ended
    records, losses = alone
    seen = records_of(ended)
    assert 2 <= len(seen) < STEPS and seen == records[-len(seen) :]
    assert losses_of(folder) == pytest.approx(losses, rel=1e-5)


def test_two_processes_fall_back_to_the_same_checkpoint_when_the_newest_is_damaged(
    tmp_path: Path, two, alone, compilation_cache_dir
) -> None:
    before, ended_before = two
    folder = tmp_path / "run"
    shutil.copytree(before, folder)
    largest = max((folder / "checkpoints" / str(STEPS) / "state").rglob("d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    ended = processes(folder, compilation_cache_dir, 2)
    assert [process.status for process in ended] == [0, 0], ended
    records, losses = alone
    assert records_of(ended) == records[6:]
    assert losses_of(folder) == pytest.approx(losses, rel=1e-5)
    assert {process.told["fingerprint"] for process in ended} == {ended_before[0].told["fingerprint"]}
    moved = [f"the checkpoint of step {STEPS} is damaged" in process.err for process in ended]
    assert moved == [True, False]  # moved aside, and told, by one
    assert [path.name for path in (folder / "checkpoints" / "damaged").iterdir()] == [str(STEPS)]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir() if path.name.isdigit()) == ["6", "8"]


def test_damaged_records_of_all_processes_are_listed_once(tmp_path: Path, alone, compilation_cache_dir) -> None:
    folder, damaged = tmp_path / "run", [1, 4, 7]
    listed = []
    for stop, status in ((5, 2), (0, 0)):  # what a restart sees again is not listed twice
        ended = processes(folder, compilation_cache_dir, 2, f"--damaged={damaged}", f"--stop-at={stop}")
        assert [process.status for process in ended] == [status] * 2, ended
        listed = [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]
    due = [(update, record) for update, records in enumerate(alone[0], 1) for record in records if record in damaged]
    assert [(line["update"], line["record"]) for line in listed] == due and len(due) > 3
    assert all(line["id"] == f"record-{line['record']}" for line in listed)
    assert [process.told["skipped"] for process in ended] == [len(due), 0]


def test_an_update_of_damaged_records_only_ends_the_run(tmp_path: Path, compilation_cache_dir) -> None:
    ended = processes(tmp_path / "run", compilation_cache_dir, 2, f"--damaged={list(range(10))}")
    assert [process.status for process in ended] == [2, 2], ended
    assert "all 4 records of update 1 are damaged" in ended[0].err
