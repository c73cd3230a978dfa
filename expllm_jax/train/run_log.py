"""What the loop tells of every update: a line of metrics, TensorBoard, progress; and the end of a run whose loss is not
finite.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import jax
import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.records import PADDED_RECORD, RowSource
from expllm_jax.train.metrics import MetricsLog
from expllm_jax.train.progress import Progress
from expllm_jax.train.train_config import TrainConfig


class RunLog:
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
                f"its records are {', '.join(record_ids(self._source, records))}",
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


def record_ids(source: RowSource, records: Sequence[int] | np.ndarray) -> list[str]:
    """What the records of an update are called, padding left out."""
    return [source.id(int(index)) for index in np.ravel(records) if index != PADDED_RECORD]
