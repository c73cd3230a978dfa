"""A process in which nothing finishes any more says where it stands, and ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from expllm_jax.train import STUCK_STATUS, watchdog
from expllm_jax.train.watchdog import FIRST, Watchdog

# The module alone: everything else of its package would take seconds to import.
STUCK = """
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("watchdog", sys.argv[2])
module = sys.modules["watchdog"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

def waits_for_ever():
    time.sleep(600)

with module.Watchdog(0.4, Path(sys.argv[1]), process=3, start=5) as dog:
    dog.alive(6)
    waits_for_ever()
"""


def test_silence_is_counted_from_the_last_sign_of_life_and_not_while_the_process_stood_still(tmp_path: Path) -> None:
    now, ended = [0.0], []
    dog = Watchdog(20.0, tmp_path, clock=lambda: now[0], end=ended.append)  # looks every second

    def looks_after(seconds: float) -> bool:
        now[0] += seconds
        return dog.look()

    assert not any(looks_after(1.0) for _ in range(20 * FIRST - 1))  # the first update takes longer
    dog.alive(1)
    assert not any(looks_after(1.0) for _ in range(20))  # the first of them sees the sign
    dog.alive()
    looks_after(1.0)
    assert not looks_after(3600.0)  # asleep
    assert not any(looks_after(1.0) for _ in range(17)) and not ended
    assert looks_after(1.0) and ended == [STUCK_STATUS]
    assert "no update finished for 20 s, the last one was 1" in (tmp_path / "stuck-0.txt").read_text()


def test_a_stuck_process_ends_with_its_stacks_written_down(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", STUCK, tmp_path, watchdog.__file__], capture_output=True, text=True, timeout=60
    )
    assert child.returncode == STUCK_STATUS, child.stderr
    assert "process 3 is stuck" in child.stderr and "the last one was 6" in child.stderr
    assert "waits_for_ever" in (tmp_path / "stuck-3.txt").read_text()


def test_switched_off_there_is_no_thread(tmp_path: Path) -> None:
    with Watchdog(0, tmp_path) as dog:
        assert dog._thread is None
