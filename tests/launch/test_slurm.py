"""launch/slurm.sh: the job, and what Slurm is asked; its tools are stand-ins (`slurm_run.sh` submits a real job)."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.stand_ins import Cluster

AWKWARD = 'prompt=it\'s "new" $HOME; a\\b *'
# squeue says what $FAKE/queue holds, one line a call (a number alone is the job of `run_of`); sbatch accepts; scontrol
# tells how the job ended.
TOOL = f"""#!{sys.executable} -IS
import json, os, pathlib, sys
fake = pathlib.Path(os.environ["FAKE"])
tool = pathlib.Path(sys.argv[0]).name
with (fake / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps([tool, *sys.argv[1:]]) + "\\n")
if tool == "squeue":
    lines = (fake / "queue").read_text().split(",")
    job_of_run = lines[0].isdigit() and "--format=%A %o" in sys.argv
    print(f"{{lines[0]}} {{fake}}/runs/a.slurm/job.sh" if job_of_run else lines[0])
    (fake / "queue").write_text(",".join(lines[1:] or lines))
if tool == "sbatch":
    print("17;cluster")
if tool == "scontrol":
    print("JobId=17 JobName=x " + (fake / "ended").read_text() + " Reason=None")
"""


@pytest.fixture
def slurm(cluster: Cluster) -> Cluster:
    """A cluster with an empty queue."""
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        cluster.add(name, TOOL)
    (cluster.folder / "queue").write_text("")
    return cluster


def run_of(slurm: Cluster, *more: str) -> list[str]:
    folder = slurm.folder / "runs/a"
    return ["tiny", "--out", str(folder), "--not-shared", "--expllm", sys.executable, *more]


def directives(script: str) -> dict[str, str]:
    """The #SBATCH lines, by option."""
    words = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH --")]
    return {key: "".join(shlex.split(value)) for key, _, value in (word.partition("=") for word in words)}


def test_every_flag_arrives_in_the_job(cluster):
    told = cluster.run(
        "slurm.sh", "tiny", "--out", "/shared/my runs/a", "--accelerator", "h100", "--nodes", "4",
        "--gpus-per-node", "h100:8", "--cpus-per-task", "6", "--mem", "64G", "--time", "12:00:00", "--partition", "p",
        "--account", "acc", "--qos", "q", "--constraint", "a&b", "--reservation", "r", "--exclusive",
        "--sbatch=--exclude=n7", "--prepare", "module load x",
        "--env", "A=1 'x'", "--save-before", "200", "--set", AWKWARD, "--dry-run", "--", "--on-error", "skip",
    ).stdout  # fmt: skip
    assert directives(told) == {
        "job-name": "expllm-a", "nodes": "4", "ntasks-per-node": "8", "gpus-per-node": "h100:8", "cpus-per-task": "6",
        "mem": "64G", "time": "12:00:00", "partition": "p", "account": "acc", "qos": "q", "constraint": "a&b",
        "reservation": "r", "exclusive": "", "exclude": "n7", "requeue": "", "open-mode": "append",
        "signal": "B:USR1@200",
    }  # fmt: skip
    lines = told.splitlines()
    assert "{\nmodule load x\n} || exit 2\n" in told
    (export,) = (line for line in lines if line.startswith("export "))
    assert shlex.split(export) == ["export", "A=1 'x'"]
    (run,) = (line for line in lines if line.startswith("run=("))
    assert shlex.split(run.removeprefix("run=(").removesuffix(")"))[1:] == [
        "train", "tiny", "--out", "/shared/my runs/a", "--accelerator", "h100", "--set", AWKWARD, "--on-error", "skip"
    ]  # fmt: skip
    (step,) = (line for line in lines if line.startswith("srun") and line.endswith("&"))
    assert {"--cpus-per-task=6", "--gpu-bind=none", "--kill-on-bad-exit=1"} <= set(shlex.split(step))
    assert shlex.split(lines[-1]) == [
        "sbatch", "--parsable", "--output=/shared/my runs/a.slurm/log-%j.txt", "/shared/my runs/a.slurm/job.sh"
    ]  # fmt: skip


def test_the_job_is_a_script_that_bash_reads(slurm):
    told = slurm.run("slurm.sh", *run_of(slurm, "--set", AWKWARD, "--dry-run")).stdout
    subprocess.run(["bash", "-n"], input=told, text=True, check=True)
    assert not (slurm.folder / "runs").exists()
    slurm.run("slurm.sh", *run_of(slurm, "--set", AWKWARD))
    written = (slurm.folder / "runs/a.slurm/job.sh").read_text()
    assert written.strip() in told  # a dry run shows exactly the job
    calls = [call for call in slurm.calls() if call[0] == "sbatch"]
    assert calls == [shlex.split(told.splitlines()[-1])]


