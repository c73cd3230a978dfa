"""Records some updates with JAX's profiler, for TensorBoard's or XProf's trace viewer."""

from __future__ import annotations

from pathlib import Path

import jax

PROFILE = "profile"
"""Folder of a run that holds the traces."""


class ProfilerWindow:
    """Records the updates `window[0]` to `window[1]` into `run_dir/profile`, a file per process; nothing for ().

    A run that goes on in the middle of the window records what is left of it.
    """

    def __init__(self, window: tuple[int, ...], run_dir: Path) -> None:
        self._window, self._folder, self._records = window, run_dir / PROFILE, False

    def before(self, step: int) -> None:
        """To be called before update `step` is begun."""
        if self._window and not self._records and self._window[0] <= step <= self._window[1]:
            jax.profiler.start_trace(str(self._folder))
            self._records = True

    def after(self, step: int, results: object) -> None:
        """To be called when update `step` is under way; of the window's last one, it waits for its `results`."""
        if self._records and step == self._window[1]:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Writes what was recorded so far."""
        if self._records:
            self._records = False
            jax.profiler.stop_trace()
