"""Batches on their way to the devices, one ahead of the update that takes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from expllm_jax.parallel import batch_sharding
from expllm_jax.records import BatchIterator
from expllm_jax.train.step import MODEL_INPUTS


class Fed(NamedTuple):
    """A batch that is on the devices, or on its way."""

    batch: dict[str, np.ndarray]  # this process's share, as `records.batches` yields it
    arrays: dict[str, jax.Array]  # what the model reads of it, the part of a global array
    waited: float  # seconds until the reader gave it, while the devices may have been busy with the update before


class Feed:
    """Takes batches from `data` and sends them to the devices of `mesh`.

    `prepare` fetches the next batch and begins its transfer; called while an update is under way, both happen behind
    it. `data` then stands one batch further, so a checkpoint of an update is to be begun before the batch after it is
    prepared: what is saved is where the updates are, not where the reading is.

    Args:
      data: the batches.
      mesh: where they go.
      check: raises for a batch that must not be trained on.
    """

    def __init__(
        self, data: BatchIterator, mesh: Mesh, check: Callable[[Mapping[str, np.ndarray]], None] = lambda batch: None
    ) -> None:
        self._data, self._mesh, self._check = data, mesh, check
        self._ready: Fed | None = None

    def prepare(self) -> Fed:
        """The next batch, which stays the next one."""
        if self._ready is None:
            asked = time.monotonic()
            batch = next(self._data)
            waited = time.monotonic() - asked
            self._check(batch)
            self._ready = Fed(batch, device_batch(batch, self._mesh), waited)
        return self._ready

    def take(self) -> Fed:
        """The next batch; the one after it is then the next."""
        fed, self._ready = self.prepare(), None
        return fed


def device_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """What the model reads of this process's share of a batch, laid out over the mesh as its part of the whole."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, x) for name, x in batch.items() if name in MODEL_INPUTS
    }
