"""launch/gke.sh: the manifest, and what kubectl is asked; kubectl is a stand-in."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.launch.stand_ins import Cluster

AWKWARD = 'prompt=it\'s "new" $(HOME) $$; a\\b * é\n'
RUN = ["tiny", "--out", "/mnt/expllm/a", "--image", "registry/expllm:1"]
BUCKET = [*RUN, "--topology", "v5e:4x4", "--bucket", "bkt"]
# Answers `get` from the file $FAKE/state and keeps what is applied.
KUBECTL = f"""#!{sys.executable} -IS
import json, os, pathlib, sys
fake = pathlib.Path(os.environ["FAKE"])
with (fake / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == "get":
    states = (fake / "state").read_text().split(",")
    print(states[0])
    (fake / "state").write_text(",".join(states[1:] or states))
if sys.argv[1] == "apply":
    (fake / "applied").write_text(sys.stdin.read())
if sys.argv[1] == "logs":
    print("training")
"""


def manifest(cluster: Cluster, *arguments: str) -> dict[str, Any]:
    """What the dry run would apply."""
    told = cluster.run("gke.sh", "--dry-run", *arguments).stdout
    return yaml.safe_load(told.partition("<<'END_OF_TEXT'\n")[2].rpartition("\nEND_OF_TEXT")[0])


def slice_of(found: dict[str, Any]) -> dict[str, Any]:
    (job,) = found["spec"]["replicatedJobs"]
    return job


def pod_of(found: dict[str, Any]) -> dict[str, Any]:
    return slice_of(found)["template"]["spec"]["template"]


@pytest.fixture
def kubernetes(cluster: Cluster) -> Cluster:
    cluster.add("kubectl", KUBECTL)
    return cluster


def test_every_flag_arrives_in_the_manifest(cluster):
    found = manifest(
        cluster, *BUCKET, "--slices", "2", "--name", "run-1", "--namespace", "team", "--queue", "q", "--spot",
        "--priority-class", "high", "--reservation", "r", "--service-account", "s", "--label", "k=v",
        "--env", "A=1 'x' $(HOME)", "--max-restarts", "7", "--grace", "99", "--mount", "/mnt/expllm",
        "--set", AWKWARD, "--", "--on-error", "skip",
    )  # fmt: skip
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert found["metadata"]["name"] == "run-1"
    assert found["metadata"]["namespace"] == "team"
    assert found["metadata"]["labels"] == {"k": "v", "kueue.x-k8s.io/queue-name": "q"}
    assert found["spec"]["failurePolicy"]["maxRestarts"] == 7
    assert found["spec"]["suspend"] is True
    job = slice_of(found)["template"]["spec"]
    assert slice_of(found)["replicas"] == 2
    assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (4, 4, 0)
    assert pod_of(found)["metadata"] == {"labels": {"k": "v"}, "annotations": {"gke-gcsfuse/volumes": "true"}}
    pod = pod_of(found)["spec"]
    assert pod["terminationGracePeriodSeconds"] == 99
    assert (pod["serviceAccountName"], pod["priorityClassName"]) == ("s", "high")
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
        "cloud.google.com/reservation-name": "r",
    }
    (container,) = pod["containers"]
    assert container["image"] == "registry/expllm:1"
    assert container["command"] == ["expllm"]
    # Kubernetes reads $$ as $.
    assert [word.replace("$$", "$") for word in container["args"]] == [
        "train", "tiny", "--out", "/mnt/expllm/a", "--accelerator", "v5e", "--set", AWKWARD, "--on-error", "skip"
    ]  # fmt: skip
    assert "$$(HOME) $$$$" in container["args"][7]
    assert container["env"] == [{"name": "A", "value": "1 'x' $$(HOME)"}]
    assert container["resources"] == {"requests": {"google.com/tpu": 4}, "limits": {"google.com/tpu": 4}}
    assert container["volumeMounts"][0] == {"name": "runs", "mountPath": "/mnt/expllm"}
    assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "bkt"


def test_what_is_not_asked_for_is_not_there(cluster):
    found = manifest(cluster, *RUN, "--topology", "v5e:4x4", "--pvc", "claim")
    pod = pod_of(found)["spec"]
    assert pod["volumes"][0] == {"name": "runs", "persistentVolumeClaim": {"claimName": "claim"}}
    assert pod_of(found)["metadata"] == {"labels": {}}
    assert "suspend" not in found["spec"]
    assert not {"serviceAccountName", "priorityClassName", "tolerations"} & set(pod)
    assert len(pod["nodeSelector"]) == 2
    assert "None" not in str(found)


@pytest.mark.parametrize(
    ("topology", "more", "accelerator", "hosts", "chips"),
    [
        ("v4:2x2x4", [], "tpu-v4-podslice", 4, 4),
        ("v5e:1x1", [], "tpu-v5-lite-podslice", 1, 1),
        ("v5e:2x4", [], "tpu-v5-lite-podslice", 1, 8),
        ("v5e:2x4", ["--chips-per-host", "4"], "tpu-v5-lite-podslice", 2, 4),
        ("v5e:16x16", [], "tpu-v5-lite-podslice", 64, 4),
        ("v5p:4x4x8", [], "tpu-v5p-slice", 32, 4),
        ("v6e:2x2", [], "tpu-v6e-slice", 1, 4),
        ("tpu7x:2x2x2", [], "tpu7x", 2, 4),
    ],
)
def test_hosts_and_chips_of_a_topology(cluster, topology, more, accelerator, hosts, chips):
    found = manifest(cluster, *RUN, "--bucket", "bkt", "--topology", topology, *more)
    pod = pod_of(found)["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == accelerator
    assert slice_of(found)["template"]["spec"]["completions"] == hosts
    assert pod["containers"][0]["resources"]["limits"]["google.com/tpu"] == chips
    assert pod["containers"][0]["args"][5] == topology.partition(":")[0]


def test_the_dry_run_can_be_pasted(kubernetes):
    told = kubernetes.run("gke.sh", *BUCKET, "--context", "a b", "--dry-run").stdout
    subprocess.run(["bash", "-c", told], env=kubernetes.environment, check=True, capture_output=True)
    (call,) = kubernetes.calls()
    assert call == ["apply", "--namespace=default", "--context=a b", "--filename=-"]
    assert yaml.safe_load((kubernetes.folder / "applied").read_text())["kind"] == "JobSet"


@pytest.mark.parametrize(
    ("state", "verbs"),
    [
        ("", ["get", "apply"]),
        ("expllm-a ", ["get"]),
        ("expllm-a StartupPolicyCompleted", ["get"]),
        ("expllm-a Completed", ["get"]),
        ("expllm-a Failed", ["get", "delete", "apply"]),
    ],
)
def test_the_same_command_never_starts_twice(kubernetes, state, verbs):
    (kubernetes.folder / "state").write_text(state)
    kubernetes.run("gke.sh", *BUCKET)
    assert [call[0] for call in kubernetes.calls()] == verbs


@pytest.mark.parametrize(("end", "status"), [("Completed", 0), ("Failed", 1)])
def test_follow_ends_with_the_run(kubernetes, end, status):
    # Started, restarted once, over.
    (kubernetes.folder / "state").write_text(f",expllm-a ,expllm-a ,expllm-a {end}")
    told = kubernetes.run("gke.sh", *BUCKET, "--follow", status=status)
    assert told.stdout.count("training") == 2


def test_delete(kubernetes):
    kubernetes.run("gke.sh", *BUCKET, "--delete")
    assert kubernetes.calls() == [["delete", "jobset", "expllm-a", "--namespace=default", "--ignore-not-found"]]


def test_without_kubectl_nothing_is_done(cluster):
    assert "there is no kubectl" in cluster.run("gke.sh", *BUCKET, status=2).stderr


def test_the_image_installs_what_the_locks_pin():
    lines = Path(__file__).parents[2].joinpath("launch/Dockerfile").read_text().splitlines()
    (base,) = (line for line in lines if line.startswith("FROM"))
    assert "/" not in base  # no registry is named
    assert "ARG LOCK=tpu" in lines
    assert shlex.split(next(line for line in lines if "-r " in line))[-1] == "/opt/expllm/launch/lock/$LOCK.txt"
