"""How much of an update the host costs: the loop's time per update beside the device's own.

    python launch/bench/host_overhead.py [--updates 220] [--step-ms 100] [--json]

The real loop (`train`) reads, decodes and packs real batches: 20 rows of 2,304 tokens with 7 pictures each, uint8, of
records that are held in memory as JPEG. Only the device is pretended: the update is compiled by XLA and called with all
its parameters, but does next to nothing, and its results are held back until a device that works on one update after
the other, `--step-ms` each, would have them. So the host's cores are free for the loop, as beside an accelerator, and
all that the loop does for an update is in the measurement: assembling the batch and handing it to the device, counting
its work, dispatching, fetching metrics and writing them (JSON, TensorBoard, progress), watchdog, notice of pre-emption.
Checkpoints and validation are not. What a pretended device cannot show: transfers that are slower than memory.

`overhead` is (median seconds of an update) / (seconds of the device) - 1, `overhead_mean` the same of the mean, where
rare, long pauses show. `idle` is the share of the time in which the device has nothing to do. `loop_ms` is the
processor time of the loop's own thread for one update: a device that is faster than that has to wait. `reading_ms` is
that of all other threads, most of it decoding, which `train.threads` and `train.workers` spread.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from expllm_jax.models import DecoderConfig, ExpLLMConfig, LoRAConfig, ViTConfig, init
from expllm_jax.records import EncodedRow, Lengths, PackingConfig
from expllm_jax.train import TrainConfig, TrainState, loop, train

ROWS, ROW_LENGTH, PICTURES = 20, 2304, 7
BATCH = 128  # records, with about 330 tokens each
PICTURE_SIZE, IMAGE_TOKENS, IMAGE_TOKEN = 224, 256, 300
FIRST = 10  # updates that are left out: queues fill, files are opened


class RowsInMemory:
    """Records of a typical length: a picture, a question, an answer of up to 60 tokens."""

    pad_token, mirrors, resize, on_error = 0, True, "antialiased", "raise"

    def __init__(self, records: int) -> None:
        rng = np.random.default_rng(0)
        self._rows = [self._row(rng, int(rng.integers(20, 60))) for _ in range(records)]
        self._pictures = [self._picture(rng) for _ in range(records)]
        lengths = np.array([len(row) for row in self._rows])
        self.longest_row = int(lengths.max()), self.id(int(lengths.argmax()))
        learnt = np.array([np.count_nonzero(row.loss_weights) for row in self._rows])
        self.lengths = Lengths(lengths, learnt, np.zeros(records, bool))

    @staticmethod
    def _row(rng: np.random.Generator, answer: int) -> EncodedRow:
        prefix = [1] + [IMAGE_TOKEN] * IMAGE_TOKENS
        tokens = np.array(prefix + rng.integers(10, 200, 15 + answer).tolist(), np.int32)
        weights = np.zeros(len(tokens), np.float32)
        weights[-answer:] = 1 / answer
        segments = np.where(np.arange(len(tokens)) < len(prefix), 1, 2).astype(np.int32)
        return EncodedRow(tokens, np.arange(len(tokens), dtype=np.int32), segments, weights)

    @staticmethod
    def _picture(rng: np.random.Generator) -> bytes:
        small = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
        encoded = io.BytesIO()
        small.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=90)
        return encoded.getvalue()

    def __len__(self) -> int:
        return len(self._rows)

    def id(self, index: int) -> str:
        return f"record-{index}"

    def row(self, index: int, mirrored: bool = False) -> EncodedRow:
        return self._rows[index]

    def picture(self, index: int) -> bytes:
        return self._pictures[index]


def model_config() -> ExpLLMConfig:
    """As many arrays as the paper's model has; they are small, since nothing is computed with them."""
    adapters = LoRAConfig(rank=2, targets=("q", "v"))
    return ExpLLMConfig(
        vision=ViTConfig(width=32, depth=1, heads=2, patch=14, native_grid=16),
        decoder=DecoderConfig(vocab=IMAGE_TOKEN + 1, width=32, depth=1, heads=2, kv_heads=2, head_dim=16, mlp_width=64),
        vision_lora=adapters, decoder_lora=adapters, image_token=IMAGE_TOKEN,
    )  # fmt: skip