@pytest.mark.parametrize(("flags", "tasks"), [([], 1), (["--gpus-per-node", "4"], 4), (["--tasks-per-node", "2"], 2)])
def test_processes_per_node(slurm, flags, tasks):
    told = slurm.run("slurm.sh", *run_of(slurm, *flags, "--dry-run")).stdout
    assert directives(told)["ntasks-per-node"] == str(tasks)


def test_one_process_may_drive_all_gpus_of_a_node(slurm):
    told = slurm.run("slurm.sh", *run_of(slurm, "--gpus-per-node", "8", "--tasks-per-node", "1", "--dry-run")).stdout
    assert directives(told)["ntasks-per-node"] == "1"


def test_the_same_command_attaches_to_the_job_that_is_there(slurm):
    (slurm.folder / "queue").write_text("17")
    told = slurm.run("slurm.sh", *run_of(slurm))
    assert "job 17 runs expllm-a already" in told.stderr
    assert [call[0] for call in slurm.calls()] == ["squeue"]


def test_a_job_of_the_same_name_that_runs_something_else_is_left_alone(slurm):
    (slurm.folder / "queue").write_text("17")
    told = slurm.run("slurm.sh", *run_of(slurm, "--out", str(slurm.folder / "elsewhere/a")), status=2)
    assert "job 17 has the name expllm-a and runs " in told.stderr
    assert "--name" in told.stderr
    assert [call[0] for call in slurm.calls()] == ["squeue"]


@pytest.mark.parametrize(("more", "only_looking"), [([], {"squeue"}), (["--cancel"], set())])
def test_the_dry_run_can_be_pasted(slurm, more, only_looking):
    awkward = ["--out", str(slurm.folder / "runs it's/a b"), "--name", "expllm-a", "--set", AWKWARD + "\nEND_OF_TEXT\n"]
    awkward += ["--prepare", "true # no more", *more]
    (slurm.folder / "queue").write_text(f"17 {slurm.folder}/runs it's/a b.slurm/job.sh" if more else "")
    told = slurm.run("slurm.sh", *run_of(slurm, *awkward, "--dry-run")).stdout
    assert not (slurm.folder / "runs it's").exists()
    subprocess.run(["bash", "-e", "-c", told], env=slurm.environment, check=True, capture_output=True)
    pasted, jobs = slurm.calls(), [path.read_text() for path in slurm.folder.glob("runs it's/a b.slurm/job.sh")]
    slurm.run("slurm.sh", *run_of(slurm, *awkward))
    assert pasted == [call for call in slurm.calls() if call[0] not in only_looking]
    assert jobs == [path.read_text() for path in slurm.folder.glob("runs it's/a b.slurm/job.sh")]
    for job in jobs:
        subprocess.run(["bash", "-n"], input=job, text=True, check=True)


def test_files_are_named_from_the_root_as_the_job_starts_elsewhere(slurm):
    (slurm.folder / "mine.py").touch()
    told = slurm.run("slurm.sh", "mine.py", "--out", "/shared/a", "--expllm", "bin/expllm", "--dry-run").stdout
    (run,) = (line for line in told.splitlines() if line.startswith("run=("))
    names = shlex.split(run.removeprefix("run=(").removesuffix(")"))
    assert names == [f"{slurm.folder}/bin/expllm", "train", f"{slurm.folder}/mine.py", "--out", "/shared/a"]


@pytest.mark.parametrize(("ended", "status"), [("COMPLETED", 0), ("FAILED", 1)])
def test_follow_ends_with_the_job(slurm, ended, status):
    (slurm.folder / "queue").write_text(",PENDING,RUNNING,")
    (slurm.folder / "ended").write_text(f"JobState={ended}")
    log = slurm.folder / "runs/a.slurm/log-17.txt"
    log.parent.mkdir(parents=True)
    log.write_text("training\n")
    told = slurm.run("slurm.sh", *run_of(slurm, "--follow"), status=status)
    assert "training" in told.stdout
    assert f"job 17: {ended}" in told.stderr


def test_cancel(slurm):
    (slurm.folder / "queue").write_text("17")
    slurm.run("slurm.sh", *run_of(slurm, "--cancel"))
    assert slurm.calls()[-1] == ["scancel", "17"]


def test_a_program_that_is_not_there_is_said_before_anything_is_submitted(slurm):
    told = slurm.run("slurm.sh", *run_of(slurm), "--expllm", "/nowhere/expllm", status=2)
    assert "there is no program /nowhere/expllm" in told.stderr
    assert slurm.calls() == []


def test_without_slurm_nothing_is_done(cluster):
    assert "there is no sbatch" in cluster.run("slurm.sh", *run_of(cluster), status=2).stderr


@pytest.mark.parametrize("script", ["one_node_slurm.sh", "slurm_run.sh"])
def test_scripts_beside_the_tests_parse(script):
    subprocess.run(["bash", "-n", Path(__file__).with_name(script)], check=True)
