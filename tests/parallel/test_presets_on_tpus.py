"""Every TPU preset, compiled by the TPU's own compiler: two layers of the 7B model, its update, no TPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from expllm_jax.parallel import PRESETS

ROOT = Path(__file__).parent.parent.parent
# Read by libtpu: to ask nobody for the computer it runs on, and to stand beside other compilers.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@pytest.mark.fit
@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if "tpu" in str(preset.compiler_options)])
def test_a_training_step_compiles_with_the_preset(name):
    command = [sys.executable, "-m", "tests.parallel.compiled_preset", name]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["peak"] < PRESETS[name].accelerator.memory
    assert found["kernel"], "splash attention is not in the program"
    assert found["mesh"] == [1, found["devices"], 1]
    assert "xla_tpu_no_such_option" in found["unknown"]
