"""What the loop tells of every update: a line of metrics, TensorBoard, progress; and what the run was made of.

With several processes, all of them look at every update, and the first one writes.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax

from expllm_jax.files import write_whole
from expllm_jax.parallel import is_first
from expllm_jax.train.flops import Work
from expllm_jax.train.metrics import MetricsLog
from expllm_jax.train.non_finite import NonFinite
from expllm_jax.train.progress import Progress
from expllm_jax.train.skipped import SkippedRecords
from expllm_jax.train.throughput import Throughput
from expllm_jax.train.train_config import TrainConfig

RUN = "run.json"


class _Pending(NamedTuple):
    """An update that is under way."""

    step: int
    metrics: Mapping[str, jax.Array]
    work: Work  # of this process
    waited: float  # seconds for its data


class RunLog:
    """Fetches the metrics of one update at a time and tells them to the file, TensorBoard and the progress line.

    Args:
      config: of the run.
      run_dir: its folder.
      start, total: updates behind it when this process began, and altogether.
      skipped: what lists damaged records, where a run goes on without them.
      non_finite: what looks at losses.
      throughput: what sums up updates.
      stream: where the progress line goes; None: stderr.
    """

    def __init__(
        self,
        config: TrainConfig,
        run_dir: Path,
        start: int,
        total: int,
        skipped: SkippedRecords | None,
        non_finite: NonFinite,
        throughput: Throughput,
        stream: TextIO | None,
    ) -> None:
        self._config, self._run_dir, self._total = config, run_dir, total
        self._skipped, self._non_finite, self._throughput = skipped, non_finite, throughput
        self._metrics = MetricsLog(run_dir, start) if is_first() else None
        self._progress = Progress(
            total * config.batch,
            "training",
            "records",
            done=start * config.batch,
            stream=stream if is_first() else io.StringIO(),
        )
        self._began = time.monotonic()
        self._pending: _Pending | None = None
        self.finished = start  # the last update whose metrics are known
        self.loss: float | None = None

    def under_way(self, step: int, metrics: Mapping[str, jax.Array], work: Work, waited: float) -> None:
        """Update `step` has been given to the devices. Finishes the one before it, while this one runs."""
        self.finish()
        self._pending = _Pending(step, metrics, work, waited)

    def finish(self) -> None:
        """Waits for the update that is under way, if any, checks its metrics and writes them down."""
        if self._pending is None:
            return
        step, metrics, work, waited = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._throughput.finished(work, waited)
        if self._skipped is not None:
            self._skipped.gather()  # before the loss is judged: that of no record at all is no number
        left_out = self._non_finite.note(step, values)
        self.finished = step
        if not left_out:
            self.loss = values["loss"]
        rates = {}
        if step % self._config.log_every == 0 or step == self._total:
            rates = self._throughput.line()
            if left_out:  # JSON has no numbers that are none
                values = {name: value for name, value in values.items() if name not in ("loss", "grad_norm")}
            timing = {"seconds": time.monotonic() - self._began, "data_wait": waited}
            self._write(step, {**values, **rates, **timing})
        utilisation = f"  MFU {rates['mfu']:.0%}" if "mfu" in rates else ""
        told = "left out" if left_out else f"loss {values['loss']:.4f}"
        self._progress.update(
            step * self._config.batch,
            f"{told}  lr {values['learning_rate']:.2e}{utilisation}",
            shown=f"{step}/{self._total}",
        )

    def validated(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a line of the validation split."""
        self._write(step, values)
        self._throughput.rest()

    def compiled(self, facts: Mapping[str, Any]) -> None:
        """Writes down what the update is (`run.json`), and starts the clocks: the first update is about to begin."""
        self._facts = dict(facts)
        self._write_facts()
        self._progress.say(f"compiling took {facts['compile_seconds']:.1f} s")
        self._progress.begin(self.finished * self._config.batch)
        self._throughput.rest()

    def summarise(self) -> None:
        """Says, and adds to `run.json`, how fast this process's updates were."""
        summary = self._throughput.summary()
        if not summary:
            return
        self._facts["summary"] = summary
        self._write_facts()
        utilisation = f", MFU {summary['mfu']:.1%}" if "mfu" in summary else ""
        self._progress.say(
            f"an update took {summary['median_seconds']:.3g} s (median of {summary['updates']}), "
            f"{summary['wait_share']:.1%} of the time waiting for data{utilisation}"
        )

    def close(self) -> None:
        """Ends the progress line and closes the files."""
        self._progress.close()
        if self._metrics is not None:
            self._metrics.close()

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        if self._metrics is not None:
            self._metrics.write(step, values)

    def _write_facts(self) -> None:
        if is_first():
            write_whole(self._run_dir / RUN, json.dumps(self._facts, indent=2) + "\n")
