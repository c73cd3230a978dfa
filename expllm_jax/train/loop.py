"""The training loop: batches in, checkpoints and metrics out, and the same result however often it was killed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from expllm_jax.checkpoints import Checkpointer, save_frozen
from expllm_jax.errors import ExpllmError
from expllm_jax.models import PAPER_TRAINABLE, ExpLLMConfig, ModelDef, Params, check_image_tokens, merge, select
from expllm_jax.parallel import MeshConfig, make_mesh, shard_params
from expllm_jax.records import (
    PADDED_RECORD,
    AugmentConfig,
    BatchConfig,
    BatchIterator,
    PackingConfig,
    RowSource,
    batches,
    order_of,
)
from expllm_jax.train.metrics import MetricsLog
from expllm_jax.train.optimizer import OptimizerConfig, build_optimizer
from expllm_jax.train.progress import Progress
from expllm_jax.train.row_costs import with_row_costs
from expllm_jax.train.skipped import SkippedRecords
from expllm_jax.train.state import TrainState, create_state
from expllm_jax.train.step import make_train_step
from expllm_jax.train.validation import Validation, device_batch

FORMAT = 1
"""Version of what a checkpoint's `meta` says."""

AUGMENT_ON = ("off", "host", "device", "auto")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run. Give `steps` or `epochs`."""

    steps: int = 0  # updates; 0: as many as `epochs` take
    epochs: int = 0  # passes over the records; 0: until `steps`
    batch: int = 32  # records per update, over all devices
    accumulate: int = 1  # parts that a batch is computed in, one after the other; divides batch
    row_length: int = 0  # tokens of a row without packing; 0: the longest row, rounded up to a multiple of 16
    packing: PackingConfig = PackingConfig()  # several records in a row
    augment: str = "off"  # "off"; "host", by its threads; "device", in the step; "auto", where it is faster
    augmentation: AugmentConfig = AugmentConfig()  # what is done to pictures if `augment` is not off
    seed: int = 0  # of the order of the records and of dropout; 0 to 2³² - 1
    trainable: tuple[str, ...] = PAPER_TRAINABLE  # regular expressions on parameter paths; what none matches is frozen
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    threads: int = 2  # that read, decode and augment ahead, of each process
    workers: int = 0  # processes that do so, each with its threads; 0: the trainer's own
    log_every: int = 1  # updates between lines of metrics.jsonl
    checkpoint_every: int = 100  # updates between checkpoints; the last one is always saved
    keep: int = 2  # newest checkpoints that stay
    validate_every: int = 0  # updates between measurements of the validation loss; 0: none

    def __post_init__(self) -> None:
        object.__setattr__(self, "trainable", tuple(self.trainable))
        for name, smallest in (
            ("steps", 0), ("epochs", 0), ("batch", 1), ("accumulate", 1), ("row_length", 0), ("seed", 0),
            ("log_every", 1), ("checkpoint_every", 1), ("keep", 1), ("validate_every", 0), ("threads", 0),
            ("workers", 0),
        ):  # fmt: skip
            if getattr(self, name) < smallest:
                raise ExpllmError(f"{name} is {getattr(self, name)}", f"use {smallest} or more")
        if (self.steps > 0) == (self.epochs > 0):
            raise ExpllmError(f"steps is {self.steps} and epochs is {self.epochs}", "set exactly one of them")
        if self.batch % self.accumulate:
            raise ExpllmError(f"a batch of {self.batch} does not divide into {self.accumulate} parts", "change either")
        if self.augment not in AUGMENT_ON:
            raise ExpllmError(f"augment is {self.augment!r}", f"use one of: {', '.join(AUGMENT_ON)}")
        if self.seed >= 2**32:
            raise ExpllmError(f"seed is {self.seed}", "use 0 to 4294967295")
        if not self.trainable:
            raise ExpllmError("trainable is empty, so nothing would train", 'name paths, for example "projector/.*"')

    def total_steps(self, source: RowSource) -> int:
        """Updates of the whole run over the records of `source`; an incomplete last batch is left out."""
        return self.steps or order_of(source).items_per_epoch * self.epochs // self.batch


# Fields that change what is written when and computed where, but not what is learnt: a run may go on with others.
# Another packing keeps the records of every update, but for its window, which is compared.
FREE_FIELDS = (
    "log_every", "checkpoint_every", "keep", "validate_every", "mesh", "packing", "threads", "workers", "augment"
)  # fmt: skip


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
        facts = _facts(config, graphdef, total, {"records": len(source), **(identity or {})})
        facts["frozen"] = save_frozen(run_dir, frozen) if frozen else ""
        start = checkpointer.latest_step or 0
        if start:
            _check_same_run(run_dir, checkpointer.load_meta(), facts)
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
        log = _Log(config, run_dir, start, total, source, stream)
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
    name = lambda row: f"the row of {' and '.join(_ids(source, record_BM[row]))}"  # noqa: E731
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


def _facts(config: TrainConfig, graphdef: ModelDef, total: int, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Everything a run's result depends on, to be compared when it goes on."""
    fixed = {key: value for key, value in dataclasses.asdict(config).items() if key not in FREE_FIELDS}
    fixed["packing.window"] = config.packing.window if config.packing.on else 1  # of packing, it alone moves records
    model = hashlib.sha256("\n".join(graphdef.paths).encode()).hexdigest()
    facts = {"config": fixed, "model": model, "total_steps": total, "identity": dict(identity)}
    return json.loads(json.dumps(facts))  # tuples become lists, as they will be when read back