def idle_step(*args: Any, **options: Any) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """What stands for `make_train_step`: it reads every array of its batch, and leaves the parameters as they are."""

    def step(
        state: TrainState, frozen: Mapping[str, jax.Array], batch: Mapping[str, jax.Array], seed: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        used = sum(jnp.ravel(x)[0].astype(jnp.float32) for x in batch.values()) + seed + state.step
        metrics = {name: 1.0 + 0.0 * used for name in ("loss", "grad_norm", "learning_rate")}
        return TrainState(state.step + 1, state.params, state.opt_state, state.stats), metrics

    return step


class _Result:
    """A number that the device has at the time `ready`; whoever asks before waits, as `jax.device_get` does."""

    def __init__(self, value: jax.Array, ready: float) -> None:
        self._value, self._ready = value, ready

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        time.sleep(max(0.0, self._ready - time.perf_counter()))
        return np.asarray(self._value, dtype)


class Device:
    """A compiled program on a device that takes `seconds` for each call and makes one after the other.

    A sleeping thread or callback would show the host's own delays in the device's time; here it is exact.
    """

    def __init__(self, program: jax.stages.Compiled, seconds: float) -> None:
        self._program, self._seconds, self._free = program, seconds, -math.inf
        self.idle: list[float] = []  # seconds without work before each call
        self.clocks: list[tuple[float, float, float]] = []  # at each call: wall, this thread's processor, all threads'

    def __call__(self, *arguments: Any) -> tuple[TrainState, dict[str, _Result]]:
        state, metrics = self._program(*arguments)
        now = time.perf_counter()
        self.idle.append(max(0.0, now - self._free))
        self.clocks.append((now, time.thread_time(), time.process_time()))
        self._free = max(now, self._free) + self._seconds
        return state, {name: _Result(value, self._free) for name, value in metrics.items()}

    def memory_analysis(self) -> Any:
        """Of the program."""
        return self._program.memory_analysis()


def measure(updates: int, step_ms: float, threads: int) -> dict[str, Any]:
    """The numbers of the module's text."""
    source = RowsInMemory(4 * BATCH)
    graphdef, params = init(model_config(), 0)
    packing = PackingConfig(on=True, rows=ROWS, row_length=ROW_LENGTH, pictures=PICTURES)
    config = TrainConfig(
        steps=updates, batch=BATCH, packing=packing, augment="device", checkpoint_every=10 * updates, threads=threads
    )
    devices: list[Device] = []
    compiled = loop.compiled

    def pretended(function: Any, arguments: Sequence[Any], options: Sequence[str]) -> tuple[Any, float]:
        program, seconds = compiled(function, arguments, options)
        devices.append(Device(program, step_ms / 1e3))
        return devices[0], seconds

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(loop, "make_train_step", idle_step),
        mock.patch.object(loop, "compiled", pretended),
    ):
        train(config, graphdef, params, source, folder, picture_size=PICTURE_SIZE, stream=io.StringIO())
    wall, own, every = (np.diff(clock[FIRST:]) for clock in zip(*devices[0].clocks, strict=True))
    return {
        "updates": len(wall),
        "step_ms": step_ms,
        "update_ms": 1e3 * float(np.median(wall)),
        "overhead": 1e3 * float(np.median(wall)) / step_ms - 1,
        "overhead_mean": 1e3 * float(np.mean(wall)) / step_ms - 1,
        "idle": sum(devices[0].idle[FIRST + 1 :]) / float(np.sum(wall)),
        "loop_ms": 1e3 * statistics.mean(own),
        "reading_ms": 1e3 * statistics.mean(every - own),
        "batch_mb": ROWS * (PICTURES * 3 * PICTURE_SIZE**2 + 16 * ROW_LENGTH) / 1e6,
        "cores": len(os.sched_getaffinity(0)),
    }


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--updates", type=int, default=220, help=f"the first {FIRST} do not count (default: 220)")
    parser.add_argument("--step-ms", type=float, default=100.0, help="what the device takes for an update")
    parser.add_argument("--threads", type=int, default=2, help="that read (default: 2)")
    parser.add_argument("--json", action="store_true", help="one JSON value instead of text")
    options = parser.parse_args()
    if options.updates < 2 * FIRST:
        parser.error(f"--updates must be at least {2 * FIRST}")
    found = measure(options.updates, options.step_ms, options.threads)
    if options.json:
        print(json.dumps(found))
        return
    print(f"an update takes {found['update_ms']:.2f} ms of which the device works {found['step_ms']:g}: "
          f"{found['overhead']:+.2%} in the median, {found['overhead_mean']:+.2%} in the mean of {found['updates']}, "
          f"the device idle {found['idle']:.2%}; processor {found['loop_ms']:.1f} ms for the loop, "
          f"{found['reading_ms']:.1f} ms for reading, on {found['cores']} cores")  # fmt: skip


if __name__ == "__main__":
    main()
