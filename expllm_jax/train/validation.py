"""The loss on a split that is not trained on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from expllm_jax.models import ExpLLMConfig, ModelDef, Params
from expllm_jax.records import BatchConfig, RowSource, batches, plan_of
from expllm_jax.train.compiling import parsed_options
from expllm_jax.train.division import row_shards, row_share
from expllm_jax.train.feed import device_batch
from expllm_jax.train.row_costs import with_row_costs
from expllm_jax.train.step import make_eval_step
from expllm_jax.train.train_config import TrainConfig


class Validation:
    """Measures `validation_loss` (mean over records, as in training) and `validation_accuracy` (of supervised tokens).

    Its rows are plain or packed as those of training are, in a shape of their own; every record counts once.

    Args:
      graphdef: of the ExpLLM.
      source: the split.
      features: float16 [R, N, D] of its records, or None to decode the pictures.
      config: of the run; of `batch` records, as many are measured together as the mesh and `rows_per_device` allow.
      model: its configuration, for what pictures cost where rows are packed.
      mesh: where it runs.
      picture_size, normalisation: of decoded pictures.
    """

    def __init__(
        self,
        graphdef: ModelDef,
        source: RowSource,
        features: np.ndarray | None,
        *,
        config: TrainConfig,
        model: ExpLLMConfig,
        mesh: Mesh,
        picture_size: int = 224,
        normalisation: str = "clip",
    ) -> None:
        self._source, self._features, self._mesh = source, features, mesh
        shards = row_shards(mesh)
        index, count = row_share(mesh)
        packing = with_row_costs(config.packing, model, picture_size, encoded=features is not None)
        if packing.on:
            packing = dataclasses.replace(packing, rows=0, pictures=0, row_length=0, window=1)
        rows_at_once = min(config.batch // shards, config.rows_per_device or config.batch) or 1
        self._config = BatchConfig(
            batch=min(config.batch, len(source)) if packing.on else rows_at_once * shards,
            shuffle=False,
            epochs=1,
            partial="pad",
            packing=packing,
            rows_multiple=math.lcm(shards, count),
            picture_size=picture_size,
            normalisation=normalisation,
            process_index=index,
            process_count=count,
        )
        self._plan = plan_of(source, self._config)
        step = make_eval_step(graphdef, supervised=self._plan.shape.supervised)
        self._step = jax.jit(step, compiler_options=parsed_options(config.compiler_options) or None)

    def __call__(self, params: Params, frozen: Params, alive: Callable[[], None] = lambda: None) -> dict[str, float]:
        """One pass over the split; `alive` is called after every batch."""
        totals: dict[str, float] = {"nll": 0.0, "weight": 0.0, "correct": 0.0}
        for batch in batches(self._source, self._config, self._features, plan=self._plan):
            sums = jax.device_get(self._step(params, frozen, device_batch(batch, self._mesh)))
            totals = {name: totals[name] + float(sums[name]) for name in totals}
            alive()
        return {
            "validation_loss": totals["nll"] / totals["weight"],
            "validation_accuracy": totals["correct"] / totals["weight"],
        }
