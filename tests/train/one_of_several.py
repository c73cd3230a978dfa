"""One process of a tiny run: `python -m tests.train.one_of_several RUN_DIR STEPS STOP_AT COORDINATOR PROCESSES ID`.

Prints a JSON object: the records that this process got for every update it asked for. Asked for update STOP_AT (0:
never), it ends with an error, as all processes do then.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", 1)

from expllm_jax.errors import ExpllmError  # noqa: E402
from expllm_jax.parallel import DistributedConfig, start_distributed, together  # noqa: E402
from expllm_jax.records import BatchIterator  # noqa: E402
from tests.train.tiny_run import run  # noqa: E402


def main() -> None:
    folder, steps, stop_at, coordinator, processes, number = sys.argv[1:]
    start_distributed(DistributedConfig(coordinator, int(processes), int(number), 60.0))
    seen: list[list[int]] = []
    following = BatchIterator.__next__

    def watched(self):  # type: ignore[no-untyped-def]
        if stop_at != "0" and len(seen) + 1 == int(stop_at):
            raise ExpllmError("stopped here on purpose")
        batch = following(self)
        seen.append(sorted(batch["record"].ravel().tolist()))
        return batch

    BatchIterator.__next__ = watched  # type: ignore[method-assign]
    try:
        with together():
            run(Path(folder), io.StringIO(), steps=int(steps), checkpoint_every=2, log_every=1)
    except ExpllmError as error:
        print(error, file=sys.stderr)
        status = error.exit_status
    else:
        status = 0
    print(json.dumps(seen), flush=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
