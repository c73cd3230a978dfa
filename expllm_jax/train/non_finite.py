"""Updates whose loss or gradient is no number: the end of the run, or left out and listed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.files import write_whole
from expllm_jax.records import PADDED_RECORD, Plan, RowSource

NON_FINITE = "non_finite.jsonl"
MOST_IN_A_ROW = 10
"""Updates left out one after the other after which a run ends: it is the run that is broken then, not some records."""


class NonFinite:
    """Looks at every update's loss and gradient norm.

    With the policy "skip", `non_finite.jsonl` gets a line for each update that was left out: its number, its loss and
    gradient norm as text, and the ids of its records over all processes. A run that goes on from update `start`
    forgets the later ones.

    Args:
      policy: `TrainConfig.non_finite`.
      run_dir: the run's folder.
      plan, source: which records an update takes, and what they are called.
      start: the update to continue after.
      writes: whether this process keeps the file.
    """

    def __init__(self, policy: str, run_dir: Path, plan: Plan, source: RowSource, start: int, *, writes: bool) -> None:
        self._skips, self._path, self._plan, self._source = policy == "skip", run_dir / NON_FINITE, plan, source
        self._writes = writes
        self._in_a_row = 0
        self._lines: list[str] = []
        if self._path.is_file():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            self._lines = [line for line in lines if json.loads(line)["update"] <= start]
            self._write()

    def __len__(self) -> int:
        return len(self._lines)

    def note(self, step: int, values: Mapping[str, float]) -> bool:
        """Whether update `step`, of these metrics, was left out.

        Raises ExpllmError naming the records if that is not allowed, or was so `MOST_IN_A_ROW` times in a row.
        """
        loss, norm = values["loss"], values["grad_norm"]
        if math.isfinite(loss) and math.isfinite(norm):
            self._in_a_row = 0
            return False
        ids = [self._source.id(int(index)) for index in np.ravel(self._plan.update(step - 1).record)
               if index != PADDED_RECORD]  # fmt: skip
        if not self._skips:
            raise ExpllmError(
                f"update {step}: the loss is {loss}, the gradient norm {norm}; its records are {', '.join(ids)}",
                "lower the learning rate, or check these records; the last checkpoint is from before",
            )
        line = {"update": step, "loss": str(loss), "grad_norm": str(norm), "records": ids}
        self._lines.append(json.dumps(line, ensure_ascii=False))
        self._write()
        self._in_a_row += 1
        if self._in_a_row == MOST_IN_A_ROW:
            raise ExpllmError(
                f"updates {step - MOST_IN_A_ROW + 1} to {step} were all left out, their losses or gradients being no "
                f"numbers; {self._path} lists their records",
                "lower the learning rate; the parameters are those before the first of them",
            )
        return True

    def _write(self) -> None:
        if not self._writes:
            return
        if not self._lines:
            self._path.unlink(missing_ok=True)
            return
        write_whole(self._path, "".join(f"{line}\n" for line in self._lines))
