"""Batches of records: shuffled anew every epoch, mixed, packed, augmented, and resumable.

Update k is a pure function of (the plan, k): `records.order` says which records it takes, `records.packing` which row
each stands in, and augmentation is drawn by (seed, epoch, record). Processes take neighbouring stretches of the same
rows, so that the global batch is the same array, bit for bit, however many there are; worker processes and threads only
compute ahead. The iterator's state is one number. Grain reads ahead and saves the state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from expllm_jax.errors import ExpllmError
from expllm_jax.records.augmentation import AugmentConfig, Column, augmented, draws, flipped, neutral_rows
from expllm_jax.records.index import Lengths
from expllm_jax.records.order import Order, Part
from expllm_jax.records.packing import EMPTY, SEGMENTS, Layout, PackingConfig, Plan, one_a_row
from expllm_jax.records.pictures import check_statistics, normalise
from expllm_jax.records.preparation import seen_picture
from expllm_jax.records.reading import CorruptRecord
from expllm_jax.records.row_shapes import choose
from expllm_jax.records.rows import EncodedRow

PADDED_RECORD = EMPTY
"""The record index of a row, or of a picture slot, that only fills up."""


class RowSource(Protocol):
    """What `batches` reads from: `reading.RecordSource`, `mixture.MixedRows`, or anything like them."""

    pad_token: int
    longest_row: tuple[int, str]  # tokens, and the id of the record that has so many
    lengths: Lengths
    mirrors: bool  # it has the rows of mirrored pictures
    resize: str  # how its pictures become those that the model sees, if they are of another size: `EncodeConfig.resize`
    on_error: str  # "raise", or "skip": a damaged record leaves its place empty

    def __len__(self) -> int: ...

    def row(self, index: int, mirrored: bool = False) -> EncodedRow: ...

    def picture(self, index: int) -> bytes: ...

    def id(self, index: int) -> str: ...


@dataclass(frozen=True)
class BatchConfig:
    """How records become batches."""

    batch: int = 32  # records of a global batch, over all processes
    seed: int = 0  # of the order and of augmentation; 0 to 2³² - 1
    shuffle: bool = True  # a new order every epoch
    epochs: int = 0  # passes over the records; 0 never ends, unless `updates` does
    updates: int = 0  # batches of the whole run; 0: as many as the epochs fill
    partial: str = "drop"  # the last batch, if not full: "drop" it (training) or "pad" it with empty rows (evaluation)
    row_length: int = 0  # tokens of a row without packing; 0: the longest row, rounded up to a multiple of 16
    packing: PackingConfig = field(default_factory=PackingConfig)
    rows_multiple: int = 1  # packed rows of a global batch are a multiple of it: the mesh's shards times micro-batches
    process_index: int = 0  # which process this is …
    process_count: int = 1  # … of how many
    picture_size: int = 224  # pixels a side, when pictures are decoded
    normalisation: str = "clip"  # "clip" or "imagenet", when pictures are decoded
    augmentation: AugmentConfig | None = None  # of decoded pictures; its `size` is picture_size
    augment_on: str = "host"  # "host" augments here; "device" hands over pictures and draws, for the step to do it
    threads: int = 2  # that read ahead; 0 reads in the caller's thread
    read_ahead: int = 4  # batches held ready; at least the number of threads
    workers: int = 0  # processes that read ahead, each with `threads` threads; 0: none

    def __post_init__(self) -> None:
        for holds, problem, remedy in (
            (self.batch >= 1, f"batch is {self.batch}", "use 1 or more"),
            (0 <= self.seed < 2**32, f"seed is {self.seed}", "use 0 to 4294967295"),
            (self.epochs >= 0, f"epochs is {self.epochs}", "use 0 (without end) or more"),
            (self.updates >= 0, f"updates is {self.updates}", "use 0 (without end) or more"),
            (not (self.epochs and self.updates), "epochs and updates are both set", "set one of them"),
            (self.partial in ("drop", "pad"), f"partial is {self.partial!r}", 'use "drop" or "pad"'),
            (self.partial == "drop" or self.epochs > 0, 'partial is "pad" but the epochs never end', "set epochs"),
            (self.row_length >= 0, f"row_length is {self.row_length}", "use 0 (the longest row) or more"),
            (not (self.row_length and self.packing.on), "row_length is set, and packing.on is true",
             "set packing.row_length instead"),
            (self.rows_multiple >= 1, f"rows_multiple is {self.rows_multiple}", "use 1 or more"),
            (self.process_count >= 1, f"process_count is {self.process_count}", "use 1 or more"),
            (0 <= self.process_index < self.process_count, f"process_index is {self.process_index}",
             f"use 0 to {self.process_count - 1}"),
            (self.packing.on or self.process_count < 1 or self.batch % self.process_count == 0,
             f"a batch of {self.batch} does not divide among {self.process_count} processes", "use a multiple"),
            (not self.packing.on or self.rows_multiple % max(self.process_count, 1) == 0,
             f"rows_multiple {self.rows_multiple} does not divide among {self.process_count} processes",
             "use a multiple"),
            (1 <= self.picture_size <= 4096, f"picture_size is {self.picture_size}", "use 1 to 4096"),
            (self.augment_on in ("host", "device"), f"augment_on is {self.augment_on!r}", 'use "host" or "device"'),
            (self.augmentation is None or self.augmentation.size == self.picture_size,
             f"augmentation.size is {self.augmentation and self.augmentation.size}, picture_size {self.picture_size}",
             "make them equal"),
            (0 <= self.threads <= self.read_ahead, f"threads is {self.threads}, read_ahead {self.read_ahead}",
             "use threads from 0 to read_ahead"),
            (0 <= self.workers <= 256, f"workers is {self.workers}", "use 0 to 256"),
        ):  # fmt: skip
            if not holds:
                raise ExpllmError(problem, remedy)
        check_statistics(self.normalisation)


def order_of(source: RowSource, *, seed: int = 0, shuffle: bool = True) -> Order:
    """The stream over the source's records: its own mixture, or every record once an epoch."""
    parts = getattr(source, "parts", None) or (Part(len(source)),)
    return Order(parts, seed=seed, shuffle=shuffle)


