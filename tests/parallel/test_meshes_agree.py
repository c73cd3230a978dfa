"""An update is the same on every mesh: loss, gradient and parameters, in float32."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def report():
    """Of a process of its own, because the number of devices is fixed when JAX starts."""
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    command = [sys.executable, "-m", "tests.parallel.meshes_agree"]
    result = subprocess.run(
        command, cwd=ROOT, env=environment | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_every_mesh_makes_the_update_of_one_device(report):
    assert report["devices"] == 4
    assert report["smallest_gradient"][0] > 1e-3  # a gradient that is zero would agree with anything
    assert len(report["cases"]) >= 7
    for name, found in report["cases"].items():
        for what in ("loss", "gradient", "params"):
            assert found[what][0] <= TOLERANCE, (name, what, found[what])


def test_everything_trains_somewhere_and_adapters_alone_elsewhere(report):
    leaves = {name: found["leaves"] for name, found in report["cases"].items()}
    assert max(leaves.values()) == report["parameters"] > min(leaves.values())


def test_with_explicit_axes_layouts_are_those_of_the_table(report):
    """Before anything pins them: what the products made of the weights' and the batch's layouts."""
    explicit = {name: found["layouts"] for name, found in report["cases"].items() if "explicit" in name}
    assert len(explicit) == 3
    for name, layouts in explicit.items():
        assert layouts["residual_BTD"] == "P(('data', 'fsdp'), None, None)", name
        assert layouts["mlp_BTF"] == "P(('data', 'fsdp'), None, 'tensor')", name
    assert not any(found["layouts"] for name, found in report["cases"].items() if "explicit" not in name)
