"""The train step with explicit axes goes through the TPU's compiler, attention kernel and all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.fit
def test_two_layers_of_the_7b_model_compile_with_explicit_axes():
    """In a process of its own, which loads the compiler instead of looking for a TPU."""
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    command = [sys.executable, "-m", "tests.parallel.explicit_on_tpu"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads(result.stdout.splitlines()[-1])
    assert 0.2 < report["peak_gib"] < 15.75  # of the decoder alone, 2 layers' kernels in bfloat16 are 0.1 GiB a device
    assert report["kernels"] >= 3 and not report["scores"]  # forward, and the two of the backward pass
