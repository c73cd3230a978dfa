"""Batches for training and evaluation: shuffled, sharded by process, padded, and resumable (Grain's Dataset API).

The order of the records is a pure function of (seed, epoch). Processes take every n-th record of that one global order,
so the set of records in global batch k does not depend on how many processes there are. The iterator's state is one
number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import grain
import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.records.encode import EncodedRow
from expllm_jax.records.pictures import check_statistics, normalise, read_picture, square

PADDED_RECORD = -1
"""The record index of a row that only fills up the last evaluation batch."""


class RowSource(Protocol):
    """What `batches` reads from: `dataset.RecordSource`, or anything like it."""

    pad_token: int
    longest_row: tuple[int, str]  # tokens, and the id of the record that has so many

    def __len__(self) -> int: ...

    def row(self, index: int) -> EncodedRow: ...

    def picture(self, index: int) -> bytes: ...


@dataclass(frozen=True)
class BatchConfig:
    """How records become batches."""

    batch: int = 32  # rows of a global batch, over all processes; a multiple of process_count
    seed: int = 0  # of the order; 0 to 2³² - 1
    shuffle: bool = True  # a new order every epoch
    epochs: int = 0  # passes over the records; 0 never ends
    partial: str = "drop"  # the last batch, if not full: "drop" it (training) or "pad" it with empty rows (evaluation)
    row_length: int = 0  # tokens of a row; 0 takes the split's longest row, rounded up to a multiple of 16
    process_index: int = 0  # which process this is …
    process_count: int = 1  # … of how many
    picture_size: int = 224  # pixels a side, when pictures are decoded
    normalisation: str = "clip"  # "clip" or "imagenet", when pictures are decoded
    threads: int = 2  # that read ahead; 0 reads in the caller's thread
    read_ahead: int = 4  # batches held ready; at least the number of threads

    def __post_init__(self) -> None:
        for holds, problem, remedy in (
            (self.batch >= 1, f"batch is {self.batch}", "use 1 or more"),
            (0 <= self.seed < 2**32, f"seed is {self.seed}", "use 0 to 4294967295"),
            (self.epochs >= 0, f"epochs is {self.epochs}", "use 0 (without end) or more"),
            (self.partial in ("drop", "pad"), f"partial is {self.partial!r}", 'use "drop" or "pad"'),
            (self.partial == "drop" or self.epochs > 0, 'partial is "pad" but the epochs never end', "set epochs"),
            (self.row_length >= 0, f"row_length is {self.row_length}", "use 0 (the longest row) or more"),
            (self.process_count >= 1, f"process_count is {self.process_count}", "use 1 or more"),
            (0 <= self.process_index < self.process_count, f"process_index is {self.process_index}",
             f"use 0 to {self.process_count - 1}"),
            (self.process_count < 1 or self.batch % self.process_count == 0,
             f"a batch of {self.batch} does not divide among {self.process_count} processes", "use a multiple"),
            (1 <= self.picture_size <= 4096, f"picture_size is {self.picture_size}", "use 1 to 4096"),
            (0 <= self.threads <= self.read_ahead, f"threads is {self.threads}, read_ahead {self.read_ahead}",
             "use threads from 0 to read_ahead"),
        ):  # fmt: skip
            if not holds:
                raise ExpllmError(problem, remedy)
        check_statistics(self.normalisation)


def batches(source: RowSource, config: BatchConfig, features: np.ndarray | None = None) -> grain.DatasetIterator:
    """Iterates over this process's share of the batches; B is batch / process_count, T the row length.

    Each is a dict of NumPy arrays: `tokens`, `positions`, `segments` int32 [B, T], `loss_weights` float32 [B, T],
    `record` int32 [B] (the index in `source`, PADDED_RECORD for filling), and the picture, either as `features` [B, N,
    D] in their own dtype or as `pixels` float32 [B, size, size, 3], normalised RGB. A filling row has segment 0 and
    weight 0 throughout.

    `get_state()` gives a small JSON-able dict, `set_state(state)` continues right there; Orbax saves it as `data`.

    Args:
      source: the records of one split.
      config: see BatchConfig.
      features: [R, N, D], the frozen tower's tokens of every record (array or memmap); gathered by record index. None
        decodes the pictures instead.

    Raises:
      ExpllmError: at once, for a record longer than row_length, a batch larger than the split in training, or features
        that are not one per record; while iterating, for a picture that cannot be read.
    """
    longest, longest_id = source.longest_row
    length = config.row_length or -(-longest // 16) * 16
    if longest > length:
        raise ExpllmError(f"record {longest_id!r} has {longest} tokens, more than row_length {length}",
                          f"set row_length to {longest} or more, or 0")  # fmt: skip
    if features is not None and (features.ndim != 3 or len(features) != len(source)):
        raise ExpllmError(f"features of shape {features.shape} do not belong to {len(source)} records",
                          "compute them again for this split: one [N, D] block per record, in order")  # fmt: skip
    order = _order(len(source), config)
    assembler = _Assembler(source, config, features, length)
    local = order[config.process_index :: config.process_count]
    dataset = local.batch(config.batch // config.process_count, drop_remainder=True).map(assembler)
    reading = grain.ReadOptions(
        num_threads=config.threads, prefetch_buffer_size=config.read_ahead if config.threads else 0
    )
    return iter(dataset.to_iter_dataset(reading))


def batches_per_epoch(records: int, config: BatchConfig) -> int:
    """Whole global batches in one pass over `records`, plus the padded one if there is one."""
    return -(-records // config.batch) if config.partial == "pad" else records // config.batch


def _order(records: int, config: BatchConfig) -> grain.MapDataset:
    """Record indices of all processes in order, a whole number of global batches (or without end)."""
    dataset = grain.MapDataset.range(records).seed(config.seed)
    if config.shuffle:
        dataset = dataset.shuffle()
    dataset = dataset.repeat(config.epochs or None)
    if not config.epochs:
        return dataset
    total = records * config.epochs
    if config.partial == "pad":
        missing = -total % config.batch
        filling = grain.MapDataset.source([PADDED_RECORD] * missing)
        return grain.MapDataset.concatenate([dataset, filling]) if missing else dataset
    usable = total - total % config.batch
    if not usable:
        raise ExpllmError(
            f"a batch of {config.batch} is more than the {total} records there are", "make the batch smaller"
        )
    return dataset[:usable]


class _Assembler:
    """Turns the record indices of a batch into its arrays. Holds no state: batch k is a function of its indices."""

    def __init__(self, source: RowSource, config: BatchConfig, features: np.ndarray | None, length: int) -> None:
        self._source, self._config, self._features, self._length = source, config, features, length

    def __call__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        indices = np.asarray(indices, np.int32)
        shape = (len(indices), self._length)
        batch = {
            "tokens": np.full(shape, self._source.pad_token, np.int32),
            "positions": np.zeros(shape, np.int32),
            "segments": np.zeros(shape, np.int32),
            "loss_weights": np.zeros(shape, np.float32),
            "record": indices,
        }
        for line, index in enumerate(indices):
            if index == PADDED_RECORD:
                continue
            row = self._source.row(int(index))
            for name in ("tokens", "positions", "segments", "loss_weights"):
                batch[name][line, : len(row)] = getattr(row, name)
        if self._features is not None:
            batch["features"] = self._gather(indices)
        else:
            batch["pixels"] = self._decode(indices)
        return batch

    def _gather(self, indices: np.ndarray) -> np.ndarray:
        gathered = np.asarray(self._features[np.maximum(indices, 0)])
        gathered[indices == PADDED_RECORD] = 0
        return gathered

    def _decode(self, indices: np.ndarray) -> np.ndarray:
        size = self._config.picture_size
        pixels = np.zeros((len(indices), size, size, 3), np.float32)
        for line, index in enumerate(indices):
            if index != PADDED_RECORD:
                picture = read_picture(self._source.picture(int(index)), name=f"the picture of record {index}")
                pixels[line] = normalise(square(picture, size), self._config.normalisation)
        return pixels
