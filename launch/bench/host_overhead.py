"""How much of an update the host costs: the loop's wall time per update beside the device's own.

    python launch/bench/host_overhead.py [--records 32] [--updates 60] [--step-ms 100] [--json]

The real loop (`train`) runs a real model over records in memory; only the update is replaced, by a program that does
nothing but wait: a callback that sleeps `--step-ms` minus what its own dispatch takes, as a device that is busy so
long. So the host's cores are free for the loop, as beside an accelerator, and everything that the loop does about an
update is in the measurement: reading and assembling the batch, sending it to the device, counting its work, fetching
and writing metrics, progress, watchdog, notice of pre-emption.

Two numbers: `overhead`, (median seconds of an update in the loop) / (median seconds of the same program called again and
again on one batch, two in flight as the loop has them) - 1; and `host_ms`, the processor time of this process for one
update, which must stay below the step's time for the overhead to stay hidden.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from expllm_jax.models import DecoderConfig, ExpLLMConfig, LoRAConfig, ViTConfig, init
from expllm_jax.records import EncodedRow, Lengths, PackingConfig
from expllm_jax.train import TrainConfig, loop, train

PICTURES, WIDTH, IMAGE_TOKEN, TOWER = 64, 64, 300, 64


class RowsInMemory:
    """Records of a typical length: an image of 64 tokens, a question, an explanation of about 150 tokens."""

    pad_token, mirrors, resize, on_error = 0, False, "antialiased", "raise"

    def __init__(self, records: int) -> None:
        rng = np.random.default_rng(0)
        self.rows = [self._row(rng, int(rng.integers(100, 200))) for _ in range(records)]
        self.features = rng.normal(size=(records, PICTURES, TOWER)).astype(np.float16)
        longest = max(range(records), key=lambda index: len(self.rows[index]))
        self.longest_row = len(self.rows[longest]), self.id(longest)
        learnt = np.array([np.count_nonzero(row.loss_weights) for row in self.rows])
        self.lengths = Lengths(np.array([len(row) for row in self.rows]), learnt, np.zeros(records, bool))

    def _row(self, rng: np.random.Generator, answer: int) -> EncodedRow:
        prefix = [1] + [IMAGE_TOKEN] * PICTURES
        tokens = np.array(prefix + rng.integers(10, 200, 20 + answer).tolist(), np.int32)
        weights = np.zeros(len(tokens), np.float32)
        weights[-answer:] = 1 / answer
        segments = np.where(np.arange(len(tokens)) < len(prefix), 1, 2).astype(np.int32)
        return EncodedRow(tokens, np.arange(len(tokens), dtype=np.int32), segments, weights)

    def __len__(self) -> int:
        return len(self.rows)

    def id(self, index: int) -> str:
        return f"record-{index}"

    def row(self, index: int, mirrored: bool = False) -> EncodedRow:
        return self.rows[index]

    def picture(self, index: int) -> bytes:
        raise NotImplementedError("features are given")


def model_config() -> ExpLLMConfig:
    """Small: its size does not matter, since the update does not compute it."""
    return ExpLLMConfig(
        vision=ViTConfig(width=TOWER, depth=1, heads=2, patch=14, native_grid=8),
        decoder=DecoderConfig(vocab=IMAGE_TOKEN + 1, width=WIDTH, depth=1, heads=2, kv_heads=2, head_dim=32,
                              mlp_width=128),
        vision_lora=LoRAConfig(), decoder_lora=LoRAConfig(rank=4), image_token=IMAGE_TOKEN,
    )  # fmt: skip


def waiting_step(seconds: float) -> Any:
    """What stands for `make_train_step`: a program that takes the batch, and `seconds`."""

    def make(*args: Any, **options: Any) -> Any:
        def wait(started: np.ndarray) -> np.ndarray:
            time.sleep(seconds)
            return started

        def step(state: Any, frozen: Any, batch: Any, seed: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            used = sum(jnp.sum(x[:1, :1].astype(jnp.float32)) for x in batch.values()) + state.step
            done = jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), used)
            loss = jnp.where(jnp.isfinite(done), 1.0, 1.0)
            return (
                type(state)(state.step + 1 + (0 * loss).astype(jnp.int32), state.params, state.opt_state, state.stats),
                {"loss": loss, "grad_norm": loss, "learning_rate": loss},
            )

        return step

    return make


def alone(program: Any, arguments: list[Any], updates: int) -> list[float]:
    """Seconds of each call, one queued behind the other, as a device with no host beside it would take."""
    state, frozen, batch, seed = arguments
    state = jax.tree.map(jnp.copy, state)
    waiting: collections.deque[Any] = collections.deque()
    last, seconds = time.monotonic(), []
    for _ in range(updates):
        state, metrics = program(state, frozen, batch, seed)
        waiting.append(metrics)
        if len(waiting) == 2:
            jax.block_until_ready(waiting.popleft())
            now = time.monotonic()
            seconds.append(now - last)
            last = now
    return seconds[2:]


def measure(records: int, updates: int, step_ms: float) -> dict[str, float]:
    """The numbers of the module's text."""
    source = RowsInMemory(8 * records)
    graphdef, params = init(model_config(), jax.random.key(0))
    config = TrainConfig(
        steps=updates, batch=records, packing=PackingConfig(on=True, row_length=2048), trainable=("projector/.*",),
        checkpoint_every=10 * updates, threads=1,
    )  # fmt: skip
    kept: dict[str, Any] = {}
    compiled = loop.compiled

    def keeping(function: Any, arguments: Any, options: Any) -> Any:
        result = compiled(function, arguments, options)
        kept["program"], kept["arguments"] = result[0], [jax.tree.map(jnp.copy, arguments[0]), *arguments[1:]]
        kept["processor"] = _processor_seconds()
        return result

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(loop, "make_train_step", waiting_step(step_ms / 1e3)),
        mock.patch.object(loop, "compiled", keeping),
    ):
        train(config, graphdef, params, source, folder, features=source.features, stream=io.StringIO())
        processor = _processor_seconds() - kept["processor"]
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    in_loop = statistics.median(line["update_seconds"] for line in lines[2:])
    device = statistics.median(alone(kept["program"], kept["arguments"], updates))
    return {
        "records": records,
        "updates": updates,
        "loop_ms": 1e3 * in_loop,
        "device_ms": 1e3 * device,
        "overhead": in_loop / device - 1,
        "host_ms": 1e3 * processor / updates,
        "data_wait_ms": 1e3 * statistics.median(line["data_wait"] for line in lines[2:]),
    }


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=32, help="of an update (default: 32)")
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--step-ms", type=float, default=100.0, help="what the device takes for an update")
    parser.add_argument("--json", action="store_true", help="one JSON value instead of text")
    options = parser.parse_args()
    found = measure(options.records, options.updates, options.step_ms)
    if options.json:
        print(json.dumps(found))
        return
    print(f"an update: {found['device_ms']:.2f} ms by the device alone, {found['loop_ms']:.2f} ms in the loop: "
          f"{found['overhead']:+.2%}; the host's processor {found['host_ms']:.1f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
