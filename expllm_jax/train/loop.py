"""The training loop: batches in, checkpoints and metrics out, and the same result however often it was killed."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from expllm_jax.checkpoints import Checkpointer, save_frozen
from expllm_jax.errors import ExpllmError
from expllm_jax.models import ExpLLMConfig, ModelDef, Params, check_image_tokens, merge, select
from expllm_jax.parallel import make_mesh, shard_params
from expllm_jax.records import PADDED_RECORD, BatchConfig, BatchIterator, RowSource, batches, order_of
from expllm_jax.train.optimizer import build_optimizer
from expllm_jax.train.row_costs import with_row_costs
from expllm_jax.train.run_log import RunLog, record_ids
from expllm_jax.train.same_run import FORMAT, check_same_run, run_facts
from expllm_jax.train.skipped import SkippedRecords
from expllm_jax.train.state import TrainState, create_state
from expllm_jax.train.step import make_train_step
from expllm_jax.train.train_config import TrainConfig
from expllm_jax.train.validation import Validation, device_batch


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Where a run ended."""

    state: TrainState
    steps: int
    loss: float | None  # of the last update; None if there was nothing left to do
    skipped: int = 0  # damaged records that it went on without, each time one was due; `skipped.jsonl` lists them


def train(
    config: TrainConfig,
    graphdef: ModelDef,
    params: Params,
    source: RowSource,
    run_dir: str | Path,
    *,
    features: np.ndarray | None = None,
    validation: tuple[RowSource, np.ndarray | None] | None = None,
    picture_size: int = 224,
    normalisation: str = "clip",
    identity: Mapping[str, Any] | None = None,
    stream: TextIO | None = None,
) -> TrainResult:
    """Trains in `run_dir`, or goes on from its latest checkpoint; a finished run is returned as it is.

    Killed at any moment and called again with the same arguments, it ends with the same parameters, bit for bit.
    Writes `checkpoints/`, `frozen/`, `metrics.jsonl` and `tensorboard/`.

    Args:
      config: see TrainConfig.
      graphdef, params: of an ExpLLM (`models.init`, `weights`); `config.trainable` says which of them train.
      source: the training split.
      run_dir: the run's folder; made if need be.
      features: float16 [R, N, D] of every record (`extract_features`); None: pictures are decoded and encoded anew.
      validation: (split, its features), measured every `config.validate_every` updates.
      picture_size, normalisation: of decoded pictures.
      identity: JSON-able facts that must be the same when the run goes on, such as the data manifest's hash.
      stream: where the progress line goes; None: stderr.

    Raises:
      ExpllmError: the folder holds another run or cannot be written, a row has no room, the loss is not finite (naming
        the update and the records), a checkpoint is damaged.
    """
    run_dir = Path(run_dir)
    total = config.total_steps(source)
    if total < 1:
        raise ExpllmError(
            f"a batch of {config.batch} is more than the {order_of(source).items_per_epoch} records of "
            f"{config.epochs} epoch(s)",
            "make the batch smaller, or set steps",
        )
    _make_folder(run_dir)
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh), Checkpointer(run_dir, keep=config.keep) as checkpointer:
        trainable, frozen = select(params, config.trainable)
        optimizer = build_optimizer(config.optimizer, total)
        state = create_state(shard_params(trainable, mesh), optimizer, mesh)
        frozen = shard_params(frozen, mesh)
        model = merge(graphdef, {**state.params, **frozen}).config
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        data = _training_batches(config, source, total, model, shards, features, picture_size, normalisation)
        facts = run_facts(config, graphdef, total, {"records": len(source), **(identity or {})})
        facts["frozen"] = save_frozen(run_dir, frozen) if frozen else ""
        start = checkpointer.latest_step or 0
        if start:
            check_same_run(run_dir, checkpointer.load_meta(), facts)
            state = checkpointer.restore(state, data)
        if start >= total:
            return TrainResult(state, start, None)

        supervised = data.plan.shape.supervised
        step_function = jax.jit(
            make_train_step(
                graphdef, optimizer, supervised=supervised, accumulate=config.accumulate, normalisation=normalisation
            ),
            donate_argnums=0,
            out_shardings=(jax.tree.map(lambda x: x.sharding, state), None),
        )
        validate = None
        if validation is not None and config.validate_every:
            validate = Validation(graphdef, *validation, batch=config.batch, mesh=mesh, picture_size=picture_size,
                                  normalisation=normalisation)  # fmt: skip
        log = RunLog(config, run_dir, start, total, source, stream)
        skipped = SkippedRecords(run_dir, source, start) if source.on_error == "skip" else None
        try:
            for step in range(start + 1, total + 1):
                asked = time.monotonic()
                batch = next(data)
                waited = time.monotonic() - asked
                if skipped is not None:
                    skipped.note(step, data.layout(step - 1), batch["record"])
                _check_pictures(model, batch, source)
                state, metrics = step_function(state, frozen, device_batch(batch, mesh), np.uint32(config.seed))
                # The metrics of the update before: while they are fetched, this one is already under way.
                log.finish_pending()
                log.pending = (step, metrics, batch["record"], waited)
                last = step == total
                if validate is not None and (last or step % config.validate_every == 0):
                    log.finish_pending()
                    log.write_validation(step, validate(state.params, frozen))
                if last or step % config.checkpoint_every == 0:
                    log.finish_pending()  # so that a state that is not finite is never saved, and no line is missing
                    checkpointer.save_async(step, state, data, {"format": FORMAT, "step": step, "run": facts})
            checkpointer.wait()
        finally:
            log.close()
            data.close()
        return TrainResult(state, total, log.loss, 0 if skipped is None else len(skipped))


