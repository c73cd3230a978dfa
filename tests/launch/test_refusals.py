"""Bad input of the launch scripts: one error that names the flag and how to mend it, status 2, and nothing is done."""

from __future__ import annotations

import pytest

TPU = "tpu_vm.sh tiny --out /mnt/expllm/a --zone z --bucket bkt --topology v5e:4x4"
GKE = "gke.sh tiny --out /mnt/expllm/a --image i --bucket bkt --topology v5e:4x4"
SLURM = "slurm.sh tiny --out /shared/a"

REFUSED = [
    ("tpu_vm.sh --out /mnt/expllm/a", "no experiment", "expllm config list"),
    ("slurm.sh tiny", "--out is missing", "--out FOLDER"),
    ("slurm.sh tiny laptop --out /shared/a", "two experiments, tiny and laptop", "give one"),
    (f"{SLURM} --node 2", "there is no flag --node", "--help"),
    (f"{SLURM} --follow=no", "--follow takes no value, and no was given", "alone"),
    (f"{SLURM} -- --out /b", "--out stands after -- as well", "once"),
    (f"{SLURM} --out=", "--out has no value", "--out VALUE"),
    ("slurm.sh tiny --out //", "--out // is the root of all files", "folder of its own"),
    ("slurm.sh mine.py --out /shared/a", "there is no experiment mine.py", "expllm config list"),
    (f"{SLURM} --partition a\nb", "--partition holds a line break: a...", "one line"),
    (f"{SLURM} --prepare if", "--prepare if is no whole line of shell", "close"),
    (f"{SLURM} --sbatch exclude=n7", "--sbatch exclude=n7 is no option", "--sbatch=--exclude"),
    (f"{SLURM} --sbatch --exclude=n7", "--sbatch has no value", "--sbatch=VALUE"),
    (f"{SLURM} --nodes 08", "--nodes 08 is not a whole number", "--nodes 2"),
    (f"{SLURM} --gpus-per-node h100:", "neither N nor TYPE:N", "h100:8"),
    (f"{SLURM} --time 2", "over before the run is told to save, 120 s", "--save-before"),
    (f"{SLURM} --time 1-2:30 --save-before 95400", "over before the run is told to save", "--save-before"),
    (f"{SLURM} --nodes", "--nodes has no value", "--nodes VALUE"),
    (f"{SLURM} --nodes --follow", "--nodes has no value", "--nodes VALUE"),
    (f"{SLURM} --set steps", "--set steps is no KEY=VALUE", "--set train.steps=50"),
    (f"{SLURM} --name Run_1", "--name Run_1", "small letters"),
    ("slurm.sh tiny --out gs://bkt/a", "--out gs://bkt/a is no path", "mount the bucket"),
    ("slurm.sh tiny --out /tmp/a", "on this computer only", "--not-shared"),
    ("slurm.sh tiny --out /tmp/a --not-shared --nodes 2", "--not-shared does not go with --nodes 2", "--nodes 1"),
    (f"{SLURM} --nodes 0", "--nodes 0 is not a whole number of 1 or more", "--nodes 2"),
    (f"{SLURM} --gpus-per-node eight", "--gpus-per-node eight", "--gpus-per-node 2"),
    (f"{SLURM} --gpus-per-node 8 --tasks-per-node 3", "--tasks-per-node 3 does not go with 8 GPUs", "use 8"),
    (f"{SLURM} --time tomorrow", "--time tomorrow is no time limit", "HOURS"),
    (f"{SLURM} --env 1=2", "--env 1=2 is no NAME=VALUE", "--env"),
    (f"{TPU} --topology v5e:3x3", "v5e has no topology 3x3", "use one of: 1x1 2x2 2x4 4x4"),
    (f"{TPU} --topology v7:2x2", "names no TPU", "use v4, v5e, v5p, v6e or tpu7x"),
    (f"{TPU} --topology v5p:4x4", "v5p has no topology 4x4", "multiples of 4"),
    (f"{TPU} --topology v5p:4x4x12", "as a VM v5p comes as", "gke.sh"),
    (f"{TPU} --topology tpu7x:2x2x2", "on GKE only", "gke.sh"),
    (f"{TPU} --spot --reserved", "--spot does not go with --reserved", "use one of them"),
    (f"{TPU} --out /data/a", "--out /data/a is not below --mount /mnt/expllm", "--out /mnt/expllm/runs/NAME"),
    (f"{TPU} --mount data", "--mount data is no folder", "from the root"),
    (f"{TPU} --out /mnt/expllm/../a", "goes up with ..", "as it is"),
    (f"{TPU} --bucket bkt/a", "--bucket bkt/a names no bucket", "without folders"),
    (f"{TPU} --topology v5e:2x2 --topology=v5e:4x4x", "v5e has no topology", "4x8"),
    (f"{TPU} --label A", "--label A", "--label team=faces"),
    ("tpu_vm.sh tiny --out /data/a --zone z --topology v5e:4x4", "no disk that outlives", "--bucket BUCKET"),
    ("tpu_vm.sh tiny --out /data/a --topology v5e:4x4", "--zone is missing", "--zone us-west4-a"),
    ("tpu_vm.sh tiny --out /data/a --zone z", "--topology is missing", "--topology v5e:4x4"),
    (f"{GKE} --topology v6e:2x3", "v6e has no topology 2x3", "2x4"),
    (f"{GKE} --topology v5p:8x4x4", "v5p has no topology 8x4x4", "rising order"),
    (f"{GKE} --topology v5e:2x2 --slices 2", "slices of several hosts", "4x4"),
    (f"{GKE} --chips-per-host 8", "--chips-per-host 8 does not go with v5e:4x4", "use 4"),
    (f"{GKE} --bucket bkt/a", "--bucket bkt/a names no bucket", "without folders"),
    (f"{GKE} --pvc c", "--bucket does not go with --pvc", "use one of them"),
    ("gke.sh tiny --out /mnt/expllm/a --image i --topology v5e:4x4", "no disk that outlives", "--pvc CLAIM"),
    ("gke.sh tiny --out /mnt/expllm/a --bucket bkt --topology v5e:4x4", "--image is missing", "Dockerfile"),
]


@pytest.mark.parametrize(("command", "problem", "remedy"), REFUSED, ids=[row[0] for row in REFUSED])
def test_bad_input_is_one_error(cluster, command, problem, remedy):
    told = cluster.run(*command.split(" "), status=2)
    first, second = told.stderr.splitlines()
    assert first.startswith("expllm: error: ") and problem in first
    assert second.startswith("  to mend it: ") and remedy in second
    assert told.stdout == ""


@pytest.mark.parametrize("script", ["tpu_vm.sh", "gke.sh", "slurm.sh"])
def test_help_shows_every_flag_and_an_example(cluster, script):
    told = cluster.run(script, "--help").stdout
    text = (cluster.launch / script).read_text()
    declared = text[text.index("expllm_parse ") :].replace("\\\n", "").splitlines()[0:2]
    words = " ".join(declared).split("check")[0].replace('"', " ").replace("\\", " ").split()
    flags = [word for word in words if word[0].isalpha() and word != "expllm_parse"]
    assert len(flags) > 10
    assert [flag for flag in [*flags, "out", "set", "name", "accelerator", "dry-run"] if f"--{flag}" not in told] == []
    assert f"./launch/{script} expllm_7b_rafdb --out /" in told
