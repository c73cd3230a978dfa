"""Damaged records that a run went on without: counted, listed, and told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.files import write_whole
from expllm_jax.parallel import heard_by_first, is_first, tell_first
from expllm_jax.records import PADDED_RECORD, Layout, Plan, RowSource

SKIPPED = "skipped.jsonl"
_TOPIC = "skipped records"


class SkippedRecords:
    """Compares what the plan gave an update with what came of it; `skipped.jsonl` gets a line for every record that is
    missing: the update, the record's number and its id. A run that goes on from update `start` forgets what it will see
    again.

    Every process looks at its own rows and tells the first one, which keeps the list.

    Args:
      run_dir: the run's folder.
      plan, source: which records an update takes, over all processes, and what they are called.
      start: the update to continue after.
    """

    def __init__(self, run_dir: Path, plan: Plan, source: RowSource, start: int) -> None:
        self._path, self._plan, self._source = run_dir / SKIPPED, plan, source
        self._missing: dict[int, set[int]] = {}  # update -> records; in the first process only
        if is_first() and self._path.is_file():
            for line in map(json.loads, self._path.read_text(encoding="utf-8").splitlines()):
                if line["update"] <= start:
                    self._missing.setdefault(line["update"], set()).add(line["record"])
            self._write()

    def __len__(self) -> int:
        """How many are on the list, in the first process; 0 in the others."""
        return sum(map(len, self._missing.values()))

    def note(self, update: int, planned: Layout, record: np.ndarray) -> None:
        """Tells the first process what of this process's rows, `planned`, is not in `record` ([B, M] or [B])."""
        missing = _records(planned) - set(np.ravel(record).tolist())
        if missing:
            tell_first(_TOPIC, json.dumps([update, sorted(missing)]))

    def gather(self) -> None:
        """Lists what the processes have told, in the first one.

        Once the metrics of an update are known, all processes have told what they miss of it: they do so before they
        begin it, and it needs all of them.

        Raises:
          ExpllmError: nothing was left of an update to learn from.
        """
        words = heard_by_first(_TOPIC)
        for update, missing in map(json.loads, words):
            self._missing.setdefault(update, set()).update(missing)
        if not words:
            return
        self._write()
        for update in {json.loads(word)[0] for word in words}:
            if self._missing[update] >= _records(self._plan.update(update - 1)):
                raise ExpllmError(
                    f"all {len(self._missing[update])} records of update {update} are damaged; {self._path} lists them",
                    "fetch or build the records again",
                )

    def _write(self) -> None:
        lines = [
            json.dumps({"update": update, "record": index, "id": self._source.id(index)}, ensure_ascii=False)
            for update, missing in sorted(self._missing.items())
            for index in sorted(missing)
        ]
        if not lines:
            self._path.unlink(missing_ok=True)
            return
        write_whole(self._path, "".join(f"{line}\n" for line in lines))


def _records(layout: Layout) -> set[int]:
    return set(layout.record[layout.record != PADDED_RECORD].tolist())
