"""The training loop: batches in, checkpoints and metrics out, and the same result however often it was killed."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from jax.sharding import Mesh

from expllm_jax.checkpoints import Checkpointer, Preempted, Preemption, save_frozen
from expllm_jax.errors import ExpllmError
from expllm_jax.models import ExpLLMConfig, ModelDef, Params, check_image_tokens, merge, select
from expllm_jax.parallel import accelerator_of, is_first, make_mesh, process_id, shard_params
from expllm_jax.records import PADDED_RECORD, BatchConfig, BatchIterator, Plan, RowSource, batches, order_of
from expllm_jax.train.compiling import compiled, program_facts
from expllm_jax.train.division import check_rows, divided, row_shards, row_share
from expllm_jax.train.feed import Feed
from expllm_jax.train.flops import update_flops, work_of
from expllm_jax.train.non_finite import NonFinite
from expllm_jax.train.optimizer import build_optimizer
from expllm_jax.train.profiler import ProfilerWindow
from expllm_jax.train.row_costs import with_row_costs
from expllm_jax.train.run_log import RunLog
from expllm_jax.train.same_run import FORMAT, check_same_run, run_facts
from expllm_jax.train.skipped import SkippedRecords
from expllm_jax.train.state import TrainState, create_state
from expllm_jax.train.step import make_train_step
from expllm_jax.train.throughput import Throughput, Whole
from expllm_jax.train.train_config import TrainConfig
from expllm_jax.train.validation import Validation
from expllm_jax.train.watchdog import Watchdog


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Where a run ended."""

    state: TrainState
    steps: int
    loss: float | None  # of the last update; None if there was nothing left to do
    skipped: int = 0  # damaged records that it went on without, each time one was due, as the first process knows;
    # `skipped.jsonl` lists them
    left_out: int = 0  # updates whose loss was no number; `non_finite.jsonl` lists them


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
    What is done again are the updates since the newest complete checkpoint. It is at most `config.checkpoint_every`
    updates older than the last one that was begun, since a checkpoint is not begun before the one before is complete.
    Writes `checkpoints/`, `frozen/`, `metrics.jsonl`, `tensorboard/` and `run.json` (what an update is made of, and how
    long it took); where asked for or needed, `profile/`, `skipped.jsonl`, `non_finite.jsonl` and `stuck-PROCESS.txt`.

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
      ExpllmError: the folder holds another run or cannot be written, a row has no room, rows do not divide over the
        mesh, the compiler refuses an option, the loss is not finite (naming the update and the records), a checkpoint
        is damaged.
      Preempted: the process was told to stop; everything is saved.
    """
    run_dir = Path(run_dir)
    total = config.total_steps(source)
    if total < 1:
        raise ExpllmError(
            f"a batch of {config.batch} is more than the {order_of(source).items_per_epoch} records of "
            f"{config.epochs} epoch(s)",
            "make the batch smaller, or set steps",
        )
    mesh = make_mesh(config.mesh)
    check_rows(config, row_shards(mesh))
    _make_folder(run_dir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        checkpointer = stack.enter_context(
            Checkpointer(run_dir, keep=config.keep, keep_best=config.keep_best, checkpoint_dir=config.checkpoint_dir)
        )
        trainable, frozen = select(params, config.trainable)
        optimizer = build_optimizer(config.optimizer, total)
        state = create_state(shard_params(trainable, mesh), optimizer, mesh)
        frozen = shard_params(frozen, mesh)
        model = merge(graphdef, {**state.params, **frozen}).config
        data, parts = _training_batches(config, source, total, model, mesh, features, picture_size, normalisation)
        stack.callback(data.close)
        facts = run_facts(config, graphdef, total, {"records": len(source), **(identity or {})})
        facts["frozen"] = save_frozen(run_dir, frozen) if frozen else ""
        start = 0
        if checkpointer.latest_step is not None:
            state, _, start = checkpointer.restore_newest(
                state, data, check=lambda meta: check_same_run(run_dir, meta, facts)
            )
        if start >= total:
            return TrainResult(state, start, None)

        validate = None
        if validation is not None and config.validate_every:
            validate = Validation(
                graphdef, *validation, config=config, model=model, mesh=mesh,
                picture_size=picture_size, normalisation=normalisation,
            )  # fmt: skip
        non_finite = NonFinite(config.non_finite, run_dir, data.plan, source, start, writes=is_first())
        throughput = Throughput(_whole(config, data.plan, model, list(state.params), mesh, picture_size, features))
        skipped = SkippedRecords(run_dir, data.plan, source, start) if source.on_error == "skip" else None
        log = RunLog(config, run_dir, start, total, skipped, non_finite, throughput, stream)
        stack.callback(log.close)
        profiler = ProfilerWindow(config.profile, run_dir)
        stack.callback(profiler.close)
        notice = stack.enter_context(Preemption())
        dog = stack.enter_context(Watchdog(config.stuck_after, run_dir, process=process_id(), start=start))

        feed = Feed(data, mesh, lambda batch: _check_pictures(model, batch, source))
        update, compile_seconds = compiled(
            jax.jit(
                make_train_step(
                    graphdef, optimizer, supervised=data.plan.shape.supervised, accumulate=parts,
                    normalisation=normalisation, skip_non_finite=config.non_finite == "skip",
                ),
                donate_argnums=0,
                out_shardings=(jax.tree.map(lambda x: x.sharding, state), None),
            ),
            (state, frozen, feed.prepare().arrays, np.uint32(config.seed)),
            config.compiler_options,
        )  # fmt: skip
        log.compiled(program_facts(update, compile_seconds, mesh, data.plan.shape, parts))
        for step in range(start + 1, total + 1):
            last = step == total
            profiler.before(step)
            fed = feed.take()
            if skipped is not None:
                skipped.note(step, data.layout(step - 1), fed.batch["record"])
            state, metrics = update(state, frozen, fed.arrays, np.uint32(config.seed))
            # The metrics of the update before: while they are fetched, this one is already under way.
            log.under_way(step, metrics, work_of(fed.batch), fed.waited)
            dog.alive(log.finished)
            profiler.after(step, metrics)
            reason = None if last else notice.due(step)
            measured = None
            if validate is not None and (last or step % config.validate_every == 0):
                log.finish()
                measured = validate(state.params, frozen, dog.alive)
                log.validated(step, measured)
            if last or reason or step % config.checkpoint_every == 0 or (measured and config.keep_best):
                log.finish()  # so that a state that is not finite is never saved, and no line is missing
                # Before the next batch is prepared: `data` still stands behind the one that was trained on.
                meta = {"format": FORMAT, "step": step, "run": facts}
                checkpointer.save_async(step, state, data, meta, metrics=measured)
                dog.alive(step)
            if reason:
                checkpointer.wait()
                raise Preempted(step, reason)
            if not last:
                feed.prepare()
        checkpointer.wait()
        log.summarise()
        return TrainResult(state, total, log.loss, 0 if skipped is None else len(skipped), len(non_finite))


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

    def name(row: int) -> str:
        ids = [source.id(int(index)) for index in record_BM[row] if index != PADDED_RECORD]
        return f"the row of {' and '.join(ids)}"

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
    mesh: Mesh,
    features: np.ndarray | None,
    picture_size: int,
    normalisation: str,
) -> tuple[BatchIterator, int]:
    """The batches, and how many parts each is computed in."""
    packing = with_row_costs(config.packing, model, picture_size, encoded=features is not None)
    # A CPU does it over ten times faster one picture at a time; an accelerator's host has better things to do.
    where = {"auto": "host" if jax.default_backend() == "cpu" else "device"}.get(config.augment, config.augment)
    index, count = row_share(mesh)
    rows = BatchConfig(
        batch=config.batch,
        seed=config.seed,
        updates=updates,
        row_length=config.row_length,
        packing=packing,
        rows_multiple=math.lcm(row_shards(mesh), count),
        picture_size=picture_size,
        normalisation=normalisation,
        augmentation=None if where == "off" else dataclasses.replace(config.augmentation, size=picture_size),
        augment_on="host" if where == "off" else where,
        process_index=index,
        process_count=count,
        threads=config.threads,
        read_ahead=2 * max(config.threads, 1),
        workers=config.workers,
    )
    plan, parts = divided(config, rows, source, row_shards(mesh))
    return batches(source, rows, features, plan=plan), parts


def _whole(
    config: TrainConfig,
    plan: Plan,
    model: ExpLLMConfig,
    trainable: Collection[str],
    mesh: Mesh,
    picture_size: int,
    features: np.ndarray | None,
) -> Whole:
    """What an update's throughput is measured for."""
    accelerator = accelerator_of(mesh.devices.flat[0])
    return Whole(
        records=config.batch,
        row_tokens=plan.shape.rows * plan.shape.row_length,
        shares=row_share(mesh)[1],
        flops_of=lambda work: update_flops(model, trainable, work, picture_size, encoded=features is not None).total,
        peak_flops=None if accelerator is None else accelerator.peak_flops * mesh.size,
    )
