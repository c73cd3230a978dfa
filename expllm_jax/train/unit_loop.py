"""Training of a unit regressor on cached features: batches in, checkpoints and metrics out.

Killed at any moment and called again with the same arguments, it ends with the same parameters, bit for bit: what an
update learns from is a function of (seed, sets, update), and everything else is in the checkpoint.

Shape letters: R pictures of a set, B pictures of an update, N tokens, D their width, U units.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from expllm_jax.checkpoints import Checkpointer, Preempted, Preemption
from expllm_jax.errors import ExpllmError
from expllm_jax.models import ModelDef, Params, merge, unit_losses
from expllm_jax.parallel import MeshConfig, batch_sharding, make_mesh, process_count, shard_params
from expllm_jax.records import Order, Part
from expllm_jax.train.division import row_shards
from expllm_jax.train.metrics import MetricsLog
from expllm_jax.train.optimizer import Optimizer, OptimizerConfig, build_optimizer
from expllm_jax.train.progress import Progress
from expllm_jax.train.same_run import FORMAT, check_same_run
from expllm_jax.train.state import TrainState, create_state

UnitStep = Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class UnitTrainConfig:
    """How the head is trained."""

    steps: int = 2000  # updates
    batch: int = 32  # pictures per update
    seed: int = 0  # of the first parameters and of the order; 0 to 2³² - 1
    variance_weight: float = 0.05  # of the uncertainties' loss beside that of the values
    optimizer: OptimizerConfig = OptimizerConfig(lr=2.5e-3, weight_decay=0.05, warmup_ratio=0.05)
    log_every: int = 10  # updates between lines of metrics.jsonl
    checkpoint_every: int = 250  # updates between checkpoints; the last one is always saved
    keep: int = 2  # newest checkpoints that stay

    def __post_init__(self) -> None:
        for name, smallest in (("steps", 1), ("batch", 1), ("seed", 0), ("log_every", 1), ("checkpoint_every", 1),
                               ("keep", 1), ("variance_weight", 0)):  # fmt: skip
            if getattr(self, name) < smallest:
                raise ExpllmError(f"{name} is {getattr(self, name)}", f"use {smallest} or more")
        if self.seed >= 2**32:
            raise ExpllmError(f"seed is {self.seed}", "use 0 to 4294967295")


_SMALLEST_VARIANCE = 1e-4

UNIT_FREE_FIELDS = ("log_every", "checkpoint_every", "keep")
"""Fields that a run may go on with other values of."""


@dataclasses.dataclass(frozen=True)
class UnitSet:
    """Pictures with their units."""

    features_RND: np.ndarray  # float16, the tower's tokens (see `extract_features`)
    values_RU: np.ndarray  # float32, 0 to 1; NaN: unknown, which costs nothing whatever is said of it
    weight: float = 1.0  # its share of the pictures, relative to the other sets'


class _Batches:
    """The batches of the updates, one after the other; its position is the number of updates."""

    def __init__(self, sets: Sequence[UnitSet], config: UnitTrainConfig) -> None:
        self._sets, self._batch, self._update = sets, config.batch, 0
        self._order = Order([Part(len(each.values_RU), weight=each.weight) for each in sets], seed=config.seed)
        self._starts = np.cumsum([0, *(len(each.values_RU) for each in sets)])

    def __next__(self) -> dict[str, np.ndarray]:
        record_B = self._order.items(self._update * self._batch, (self._update + 1) * self._batch).record
        self._update += 1
        which_B = np.searchsorted(self._starts, record_B, side="right") - 1
        first = self._sets[0]
        features = np.empty((len(record_B), *first.features_RND.shape[1:]), np.float16)
        values = np.empty((len(record_B), first.values_RU.shape[1]), np.float32)
        for row, (record, which) in enumerate(zip(record_B, which_B, strict=True)):
            place = int(record - self._starts[which])
            features[row] = self._sets[which].features_RND[place]
            values[row] = self._sets[which].values_RU[place]
        return {"features": features, "values": values}

    def get_state(self) -> dict[str, int]:
        return {"update": self._update}

    def set_state(self, state: Mapping[str, int], /) -> None:
        self._update = int(state["update"])


def usual_variances(sets: Sequence[UnitSet]) -> np.ndarray:
    """float32 [U]: the variance of every unit's known values over all sets; that of a unit which never varies is 1."""
    values_RU = np.concatenate([each.values_RU for each in sets])
    known_RU = ~np.isnan(values_RU)
    count_U = np.maximum(known_RU.sum(0), 1)
    mean_U = np.where(known_RU, values_RU, 0.0).sum(0) / count_U
    variance_U = np.where(known_RU, np.square(values_RU - mean_U), 0.0).sum(0) / count_U
    return np.where(variance_U > _SMALLEST_VARIANCE, variance_U, 1.0).astype(np.float32)