def plan_of(source: RowSource, config: BatchConfig) -> Plan:
    """Which record stands where in every update; the same on every process.

    Raises ExpllmError for a record longer than a row, a batch larger than the run, or packing that has no room.
    """
    order = order_of(source, seed=config.seed, shuffle=config.shuffle)
    updates = config.updates
    if config.epochs:
        total = order.items_per_epoch * config.epochs
        updates = batches_per_epoch(total, config)
        if not updates:
            raise ExpllmError(
                f"a batch of {config.batch} is more than the {total} records there are", "make the batch smaller"
            )
    if config.packing.on:
        if not updates:
            raise ExpllmError("packing needs to know how long the run is", "set epochs or updates")
        return choose(
            order, source.lengths, config.batch, updates, config.packing, multiple=config.rows_multiple
        )[0]  # fmt: skip
    longest, longest_id = source.longest_row
    row_length = config.row_length or -(-longest // 16) * 16
    if longest > row_length:
        raise ExpllmError(f"record {longest_id!r} has {longest} tokens, more than row_length {row_length}",
                          f"set row_length to {longest} or more, or 0")  # fmt: skip
    return one_a_row(order, source.lengths, config.batch, row_length, updates=updates)


def batches(
    source: RowSource, config: BatchConfig, features: np.ndarray | None = None, *, plan: Plan | None = None
) -> BatchIterator:
    """Iterates over this process's share of the batches; B rows of the R / process_count that are its own, T the row
    length.

    Each is a dict of NumPy arrays: `tokens`, `positions`, `segments` int32 [B, T], `loss_weights` float32 [B, T],
    `record` int32 [B] (the index in `source`, PADDED_RECORD for filling), and the picture, either as `features` [B, N,
    D] in their own dtype or as `pixels` float32 [B, size, size, 3], normalised RGB. A filling row has segment 0 and
    weight 0 throughout. With packing, `record`, `features` and `pixels` have an axis M behind B, for the pictures of a
    row. Augmentation on the device replaces `pixels` by `pictures` uint8 and `draws` float32 [B, (M,) K].

    A picture that is drawn to be flipped comes with the row of its mirrored twin. A damaged record of a source that
    skips such leaves its place empty; which they were shows in `record`.

    `get_state()` gives a small JSON-able dict, `set_state(state)` continues right there; checkpoints hold it as `data`.

    Args:
      source: the records of one split, or a mixture.
      config: see BatchConfig.
      features: [R, N, D], the frozen tower's tokens of every record (array or memmap); gathered by record index. None
        decodes the pictures instead.
      plan: of `plan_of`, if it is known already.

    Raises:
      ExpllmError: at once, for what `plan_of` refuses, features that are not one per record, or augmentation that
        cannot be true; while iterating, for a picture that cannot be read.
    """
    if config.augmentation is not None and features is not None:
        raise ExpllmError("pictures are to be augmented, but their features are read from a file",
                          "augment no pictures, or encode them anew in every step (cache_features=false)")  # fmt: skip
    if config.augmentation is not None and config.augmentation.flip > 0 and not source.mirrors:
        raise ExpllmError(
            "pictures are to be flipped, but the records have no mirrored texts, which would call right what is left",
            "build them with records.mirror=true, or set the augmentation's flip to 0",
        )
    if features is not None and (features.ndim != 3 or len(features) != len(source)):
        raise ExpllmError(f"features of shape {features.shape} do not belong to {len(source)} records",
                          "compute them again for this split: one [N, D] block per record, in order")  # fmt: skip
    return BatchIterator(plan or plan_of(source, config), _Assembler(source, config, features), config)


def batches_per_epoch(records: int, config: BatchConfig) -> int:
    """Whole global batches in one pass over `records`, plus the padded one if there is one."""
    return -(-records // config.batch) if config.partial == "pad" else records // config.batch


class BatchIterator(grain.DatasetIterator):
    """The batches of one process. Its state says which batch of which stream comes next: any process of any number of
    them can go on from it, with any number of workers and with other rows."""

    def __init__(self, plan: Plan, assemble: _Assembler, config: BatchConfig) -> None:
        super().__init__()
        self.plan = plan
        self._config, self._update, self._next = config, _Update(plan, assemble, config), 0
        self._stream = plan.stream_fingerprint
        self._reading: grain.DatasetIterator | None = None

    def __next__(self) -> dict[str, np.ndarray]:
        if self._reading is None:
            self._reading = self._read_from(self._next)
        batch = next(self._reading)
        self._next += 1
        return batch

    def layout(self, number: int) -> Layout:
        """Which records this process's rows of batch `number` take, damaged ones included."""
        return self._update.layout(number)

    def get_state(self) -> dict[str, Any]:
        """Where it is."""
        return {"next": self._next, "stream": self._stream}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken. Raises ExpllmError if updates took other records there."""
        if state.get("stream") != self._stream:
            raise ExpllmError(
                "the saved position belongs to other records, or to another order of them",
                "go on with the records and settings that the run began with, or begin another run",
            )
        self._close_reading()
        self._next = int(state["next"])

    def close(self) -> None:
        """Ends threads and worker processes."""
        self._close_reading()
        super().close()

    def _close_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def _read_from(self, start: int) -> grain.DatasetIterator:
        config = self._config
        stop = self.plan.updates or 2**40
        if start >= stop:
            return iter(grain.MapDataset.source([]).to_iter_dataset())
        dataset = grain.MapDataset.range(start, stop).map(self._update)
        ahead = config.read_ahead if config.threads else 0
        reading = dataset.to_iter_dataset(grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=ahead))
        if config.workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which only absl's own main parses
            options = grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=1)
            reading = reading.mp_prefetch(options)
        return iter(reading)


class _Update:
    """Batch number → this process's arrays. A pure function, so that any worker may compute any batch."""

    def __init__(self, plan: Plan, assemble: _Assembler, config: BatchConfig) -> None:
        self._plan, self._assemble, self._config = plan, assemble, config
        rows = plan.shape.rows // config.process_count
        self._rows = (config.process_index * rows, (config.process_index + 1) * rows)

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        return self._assemble(self.layout(int(number)), self._plan.shape.row_length)

    def layout(self, number: int) -> Layout:
        """This process's rows."""
        layout = self._plan.update(number)
        if self._config.epochs:  # what lies behind the last epoch fills up the last batch
            ended = layout.epoch >= self._config.epochs
            layout = Layout(*(np.where(ended, EMPTY, column) for column in layout))
        return layout.rows(*self._rows)


class _Assembler:
    """Turns a layout into the arrays of a batch."""

    def __init__(self, source: RowSource, config: BatchConfig, features: np.ndarray | None) -> None:
        self._source, self._config, self._features = source, config, features

    def __call__(self, layout: Layout, row_length: int) -> dict[str, np.ndarray]:
        shape, slots = (len(layout.record), row_length), layout.record.shape
        batch = {
            "tokens": np.full(shape, self._source.pad_token, np.int32),
            "positions": np.zeros(shape, np.int32),
            "segments": np.zeros(shape, np.int32),
            "loss_weights": np.zeros(shape, np.float32),
        }
        record = np.full(slots, PADDED_RECORD, np.int32)
        picture = self._new_pictures(slots)
        drawn = self._draws(layout)
        mirrored = np.zeros(slots, bool) if drawn is None else flipped(drawn)
        for line in range(len(record)):
            end = place = 0
            for slot in np.flatnonzero(layout.record[line] != EMPTY):
                index = int(layout.record[line, slot])
                chance = None if drawn is None else drawn[line, slot]
                try:
                    row = self._source.row(index, bool(mirrored[line, slot]))
                    self._put_picture(picture, (line, place), index, chance)
                except CorruptRecord:
                    if self._source.on_error == "skip":
                        continue
                    raise
                here = slice(end, end + len(row))
                for name in ("tokens", "positions", "loss_weights"):
                    batch[name][line, here] = getattr(row, name)
                batch["segments"][line, here] = row.segments + place * SEGMENTS
                record[line, place] = index
                end, place = end + len(row), place + 1
        batch |= {"record": record, **picture}
        if not self._config.packing.on:
            batch |= {name: batch[name][:, 0] for name in ("record", *picture)}
        return batch

    def _new_pictures(self, slots: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Arrays for the pictures of a batch, as if no slot were used."""
        size, augmentation = self._config.picture_size, self._config.augmentation
        if self._features is not None:
            return {"features": np.zeros((*slots, *self._features.shape[1:]), self._features.dtype)}
        if augmentation is not None and self._config.augment_on == "device":
            neutral = neutral_rows(size, int(np.prod(slots)))
            return {
                "pictures": np.zeros((*slots, size, size, 3), np.uint8),
                "draws": neutral.reshape(*slots, neutral.shape[1]),
            }
        return {"pixels": np.zeros((*slots, size, size, 3), np.float32)}

    def _put_picture(
        self, arrays: dict[str, np.ndarray], place: tuple[int, int], index: int, chance: np.ndarray | None
    ) -> None:
        if self._features is not None:
            arrays["features"][place] = self._features[index]
            return
        content = self._source.picture(index)
        picture = seen_picture(
            content, self._config.picture_size, self._source.resize, name=f"the picture of record {index}"
        )
        if "pictures" in arrays:
            arrays["pictures"][place], arrays["draws"][place] = picture, chance
        elif chance is None:
            arrays["pixels"][place] = normalise(picture, self._config.normalisation)
        else:
            augmented(picture, chance, self._config.normalisation, out=arrays["pixels"][place])

    def _draws(self, layout: Layout) -> np.ndarray | None:
        """What is to happen to the picture of every slot that is used, float32 [R, M, K]. Copies of a record have draws
        of their own."""
        config = self._config
        if config.augmentation is None:
            return None
        rows = np.zeros((*layout.record.shape, len(Column)), np.float32)
        for epoch in np.unique(layout.epoch[layout.record != EMPTY]):
            now = layout.epoch == epoch  # EMPTY where a slot is not used
            record = layout.record[now]
            key, located = layout.copy[now] * len(self._source) + record, self._source.lengths.located[record]
            rows[now] = draws(config.augmentation, config.seed, int(epoch), key, located)
        return rows
