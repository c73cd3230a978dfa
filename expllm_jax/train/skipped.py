"""Damaged records that a run went on without: counted, listed, and told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.files import write_whole
from expllm_jax.records import PADDED_RECORD, Layout, RowSource

SKIPPED = "skipped.jsonl"


class SkippedRecords:
    """Compares what the plan gave an update with what came of it; `skipped.jsonl` gets a line for every record that is
    missing: the update, the record's number and its id. A run that goes on from update `start` forgets what it will see
    again.
    """

    def __init__(self, run_dir: Path, source: RowSource, start: int) -> None:
        self._path, self._source = run_dir / SKIPPED, source
        self._lines = []
        if self._path.is_file():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            self._lines = [line for line in lines if json.loads(line)["update"] <= start]
        self._write()

    def __len__(self) -> int:
        return len(self._lines)

    def note(self, update: int, planned: Layout, record: np.ndarray) -> None:
        """Notes what of `planned` is not in `record` ([B, M] or [B]).

        Raises ExpllmError if nothing is left to learn from.
        """
        missing = set(planned.record[planned.record != PADDED_RECORD].tolist()) - set(np.ravel(record).tolist())
        if not missing:
            return
        self._lines += [
            json.dumps({"update": update, "record": index, "id": self._source.id(index)}, ensure_ascii=False)
            for index in sorted(missing)
        ]
        self._write()
        if (record == PADDED_RECORD).all():
            raise ExpllmError(f"all {len(missing)} records of update {update} are damaged; {self._path} lists them",
                              "fetch or build the records again")  # fmt: skip

    def _write(self) -> None:
        if not self._lines:
            self._path.unlink(missing_ok=True)
            return
        write_whole(self._path, "".join(f"{line}\n" for line in self._lines))
