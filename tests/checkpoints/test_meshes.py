"""A checkpoint belongs to no mesh: what four devices saved, one or two by two restore."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_what_four_devices_saved_any_mesh_restores(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.checkpoints.four_devices", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    told = json.loads(run.stdout)
    assert told["restored"] == {"1x1 float32": True, "2x2 float32": True, "1x4 bfloat16": True}
    assert told["frozen"] and told["export"] == [["kernel"], {"a": 1}] and told["fingerprints"] == 1