def make_unit_step(graphdef: ModelDef, optimizer: Optimizer, usual_U: np.ndarray, variance_weight: float) -> UnitStep:
    """Builds `step(state, batch) -> (state, metrics)`, to be jitted with `state` donated.

    The loss (`models.unit_losses`) is the mean over the known units of all pictures of the batch. A batch has
    `features` float16 [B, N, D] and `values` float32 [B, U], NaN where unknown; `usual_U` is from `usual_variances`.
    Metrics are float32 scalars `loss`, `squared_error`, `grad_norm` and `learning_rate`.
    """

    def loss_of(params: Params, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        known_BU = ~jnp.isnan(batch["values"])
        truth_BU = jnp.where(known_BU, batch["values"], 0.0)  # no NaN may enter a gradient, not even times 0
        estimates = merge(graphdef, params)(batch["features"])
        losses_BU = unit_losses(estimates, truth_BU, jnp.asarray(usual_U), variance_weight)
        count = jnp.maximum(jnp.sum(known_BU), 1)
        squared = jnp.square(estimates.mean_BU - truth_BU)
        return jnp.sum(jnp.where(known_BU, losses_BU, 0.0)) / count, jnp.sum(jnp.where(known_BU, squared, 0.0)) / count

    def step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        (loss, squared), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": loss,
            "squared_error": squared,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": optimizer.learning_rate(state.opt_state),
        }
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state, state.stats), metrics

    return step


def train_units(
    config: UnitTrainConfig,
    graphdef: ModelDef,
    params: Params,
    sets: Sequence[UnitSet],
    run_dir: Path,
    *,
    identity: Mapping[str, Any] | None = None,
    stream: TextIO | None = None,
) -> tuple[Params, float | None]:
    """Trains in `run_dir`, or goes on from its latest checkpoint; a finished run is returned as it is.

    Args:
      config: see UnitTrainConfig.
      graphdef, params: of a UnitRegressor; all of it trains.
      sets: what it learns from.
      run_dir: the run's folder, which exists; gets `checkpoints/`, `metrics.jsonl` and `tensorboard/`.
      identity: JSON-able facts that must be the same when the run goes on, such as what the features depend on.
      stream: where the progress line goes; None: stderr.

    Returns:
      The parameters, and the loss of the last update (None if there was nothing left to do).

    Raises:
      ExpllmError: the folder holds another run, the batch does not divide over the devices, the loss is no number,
        there are several processes.
      Preempted: the process was told to stop; everything is saved.
    """
    if process_count() > 1:
        raise ExpllmError(f"{process_count()} processes train a unit regressor", "use one: it takes minutes")
    mesh = make_mesh(MeshConfig())
    if config.batch % (shards := row_shards(mesh)):
        raise ExpllmError(
            f"a batch of {config.batch} does not divide over {shards} devices",
            f"set train.batch to a multiple of {shards}",
        )
    fixed = {key: value for key, value in dataclasses.asdict(config).items() if key not in UNIT_FREE_FIELDS}
    facts = {
        "config": json.loads(json.dumps(fixed)),  # tuples become lists, as they will be when read back
        "paths": list(graphdef.paths),
        "sets": [[len(each.values_RU), each.weight] for each in sets],
        "identity": dict(identity or {}),
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        checkpointer = stack.enter_context(Checkpointer(run_dir, keep=config.keep))
        optimizer = build_optimizer(config.optimizer, config.steps)
        state = create_state(shard_params(params, mesh), optimizer, mesh)
        data, start = _Batches(sets, config), 0
        if checkpointer.latest_step is not None:
            state, _, start = checkpointer.restore_newest(
                state, data, check=lambda meta: check_same_run(run_dir, meta, facts)
            )
        if start >= config.steps:
            return state.params, None
        notice = stack.enter_context(Preemption())
        log = MetricsLog(run_dir, start)
        stack.callback(log.close)
        progress = Progress(
            config.steps * config.batch, "training", "pictures", done=start * config.batch, stream=stream
        )
        stack.callback(progress.close)
        update = jax.jit(
            make_unit_step(graphdef, optimizer, usual_variances(sets), config.variance_weight),
            donate_argnums=0,
            out_shardings=(jax.tree.map(lambda x: x.sharding, state), None),
        )
        began, loss = time.monotonic(), 0.0
        for step in range(start + 1, config.steps + 1):
            state, metrics = update(state, _on_devices(next(data), mesh))
            last = step == config.steps
            reason = None if last else notice.due(step)
            saves = last or reason or step % config.checkpoint_every == 0
            if saves or step == start + 1 or step % config.log_every == 0:
                values = {name: float(value) for name, value in jax.device_get(metrics).items()}
                loss = values["loss"]
                if not math.isfinite(loss):
                    raise ExpllmError(f"update {step}: the loss is {loss}", "lower train.optimizer.lr")
                log.write(step, {**values, "seconds": time.monotonic() - began})
                if step == start + 1:
                    progress.begin(step * config.batch)  # the first update waited for the compiler
                progress.update(step * config.batch, f"loss {loss:.4f}", shown=f"{step}/{config.steps}")
            if saves:
                checkpointer.save_async(step, state, data, {"format": FORMAT, "step": step, "run": facts})
            if reason:
                checkpointer.wait()
                raise Preempted(step, reason)
        checkpointer.wait()
        return state.params, loss


def _on_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, x) for name, x in batch.items()}
