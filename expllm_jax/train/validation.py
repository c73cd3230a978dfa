"""The loss on a split that is not trained on."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from expllm_jax.models import ModelDef, Params
from expllm_jax.parallel import batch_sharding
from expllm_jax.records import BatchConfig, RowSource, batches
from expllm_jax.train.step import MODEL_INPUTS, make_eval_step


def device_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """What the model reads of this process's share of a batch, laid out over the mesh as its part of the whole."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, x) for name, x in batch.items() if name in MODEL_INPUTS
    }


class Validation:
    """Measures `validation_loss` (mean over records, as in training) and `validation_accuracy` (of supervised tokens).

    Args:
      graphdef: of the ExpLLM.
      source: the split; every record counts once.
      features: float16 [R, N, D] of its records, or None to decode the pictures.
      batch: rows per call.
      mesh: where it runs.
      picture_size, normalisation: of decoded pictures.
    """

    def __init__(
        self,
        graphdef: ModelDef,
        source: RowSource,
        features: np.ndarray | None,
        *,
        batch: int,
        mesh: Mesh,
        picture_size: int = 224,
        normalisation: str = "clip",
    ) -> None:
        self._source, self._features, self._mesh = source, features, mesh
        self._config = BatchConfig(
            batch=batch, shuffle=False, epochs=1, partial="pad", picture_size=picture_size, normalisation=normalisation,
            process_index=jax.process_index(), process_count=jax.process_count(),
        )  # fmt: skip
        supervised = int(np.max(source.lengths.supervised))
        self._step = jax.jit(make_eval_step(graphdef, supervised=supervised))

    def __call__(self, params: Params, frozen: Params) -> dict[str, float]:
        """One pass over the split."""
        totals: dict[str, float] = {"nll": 0.0, "weight": 0.0, "correct": 0.0}
        for batch in batches(self._source, self._config, self._features):
            sums = jax.device_get(self._step(params, frozen, device_batch(batch, self._mesh)))
            totals = {name: totals[name] + float(sums[name]) for name in totals}
        return {
            "validation_loss": totals["nll"] / totals["weight"],
            "validation_accuracy": totals["correct"] / totals["weight"],
        }