def _check_same_run(run_dir: Path, meta: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    if meta.get("format") != FORMAT:
        raise ExpllmError(f"the checkpoints in {run_dir} are of format {meta.get('format')}", "use another run folder")
    before, now = dict(_flat(meta["run"])), dict(_flat(facts))
    changed = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ExpllmError(
            f"{run_dir} holds a run with other settings: {'; '.join(changed)}",
            "repeat the settings to go on with it, or choose another run folder",
        )


def _flat(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    for key, value in tree.items():
        yield from _flat(value, f"{path}.{key}" if path else key)


class _Log:
    """Fetches the metrics of one update at a time and tells them to the file, TensorBoard and the progress line."""

    def __init__(
        self, config: TrainConfig, run_dir: Path, start: int, total: int, source: RowSource, stream: TextIO | None
    ) -> None:
        self._config, self._source, self._total = config, source, total
        self._metrics = MetricsLog(run_dir, start)
        batch = config.batch
        self._progress = Progress(total * batch, "training", "records", done=start * batch, stream=stream)
        self._first, self._began = start + 1, time.monotonic()
        self.pending: tuple[int, Mapping[str, jax.Array], np.ndarray, float] | None = None
        self.loss: float | None = None

    def finish_pending(self) -> None:
        """Waits for the pending update's metrics, checks them and writes them down."""
        if self.pending is None:
            return
        step, metrics, records, waited = self.pending
        self.pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
            raise ExpllmError(
                f"update {step}: the loss is {values['loss']}, the gradient norm {values['grad_norm']}; "
                f"its records are {', '.join(_ids(self._source, records))}",
                "lower the learning rate, or check these records; the last checkpoint is from before",
            )
        self.loss = values["loss"]
        done = step * self._config.batch
        if step == self._first:
            self._progress.begin(done)  # the first update waited for the compiler
        self._progress.update(
            done,
            f"loss {values['loss']:.4f}  lr {values['learning_rate']:.2e}",
            shown=f"{step}/{self._total}",
        )
        if step % self._config.log_every == 0 or step == self._total:
            timing = {
                "records_per_second": self._progress.rate,
                "seconds": time.monotonic() - self._began,
                "data_wait": waited,
            }
            self._metrics.write(step, {**values, **timing})

    def write_validation(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a line of the validation split."""
        self._metrics.write(step, values)

    def close(self) -> None:
        """Ends the progress line and closes the files."""
        self._progress.close()
        self._metrics.close()


def _ids(source: RowSource, records: Sequence[int] | np.ndarray) -> list[str]:
    return [source.id(int(index)) for index in np.ravel(records) if index != PADDED_RECORD]
