"""launch/tpu_vm.sh: what it asks gcloud for, and what workers do: gcloud is a stand-in that runs their part here."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.launch.stand_ins import Cluster

AWKWARD = 'prompt=it\'s "new" $HOME; a\\b *'
MOUNT = "/mnt/runs"
TWO_SLICES = ["tiny", "--out", f"{MOUNT}/a", "--topology", "v5e:2x4", "--slices", "2", "--zone", "z", "--bucket", "bkt"]
TWO_SLICES += ["--mount", MOUNT, "--poll", "0", "--set", AWKWARD]


def verbs(calls: list[list[str]]) -> list[str]:
    """The calls in short, without repeats beside each other: what was done, in which order."""
    short = []
    for call in calls:
        command = next((word for word in call if word.startswith("--command=")), "")
        words = [
            word
            for word in ("flock", "tar", "mount", "install", "start", "stop", "follow")
            if f"{word} " in f"{command} "
        ]
        verb = words[-1] if call[3] == "ssh" else call[3]
        if not short or short[-1] != verb:
            short.append(verb)
    return short


@pytest.fixture
def tpus(cluster: Cluster) -> Iterator[Cluster]:
    """Two slices of one worker each, of which nothing is there yet."""
    stand_in = Path(__file__).with_name("fake_gcloud.py")
    cluster.add("gcloud", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -IS {shlex.quote(str(stand_in))} "$@"\n')
    cluster.add("mountpoint", "#!/bin/sh\nexit 0\n")
    for number in range(2):
        (cluster.folder / "workers" / f"expllm-a-{number}-w0").mkdir(parents=True)
    states(cluster, "ABSENT WAITING_FOR_RESOURCES PROVISIONING ACTIVE")
    yield cluster
    for pid in cluster.folder.glob("workers/*/expllm/expllm-a/pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)


def states(tpus: Cluster, words: str) -> None:
    (tpus.folder / "states").write_text(words)


def homes(tpus: Cluster) -> list[Path]:
    return sorted((tpus.folder / "workers").iterdir())


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it did not happen within 20 s"
        time.sleep(0.02)


def started(tpus: Cluster) -> list[int]:
    """How often the program was started on each worker."""
    count = [home / "arguments" for home in homes(tpus)]
    return [path.read_text().split("\n").count("train") if path.exists() else 0 for path in count]


def finish(tpus: Cluster, status: int = 0) -> None:
    """Lets the programs end with this status."""
    for home in homes(tpus):
        (home / "finish").write_text(str(status))


def test_from_nothing_to_a_complete_run(tpus):
    tpus.run("tpu_vm.sh", *TWO_SLICES)
    calls = tpus.calls()
    order = ["describe", "create", "describe", "flock", "scp", "tar", "mount", "install", "start"]
    assert verbs(calls) == order
    create = next(call for call in calls if call[3] == "create")
    assert create[4:] == [
        "expllm-a", "--zone=z", "--accelerator-type=v5litepod-8", "--runtime-version=v2-alpha-tpuv5-lite",
        "--node-count=2", "--node-prefix=expllm-a",
    ]  # fmt: skip
    wait_until(lambda: started(tpus) == [1, 1])
    expected = ["train", "tiny", "--out", f"{MOUNT}/a", "--accelerator", "v5e", "--set", AWKWARD]
    for home in homes(tpus):
        assert (home / "arguments").read_text().splitlines() == expected  # quoting survived three shells

    finish(tpus)
    again = tpus.run("tpu_vm.sh", *TWO_SLICES, "--follow")
    assert "training" in again.stdout
    assert "the run is complete" in again.stderr


def test_the_same_command_attaches_to_what_runs(tpus):
    tpus.run("tpu_vm.sh", *TWO_SLICES)
    wait_until(lambda: started(tpus) == [1, 1])
    tpus.calls()
    again = tpus.run("tpu_vm.sh", *TWO_SLICES)
    assert verbs(tpus.calls()) == ["describe", "flock"]
    assert "runs on all 2 workers already" in again.stderr
    assert started(tpus) == [1, 1]


def test_a_worker_that_fails_is_named_and_the_next_call_goes_on(tpus):
    (tpus.folder / "broken").write_text("expllm-a-1-w0")
    states(tpus, "ACTIVE")
    (tpus.folder / "workers/expllm-a-1-w0/finish").write_text("0")
    failed = tpus.run("tpu_vm.sh", *TWO_SLICES, status=1)
    assert "failed on a worker of expllm-a-1" in failed.stderr
    assert "start" not in verbs(tpus.calls())
    (tpus.folder / "broken").unlink()
    tpus.run("tpu_vm.sh", *TWO_SLICES)
    wait_until(lambda: started(tpus) == [1, 1])


def test_a_run_that_lost_a_worker_is_stopped_and_started_everywhere(tpus):
    tpus.run("tpu_vm.sh", *TWO_SLICES)
    wait_until(lambda: started(tpus) == [1, 1])
    lost = homes(tpus)[1] / "expllm/expllm-a"
    os.killpg(int((lost / "pid").read_text()), signal.SIGKILL)
    tpus.calls()
    told = tpus.run("tpu_vm.sh", *TWO_SLICES)
    assert "runs on 1 of 2 workers" in told.stderr
    assert verbs(tpus.calls()) == ["describe", "flock", "stop", "scp", "tar", "mount", "install", "start"]
    wait_until(lambda: started(tpus) == [2, 2])


def test_tpus_that_were_taken_away_are_asked_for_again(tpus):
    states(tpus, "SUSPENDED WAITING_FOR_RESOURCES ACTIVE")
    tpus.run("tpu_vm.sh", *TWO_SLICES, "--spot")
    calls = tpus.calls()
    assert verbs(calls)[:4] == ["describe", "delete", "create", "describe"]
    assert "--spot" in next(call for call in calls if call[3] == "create")


def test_until_done_goes_on_after_a_pre_emption(tpus):
    finish(tpus, status=143)
    states(tpus, "ACTIVE ACTIVE SUSPENDED SUSPENDED PROVISIONING ACTIVE")
    # The first try ends as one that was told to save; the second one ends well.
    tpus.add("sleep", '#!/bin/sh\n[ "$1" != 0 ] || for home in "$FAKE"/workers/*; do echo 0 > "$home/finish"; done\n')
    done = tpus.run("tpu_vm.sh", *TWO_SLICES, "--until-done")
    assert "with status 143; expllm-a is SUSPENDED" in done.stderr
    assert "the run is complete" in done.stderr
    assert started(tpus) == [2, 2]


def test_a_run_that_fails_is_not_started_again_by_itself(tpus):
    finish(tpus, status=3)
    states(tpus, "ACTIVE")
    tpus.run("tpu_vm.sh", *TWO_SLICES, "--until-done", status=1)
    assert started(tpus) == [1, 1]


def test_stop_lets_the_run_save(tpus):
    states(tpus, "ACTIVE")
    tpus.run("tpu_vm.sh", *TWO_SLICES)
    wait_until(lambda: started(tpus) == [1, 1])
    tpus.run("tpu_vm.sh", *TWO_SLICES, "--stop")
    assert [(home / "expllm/expllm-a/status").read_text() for home in homes(tpus)] == ["143\n", "143\n"]


def test_what_will_not_come_is_said(tpus):
    states(tpus, "ABSENT FAILED")
    assert "will not come (FAILED)" in tpus.run("tpu_vm.sh", *TWO_SLICES, status=1).stderr


def printed_commands(text: str) -> list[list[str]]:
    """The words of every command of a dry run; a quoted value may go over several lines."""
    commands, begun = [], ""
    for line in text.splitlines(keepends=True):
        if not begun and line.startswith("#"):
            continue
        begun += line
        with contextlib.suppress(ValueError):  # a quotation is still open
            commands.append(shlex.split(begun))
            begun = ""
    assert not begun
    return [words for words in commands if words]


def test_every_flag_arrives_in_the_dry_run(cluster):
    told = cluster.run(
        "tpu_vm.sh", "tiny", "--out", "/mnt/expllm/a", "--topology=v5p:4x4x8", "--zone", "z",
        "--project", "p", "--bucket", "gs://bkt",
        "--reserved", "--runtime-version", "r", "--service-account", "s@x", "--network", "n",
        "--subnetwork", "m", "--internal-ips",
        "--label", "k=v", "--label", "l=w", "--env", "A=1 2", "--prepare", "sudo true",
        "--name", "run-1", "--accelerator", "v5e",
        "--set", AWKWARD, "--follow", "--dry-run", "--", "--on-error", "skip",
    )  # fmt: skip
    lines = printed_commands(told.stdout)
    gcloud = [line for line in lines if line[0] == "gcloud"]
    assert all({"--zone=z", "--project=p"} <= set(line) for line in gcloud)
    create = gcloud[0]
    assert create[3:6] == ["queued-resources", "create", "run-1"]
    assert {
        "--accelerator-type=v5p-256", "--runtime-version=r", "--node-id=run-1", "--reserved", "--internal-ips",
        "--service-account=s@x", "--network=n", "--subnetwork=m", "--labels=k=v,l=w",
    } <= set(create)  # fmt: skip
    sent = [word.removeprefix("--command=") for line in gcloud for word in line if word.startswith("--command=")]
    assert any(command.endswith("\nsudo true") for command in sent)
    assert any(command.endswith("mount bkt /mnt/expllm") for command in sent)
    start = shlex.split(next(command for command in sent if " start " in command))
    assert start[2:6] == ["start", "run-1", "env", "A=1 2"]
    assert start[7:] == [
        "train", "tiny", "--out", "/mnt/expllm/a", "--accelerator", "v5e", "--set", AWKWARD, "--on-error", "skip"
    ]  # fmt: skip


def test_the_dry_run_can_be_pasted(tpus):
    """What it prints asks gcloud for the same as the run itself, but for where the archive lies until it is sent."""
    tpus.environment["TMPDIR"] = str(tpus.folder)
    states(tpus, "ABSENT ACTIVE")
    tpus.run("tpu_vm.sh", *TWO_SLICES, "--env", "A=it's\n", "--prepare", "true # no more")
    asked = tpus.calls()
    finish(tpus)
    told = tpus.run("tpu_vm.sh", *TWO_SLICES, "--env", "A=it's\n", "--prepare", "true # no more", "--dry-run").stdout
    states(tpus, "ACTIVE")
    command = ["bash", "-e", "-c", told]
    subprocess.run(command, env=tpus.environment, cwd=tpus.folder, check=True, capture_output=True)
    pasted = tpus.calls()

    def is_only_looking(call: list[str]) -> bool:
        return call[3] == "describe" or any("flock" in word for word in call)

    def without_folders(call: list[str]) -> list[str]:
        return [Path(word).name if word.endswith(".tar.gz") else word for word in call]

    changes = [[without_folders(call) for call in calls if not is_only_looking(call)] for calls in (asked, pasted)]
    assert sorted(changes[0]) == sorted(changes[1])  # slices are told at once, in any order
    assert len(changes[0]) == 11


def test_a_run_can_be_stopped_as_soon_as_it_is_started(tpus):
    states(tpus, "ACTIVE")
    tpus.run("tpu_vm.sh", *TWO_SLICES)
    assert all((home / "expllm/expllm-a/pid").read_text().strip() for home in homes(tpus))
    tpus.run("tpu_vm.sh", *TWO_SLICES, "--stop")
    assert [(home / "expllm/expllm-a/status").read_text() for home in homes(tpus)] == ["143\n", "143\n"]


def test_an_experiment_of_the_checkout_is_named_as_it_lies_on_the_workers(tpus, checkout):
    file = checkout / "launch/gke/render.py"  # stands for an experiment: a .py file that is committed
    told = tpus.run("tpu_vm.sh", str(file), *TWO_SLICES[1:], "--dry-run").stdout
    assert "train expllm/expllm-a/checkout/launch/gke/render.py" in told
    new = checkout / "launch/new.py"
    new.touch()
    try:
        assert "is not committed" in tpus.run("tpu_vm.sh", str(new), *TWO_SLICES[1:], "--dry-run", status=2).stderr
    finally:
        new.unlink()


def test_without_gcloud_nothing_is_done(cluster):
    assert "there is no gcloud" in cluster.run("tpu_vm.sh", *TWO_SLICES, status=2).stderr


def test_changes_that_would_not_be_copied_are_refused(tpus, checkout):
    readme = checkout / "launch/demo.sh"
    before = readme.read_text()
    readme.write_text(before + "# changed\n")
    try:
        assert "not committed" in tpus.run("tpu_vm.sh", *TWO_SLICES, status=2).stderr
    finally:
        readme.write_text(before)
