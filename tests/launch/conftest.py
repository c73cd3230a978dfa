"""A checkout of its own for the launch scripts, and a PATH without the cluster's tools until a test adds stand-ins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.stand_ins import Cluster

ROOT = Path(__file__).parents[2]
PROGRAMS = "bash sh env cat sed tr cut grep head tail mktemp rm mkdir dirname basename find tar gzip git id stat touch"
PROGRAMS += " flock setsid nohup hostname true chown seq date"


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean checkout that holds launch/ alone."""
    root = tmp_path_factory.mktemp("a checkout")
    shutil.copytree(ROOT / "launch", root / "launch", ignore=shutil.ignore_patterns("bench", "__pycache__"))
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "launch"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    return root


@pytest.fixture
def cluster(tmp_path: Path, checkout: Path) -> Cluster:
    """A PATH with the usual programs, and none of gcloud, kubectl and sbatch."""
    (tmp_path / "bin").mkdir()
    for name in PROGRAMS.split():
        found = shutil.which(name)
        assert found, f"these tests need {name}"
        (tmp_path / "bin" / name).symlink_to(found)
    (tmp_path / "bin/python3").symlink_to(sys.executable)
    # What waits a second for a remote computer need not wait here.
    sleep = shutil.which("sleep")
    (tmp_path / "bin/sleep").write_text(f"#!/bin/sh\nexec {sleep} 0.02\n")
    (tmp_path / "bin/sleep").chmod(0o755)
    environment = {"PATH": str(tmp_path / "bin"), "FAKE": str(tmp_path), "HOME": str(tmp_path), "EXPLLM_POLL": "0.1"}
    environment |= {key: os.environ[key] for key in ("LANG", "LC_ALL", "TMPDIR") if key in os.environ}
    return Cluster(tmp_path, checkout / "launch", environment)
