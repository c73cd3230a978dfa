"""The checkpoints of a training run: `{state, data, meta}` every so many steps, written in the background.

A checkpoint is complete or absent: Orbax writes it under a temporary name and renames it when everything is on disk,
and an old one is removed only after a newer one is complete. So a process may be killed at any moment.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from expllm_jax.checkpoints.orbax_errors import explained, silence_orbax
from expllm_jax.errors import ExpllmError

State = TypeVar("State")

CHECKPOINTS = "checkpoints"
"""Folder of a run that holds one folder per saved step."""

_STATE, _DATA, _META = "state", "data", "meta"


class Checkpointer:
    """Saves to and restores from `run_dir/checkpoints`.

    Args:
      run_dir: the run's folder.
      keep: how many of the newest checkpoints stay; at least 1.
      create: make the folder if need be (training); False is for reading, and a run without checkpoints is an error.

    Raises:
      ExpllmError: nothing to read, or the folder cannot be made.
    """

    def __init__(self, run_dir: str | Path, *, keep: int = 2, create: bool = True) -> None:
        silence_orbax()
        if keep < 1:
            raise ExpllmError(f"keep is {keep}", "keep at least 1 checkpoint")
        self.folder = Path(run_dir) / CHECKPOINTS
        if not create and not self.folder.is_dir():
            what = "holds no checkpoints" if Path(run_dir).is_dir() else "does not exist"
            raise ExpllmError(f"the run {run_dir} {what}", "check the path, or train first")
        # Without this, Orbax would store the dict `meta` as arrays, which cannot hold lists or None.
        registry = ocp.handlers.local_registry()
        registry.add(ocp.handlers.JsonHandler, checkpointable_name=_META)
        context = ocp.Context()
        context.checkpointables.registry = registry
        with explained(f"checkpoints cannot be kept in {self.folder}", "choose a run folder that can be written"):
            self._orbax = ocp.training.Checkpointer(
                os.path.abspath(self.folder),
                context=context,
                preservation_policy=ocp.training.preservation_policies.LatestN(keep),
                cleanup_tmp_directories=create,  # what a killed save left behind
            )
        if not create and self.latest_step is None:
            self.close()
            raise ExpllmError(f"the run {run_dir} holds no finished checkpoint", "train until the first one is saved")

    @property
    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step; None if there is none."""
        latest = self._orbax.latest
        return None if latest is None else latest.step

    def save_async(self, step: int, state: Any, data: Any, meta: dict[str, Any]) -> None:
        """Begins to save and returns as soon as `state` may be donated and `data` may advance.

        An earlier save that is still being written is waited for, and its failure raised here.

        Args:
          step: how many updates `state` has had; its name on disk.
          state: a pytree of arrays.
          data: an iterator with Orbax's or Grain's way to give its state.
          meta: a JSON-able dict.

        Raises:
          ExpllmError: this or the previous save failed (disk full, no permission).
        """
        with explained(f"the checkpoint of step {step} cannot be written to {self.folder}", "make room on the disk"):
            self._orbax.save_checkpointables_async(step, {_STATE: state, _DATA: data, _META: meta}, force=True)

    def wait(self) -> None:
        """Blocks until everything is on disk. Raises ExpllmError if it could not be written."""
        with explained(f"the last checkpoint cannot be written to {self.folder}", "make room on the disk"):
            self._orbax.wait()

    def restore(self, like: State, data: Any, step: int | None = None) -> State:
        """The state of `step` (None: the latest), laid out like `like`; `data` is moved to where it was then.

        Args:
          like: the same pytree of arrays, or of ShapeDtypeStructs with shardings.
          data: a fresh iterator over the same records.

        Raises:
          ExpllmError: no such checkpoint, damaged files, or a state of another shape.
        """
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        with self._reading(step) as step:
            return self._orbax.load_checkpointables(step, {_STATE: target, _DATA: data})[_STATE]

    def load_meta(self, step: int | None = None) -> dict[str, Any]:
        """What was saved as `meta` at `step` (None: the latest)."""
        with self._reading(step) as step:
            return self._orbax.load_checkpointables(step, {_META: None})[_META]

    def load_params(self, step: int | None = None) -> dict[str, jax.Array]:
        """Only `state.params` of `step` (None: the latest), on the first device: what inference needs of a run."""
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        with self._reading(step) as step:
            saved = self._orbax.checkpointables_metadata(step).metadata[_STATE]
            wanted = {
                part: jax.tree.map(
                    lambda x, part=part: (
                        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=first) if part == "params" else ocp.PLACEHOLDER
                    ),
                    leaves,
                )
                for part, leaves in saved.items()
            }
            return self._orbax.load_checkpointables(step, {_STATE: wanted})[_STATE]["params"]

    def verify(self, step: int | None = None) -> None:
        """Reads every array of `step` (None: the latest), which checks the stored checksums.

        Raises ExpllmError if anything is missing or damaged.
        """
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        with self._reading(step) as step:
            saved = self._orbax.checkpointables_metadata(step).metadata[_STATE]
            target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=first), saved)
            self._orbax.load_checkpointables(step, {_STATE: target, _META: None})

    def close(self) -> None:
        """Waits for the last save and frees Orbax's threads."""
        with explained(f"the last checkpoint cannot be written to {self.folder}", "make room on the disk"):
            self._orbax.close()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _reading(self, step: int | None) -> Iterator[int]:
        """The step to read (None: the latest); whatever goes wrong while reading it is explained."""
        saved = [checkpoint.step for checkpoint in self._orbax.checkpoints]
        if not saved:
            raise ExpllmError(f"{self.folder} holds no finished checkpoint", "train until the first one is saved")
        step = saved[-1] if step is None else step
        if step not in saved:
            raise ExpllmError(
                f"{self.folder} holds no checkpoint of step {step}", f"it has: {', '.join(map(str, saved))}"
            )
        older = [other for other in saved if other < step]
        with explained(
            f"the checkpoint {self.folder / str(step)} cannot be read: it is damaged, or of another model",
            f"delete that folder to go back to step {older[-1]}" if older else "train again in another run folder",
        ):
            yield step
