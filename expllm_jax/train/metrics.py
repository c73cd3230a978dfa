"""What is measured while training, on disk: `metrics.jsonl` for programs, TensorBoard for eyes.

Both are without seams: a resumed run first forgets what came after its checkpoint. Every line has `step`, the updates
made by then. A line of training, every `train.log_every` updates, has

- of this update: `loss` (mean over its records) and `grad_norm` (before clipping), both absent if it was left out;
  `learning_rate`, which updates that were left out do not move on; `skipped` (1 if it was left out), with
  train.non_finite=skip only; `data_wait`, seconds until this process's reader gave the batch;
- of the time since the line before, validation left out: `records_per_second`, `tokens_per_second` and
  `supervised_per_second` (of all processes, padding not counted), `update_seconds`, `padding` (share of the rows'
  tokens that no record fills), `mfu` (share of the devices' peak that useful operations take, see `train.flops`; only
  where the peak is known, see `expllm config accelerators`);
- `seconds` since this process began to train, compiling included.

A line of validation, every `train.validate_every` updates, has `validation_loss` (mean over the split's records) and
`validation_accuracy` (share of the supervised tokens, by their weight, that are predicted right from those before).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from expllm_jax.errors import ExpllmError
from expllm_jax.files import write_whole

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class MetricsLog:
    """Appends to `run_dir/metrics.jsonl`, one JSON object with a `step` per line, and to `run_dir/tensorboard`.

    Args:
      run_dir: the run's folder, which exists.
      step: the update to continue after; lines of later ones are cut off. 0 begins anew.

    Raises:
      ExpllmError: the files cannot be read or written, or a line is no JSON.
    """

    def __init__(self, run_dir: str | Path, step: int) -> None:
        self.path = Path(run_dir) / METRICS
        try:
            _cut_back(self.path, step)
            self._file = self.path.open("a", encoding="utf-8")
            # purge_step hides later points of the killed process from TensorBoard.
            self._board = SummaryWriter(str(Path(run_dir) / TENSORBOARD), purge_step=step + 1, flush_secs=30)
        except OSError as error:
            raise ExpllmError(
                f"metrics cannot be written to {run_dir} ({error.strerror})", "choose a folder that can be written"
            ) from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one line, which is out of this process's hands when the call returns."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        self._board.close()


def read_metrics(run_dir: str | Path) -> list[dict[str, float]]:
    """The lines of `run_dir/metrics.jsonl`. Raises ExpllmError naming the line that is damaged."""
    path = Path(run_dir) / METRICS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ExpllmError(f"{path} cannot be read ({error.strerror})", "check the path, or train first") from error
    return [_parse(path, number, line) for number, line in enumerate(lines, 1)]


def _cut_back(path: Path, step: int) -> None:
    """Drops the lines of updates after `step`, and a last line that a killed process left half written."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    kept = [line for number, line in enumerate(lines, 1) if _parse(path, number, line)["step"] <= step]
    write_whole(path, "".join(kept))


def _parse(path: Path, number: int, line: str) -> dict[str, float]:
    try:
        values = json.loads(line)
        values["step"] + 0
        return values
    except (ValueError, KeyError, TypeError) as error:
        raise ExpllmError(f"{path} line {number} is no measurement", "mend or delete the line") from error
