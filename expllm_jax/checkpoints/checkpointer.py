"""The checkpoints of a training run: `{state, data, meta}` every so many steps, written in the background.

A checkpoint is complete or absent: Orbax writes it under a temporary name and renames it when everything is on disk
(in a bucket, where nothing can be renamed, a last file marks it as complete), and an old one is removed only after a
newer one is complete. So a process may be killed at any moment. What is read is compared with the checksums saved with
it (`contents`), so that a damaged checkpoint is never taken for a whole one.

All paths go through epath and Orbax, which know local and mounted folders, ``gs://`` and ``s3://``. Tests cover local
ones only: no bucket can be reached from them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from expllm_jax.checkpoints.contents import (
    check_json_parts,
    check_leaves,
    contents_of,
    leaves_of,
    saved_like,
)
from expllm_jax.checkpoints.orbax_errors import explained, may_be_damage, reason_of, silence_orbax
from expllm_jax.checkpoints.places import absolute
from expllm_jax.errors import ExpllmError
from expllm_jax.parallel import barrier, is_first, process_count

State = TypeVar("State")

CHECKPOINTS = "checkpoints"
"""Folder of a run that holds one folder per saved step."""

DAMAGED = "damaged"
"""Folder beside the steps that takes those that could not be read."""

VALIDATION_LOSS = "validation_loss"
"""The metric that tells which checkpoints are best: the lower, the better."""

_STATE, _DATA, _META, _CONTENTS = "state", "data", "meta", "contents"
_METRICS = "metrics"  # Orbax's own name, of a folder and of the file in it
_JSON_PARTS = (_DATA, _META, _CONTENTS)
_WHOLE, _DAMAGED, _FAILED = range(3)


class Position(Protocol):
    """An iterator over data that can say where it is, in JSON, the same in every process."""

    def get_state(self) -> Any: ...

    def set_state(self, state: Any, /) -> None: ...


class Checkpointer:
    """Saves to and restores from `run_dir/checkpoints`.

    With several processes every method is called by all of them, in the same order, and the folder is one they share.

    Args:
      run_dir: the run's folder.
      keep: how many of the newest checkpoints stay; at least 1.
      keep_best: how many of those with the lowest validation loss stay beside them.
      create: make the folder if need be (training); False is for reading, and a run without checkpoints is an error.
      checkpoint_dir: the folder of the steps, if it is not in the run's folder; may be ``gs://BUCKET/PATH``.
      timeout: seconds that a save may take, and that processes wait for each other.
      say: takes one line about a checkpoint that was moved aside; None: stderr.

    Raises:
      ExpllmError: nothing to read, or the folder cannot be made.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        *,
        keep: int = 2,
        keep_best: int = 0,
        create: bool = True,
        checkpoint_dir: str = "",
        timeout: int = 1200,
        say: Callable[[str], None] | None = None,
    ) -> None:
        silence_orbax()
        if keep < 1:
            raise ExpllmError(f"keep is {keep}", "keep at least 1 checkpoint")
        self.folder = epath.Path(checkpoint_dir) if checkpoint_dir else epath.Path(run_dir) / CHECKPOINTS
        self._timeout, self._moves = timeout, 0
        self._say = say or (lambda line: print(line, file=sys.stderr))
        if not create and not self.folder.is_dir():
            what = "holds no checkpoints" if epath.Path(run_dir).is_dir() else "does not exist"
            raise ExpllmError(f"the run {run_dir} {what}", "check the path, or train first")
        # Without this, Orbax would store dicts as arrays, which cannot hold lists or None.
        registry = ocp.handlers.local_registry()
        for name in _JSON_PARTS:
            registry.add(ocp.handlers.JsonHandler, checkpointable_name=name)
        context = ocp.Context()
        context.checkpointables.registry = registry
        context.asynchronous.timeout_secs = timeout
        self._drop_unreadable_metrics()
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(keep)]
        if keep_best:
            kept.append(
                policies.BestN(get_metric_fn=_loss, reverse=True, n=keep_best, keep_checkpoints_without_metrics=False)
            )
        with explained(f"checkpoints cannot be kept in {self.folder}", "choose a run folder that can be written"):
            self._orbax = ocp.training.Checkpointer(
                absolute(self.folder),
                context=context,
                preservation_policy=policies.AnyPreservationPolicy(kept),
                cleanup_tmp_directories=create,  # what a killed save left behind
            )
        if not create and self.latest_step is None:
            self.close()
            raise ExpllmError(f"the run {run_dir} holds no finished checkpoint", "train until the first one is saved")

    @property
    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step; None if there is none. Whether it is whole shows when it is read."""
        latest = self._orbax.latest
        return None if latest is None else latest.step

    @property
    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, the oldest first."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    def save_async(
        self,
        step: int,
        state: Any,
        data: Position,
        meta: dict[str, Any],
        *,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Begins to save and returns as soon as `state` may be donated and `data` may advance.

        Exactly `state` is written: what does not train belongs to `save_frozen`. An earlier save that is still being
        written is waited for, and its failure raised here.

        Args:
          step: how many updates `state` has had; its name on disk.
          state: a pytree of arrays.
          data: where the data is.
          meta: a JSON-able dict.
          metrics: with `VALIDATION_LOSS`, for `keep_best`; a checkpoint without it is not among the best.

        Raises:
          ExpllmError: this or the previous save failed (disk full, no permission, a process did not come).
        """
        position = data.get_state()
        parts = {_STATE: state, _DATA: position, _META: meta, _CONTENTS: contents_of(state, position, meta)}
        with explained(f"the checkpoint of step {step} cannot be written to {self.folder}", "make room on the disk"):
            self._orbax.save_checkpointables_async(
                step, parts, force=True, metrics=None if metrics is None else dict(metrics)
            )

    def wait(self) -> None:
        """Blocks until everything is on disk. Raises ExpllmError if it could not be written."""
        with explained(f"the last checkpoint cannot be written to {self.folder}", "make room on the disk"):
            self._orbax.wait()

    def restore_newest(self, like: State, data: Position) -> tuple[State, dict[str, Any], int]:
        """(state, meta, step) of the newest checkpoint that is whole; `data` is moved to where it was then.

        Newer ones that are damaged are moved to `checkpoints/damaged/STEP` (a second one of that name to STEP-2, and so
        on), and told. If none is whole, all are left as they are.

        Args:
          like: see `restore`.
          data: a fresh iterator over the same records.

        Raises:
          ExpllmError: none is whole, they are of another model, they cannot be read for another reason (rights, memory,
            a process that did not come), or `data` is over other records.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps):
            with self._reading(step):
                outcome, found = self._attempt(step, like)
            if outcome == _WHOLE:
                state, parts = found
                for moved, reason in damaged.items():
                    self._move_aside(moved, reason)
                data.set_state(parts[_DATA])
                return state, parts[_META], step
            damaged[step] = found
        told = "; ".join(f"{step}: {reason}" for step, reason in damaged.items()) or "there is none"
        raise ExpllmError(
            f"{self.folder} holds no whole checkpoint ({told})",
            "copy one back from elsewhere, or train again in another run folder",
        )

    def restore(self, like: State, data: Position, step: int | None = None) -> State:
        """The state of `step` (None: the latest), laid out like `like`; `data` is moved to where it was then.

        The mesh, the number of devices and of processes, and the floating-point dtypes may be others than those that
        it was saved from.

        Args:
          like: the same pytree of arrays, or of ShapeDtypeStructs with shardings.
          data: a fresh iterator over the same records.

        Raises:
          ExpllmError: no such checkpoint, damaged files, or (before arrays are read) a state of another model.
        """
        with self._reading(step) as step:
            state, parts = self._read(step, like)
        data.set_state(parts[_DATA])
        return state

    def load_meta(self, step: int | None = None) -> dict[str, Any]:
        """What was saved as `meta` at `step` (None: the latest)."""
        with self._reading(step) as step:
            return self._json_parts(step)[_META]

    def load_params(self, step: int | None = None) -> dict[str, jax.Array]:
        """Only `state.params` of `step` (None: the latest), on the first device: what inference needs of a run."""
        with self._reading(step) as step:
            parts = self._json_parts(step)
            saved = self._orbax.checkpointables_metadata(step).metadata[_STATE]
            wanted = {
                part: _on_first_device(leaves) if part == "params" else jax.tree.map(lambda x: ocp.PLACEHOLDER, leaves)
                for part, leaves in saved.items()
            }
            params = self._orbax.load_checkpointables(step, {_STATE: wanted})[_STATE]["params"]
            check_leaves(parts[_CONTENTS], leaves_of({"params": params}))
            return params

    def verify(self, step: int | None = None) -> None:
        """Reads every array of `step` (None: the latest) and compares it with its checksum.

        Raises ExpllmError if anything is missing or damaged.
        """
        with self._reading(step) as step:
            parts = self._json_parts(step)
            saved = self._orbax.checkpointables_metadata(step).metadata[_STATE]
            state = self._orbax.load_checkpointables(step, {_STATE: _on_first_device(saved)})[_STATE]
            check_leaves(parts[_CONTENTS], leaves_of(state))

    def close(self) -> None:
        """Waits for the last save and frees Orbax's threads."""
        with explained(f"the last checkpoint cannot be written to {self.folder}", "make room on the disk"):
            self._orbax.close()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def _attempt(self, step: int, like: State) -> tuple[int, Any]:
        """(_WHOLE, what `_read` gives) or (_DAMAGED, why), the same of the two in every process.

        Raises what `_read` raises if that is no damage.
        """
        outcome, found, failure = _WHOLE, None, None
        try:
            found = self._read(step, like)
        except Exception as error:
            if isinstance(error, ExpllmError) or not may_be_damage(error):
                outcome, failure = _FAILED, error
            else:
                outcome, found = _DAMAGED, reason_of(error)
        if process_count() > 1:
            # A process that met damage left Orbax's reading early; the others waited there for it until Orbax gave up.
            barrier(f"checkpoint {step} is read", 2 * self._timeout)
            outcomes = multihost_utils.process_allgather(np.int32(outcome)).reshape(-1)
            if _DAMAGED in outcomes:
                found = found if outcome == _DAMAGED else f"process {int(np.argmax(outcomes == _DAMAGED))} says so"
                outcome = _DAMAGED
            elif outcome == _WHOLE and _FAILED in outcomes:
                raise ExpllmError(
                    f"process {int(np.argmax(outcomes == _FAILED))} cannot read {self.folder / str(step)}",
                    "see what that process says",
                )
        if outcome == _FAILED:
            assert failure is not None
            raise failure
        return outcome, found

    def _read(self, step: int, like: State) -> tuple[State, dict[str, Any]]:
        """(state, JSON parts) of `step`. Raises Damaged, ExpllmError for another model, and whatever Orbax raises."""
        parts = self._json_parts(step)
        target = saved_like(parts[_CONTENTS], like, str(self.folder / str(step)))
        state = self._orbax.load_checkpointables(step, {_STATE: target})[_STATE]
        check_leaves(parts[_CONTENTS], leaves_of(state))
        return jax.tree.map(lambda x, asked: x if x.dtype == asked.dtype else x.astype(asked.dtype), state, like), parts

    def _json_parts(self, step: int) -> dict[str, Any]:
        parts = self._orbax.load_checkpointables(step, dict.fromkeys(_JSON_PARTS))
        check_json_parts(parts[_CONTENTS], parts[_DATA], parts[_META])
        return parts

    def _drop_unreadable_metrics(self) -> None:
        """One such file would keep Orbax from opening the folder; the state beside it may well be whole."""
        if is_first() and self.folder.is_dir():
            for file in self.folder.glob(f"*/{_METRICS}/{_METRICS}"):
                try:
                    json.loads(file.read_text())
                except ValueError:
                    file.unlink()
                    self._say(f"{file} was damaged: that checkpoint no longer counts among the best")
        barrier("checkpoints have readable metrics", self._timeout)

    def _move_aside(self, step: int, reason: str) -> None:
        place = self.folder / DAMAGED / str(step)
        self._moves += 1
        with explained(f"the damaged checkpoint {self.folder / str(step)} cannot be moved aside", "remove it yourself"):
            if is_first():
                place.parent.mkdir(parents=True, exist_ok=True)
                number = 1
                while place.exists():
                    number += 1
                    place = place.with_name(f"{step}-{number}")
                (self.folder / str(step)).rename(place)
                self._say(f"the checkpoint of step {step} is damaged ({reason}); it is now {place}")
            barrier(f"damaged checkpoint {step} is moved, {self._moves}", self._timeout)
            self._orbax.reload()

    @contextlib.contextmanager
    def _reading(self, step: int | None) -> Iterator[int]:
        """The step to read (None: the latest); whatever goes wrong while reading it is explained."""
        saved = self.steps
        if not saved:
            raise ExpllmError(f"{self.folder} holds no finished checkpoint", "train until the first one is saved")
        step = saved[-1] if step is None else step
        if step not in saved:
            raise ExpllmError(
                f"{self.folder} holds no checkpoint of step {step}", f"it has: {', '.join(map(str, saved))}"
            )
        older = [other for other in saved if other < step]
        with explained(
            f"the checkpoint {self.folder / str(step)} cannot be read",
            f"if it is damaged, delete that folder to go back to step {older[-1]}"
            if older
            else "if it is damaged, train again in another run folder",
        ):
            yield step


def _loss(metrics: Any) -> float:
    """The validation loss to rank by; a checkpoint without a finite one comes last."""
    loss = metrics.get(VALIDATION_LOSS) if isinstance(metrics, Mapping) else None
    return float(loss) if isinstance(loss, int | float) and math.isfinite(loss) else math.inf


def _on_first_device(tree: Any) -> Any:
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=first), tree)
