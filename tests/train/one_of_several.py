"""One process of a tiny run: `python -m tests.train.one_of_several RUN_DIR COORDINATOR PROCESSES ID [OPTIONS]`.

Prints a JSON object: the records that this process got for every update it asked for, how many it says were skipped,
and the fingerprint of what was trained at the end (null if it ended before).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", 1)

from expllm_jax.checkpoints import params_fingerprint  # noqa: E402
from expllm_jax.errors import ExpllmError  # noqa: E402
from expllm_jax.parallel import DistributedConfig, start_distributed, together  # noqa: E402
from expllm_jax.records import PADDED_RECORD, BatchIterator, CorruptRecord  # noqa: E402
from tests.train.tiny import TinySource  # noqa: E402
from tests.train.tiny_run import RECORDS, run  # noqa: E402


class Damaged(TinySource):
    """Ten records, of which some are damaged and are to be gone on without."""

    on_error = "skip"

    def __init__(self, damaged: list[int]) -> None:
        super().__init__(RECORDS)
        self.damaged = set(damaged)

    def row(self, index: int, mirrored: bool = False):
        if index in self.damaged:
            raise CorruptRecord(index, self.id(index), "as the test wishes", "here")
        return super().row(index, mirrored)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, kind in (("folder", Path), ("coordinator", str), ("processes", int), ("number", int)):
        parser.add_argument(name, type=kind)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--stop-at", type=int, default=0, help="the batch for which it ends with an error, from 1")
    parser.add_argument("--killed-at", type=int, default=0, help="the batch for which it ends with SIGKILL, from 1")
    parser.add_argument("--damaged", type=json.loads, default=[], help="records")
    asked = parser.parse_args()
    start_distributed(DistributedConfig(asked.coordinator, asked.processes, asked.number, 60.0))
    told = {"records": [], "skipped": None, "fingerprint": None}
    following = BatchIterator.__next__

    def watched(self):  # type: ignore[no-untyped-def]
        number = len(told["records"]) + 1
        if number == asked.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == asked.stop_at:
            raise ExpllmError("stopped here on purpose")
        batch = following(self)
        records = batch["record"].ravel()
        told["records"].append(sorted(records[records != PADDED_RECORD].tolist()))
        return batch

    BatchIterator.__next__ = watched  # type: ignore[method-assign]
    status = 0
    try:
        with together():
            result = run(
                asked.folder, io.StringIO(), source=Damaged(asked.damaged) if asked.damaged else None,
                steps=asked.steps, checkpoint_every=2, log_every=1,
            )  # fmt: skip
            told |= {"skipped": result.skipped, "fingerprint": params_fingerprint(result.state.params)}
    except ExpllmError as error:
        print(error, file=sys.stderr)
        status = error.exit_status
    print(json.dumps(told), flush=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