def _check_pictures(model: ExpLLMConfig, batch: Mapping[str, np.ndarray], source: RowSource) -> None:
    """Raises ExpllmError naming a record whose image tokens are not as many as its pictures fill."""
    if "features" in batch:
        tokens = batch["features"].shape[-2]
    else:
        pictures = batch["pictures"] if "pictures" in batch else batch["pixels"]
        down, across = model.vision.grid(*pictures.shape[-3:-1])
        tokens = down * across
    record_BM = batch["record"].reshape(len(batch["tokens"]), -1)
    pictures_B = np.sum(record_BM != PADDED_RECORD, 1)
    name = lambda row: f"the row of {' and '.join(record_ids(source, record_BM[row]))}"  # noqa: E731
    check_image_tokens(model, batch["tokens"], pictures_B, tokens, name)


def _make_folder(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExpllmError(
            f"the run folder {run_dir} cannot be made ({error.strerror})", "choose a folder that can be written"
        ) from error


def _training_batches(
    config: TrainConfig,
    source: RowSource,
    updates: int,
    model: ExpLLMConfig,
    shards: int,
    features: np.ndarray | None,
    picture_size: int,
    normalisation: str,
) -> BatchIterator:
    packing = with_row_costs(config.packing, model, picture_size, encoded=features is not None)
    # A CPU does it over ten times faster one picture at a time; an accelerator's host has better things to do.
    where = {"auto": "host" if jax.default_backend() == "cpu" else "device"}.get(config.augment, config.augment)
    return batches(
        source,
        BatchConfig(
            batch=config.batch,
            seed=config.seed,
            updates=updates,
            row_length=config.row_length,
            packing=packing,
            rows_multiple=math.lcm(shards, jax.process_count()) * config.accumulate,
            picture_size=picture_size,
            normalisation=normalisation,
            augmentation=None if where == "off" else dataclasses.replace(config.augmentation, size=picture_size),
            augment_on="host" if where == "off" else where,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            threads=config.threads,
            read_ahead=2 * max(config.threads, 1),
            workers=config.workers,
        ),
        features,
    )
