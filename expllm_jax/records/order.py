"""The order of the records in training: one endless stream, a pure function of (seed, sets, repeats).

Epoch e is a permutation of what an epoch holds; where several sets are mixed, each is shuffled on its own and the sets
are then interleaved evenly, so that every stretch of the stream has the mixture's proportions (the reference shuffles
all of it together, which gives the same proportions only on average). Update k takes places k N to (k + 1) N of the
stream, across the seams of epochs, and no process or worker changes that.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from expllm_jax.errors import ExpllmError

_KEPT = 3  # epochs held in memory: two that a batch may span, and one for a thread that lags


@dataclass(frozen=True)
class Part:
    """One set of a mixture."""

    records: int
    # 1 or more takes the whole set int(repeat) times an epoch, below 1 a random part of int(records x repeat), drawn
    # once: what the third field of the released list files means.
    repeat: float = 1.0
    # Instead of `repeat`: the set's share of the stream, relative to the other sets' weights. 0: `repeat` counts.
    weight: float = 0.0

    def __post_init__(self) -> None:
        if self.records < 1:
            raise ExpllmError("a set of the mixture has no records", "leave it out")
        check_repeat(self.repeat)
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ExpllmError(f"weight is {self.weight:g}", "use a number above 0")
        if self.weight and self.repeat != 1:
            raise ExpllmError("a set of the mixture has a repeat and a weight", "give it one of them")
        if self.repeat < 1 and not int(self.records * self.repeat):
            raise ExpllmError(f"repeat {self.repeat:g} leaves nothing of {self.records} records", "use a larger repeat")


def check_repeat(repeat: float) -> None:
    """Raises ExpllmError unless `repeat` is a number above 0."""
    if not (math.isfinite(repeat) and repeat > 0):
        raise ExpllmError(f"repeat is {repeat:g}", "use 1 or more for whole copies, or a fraction above 0")


class Items(NamedTuple):
    """A stretch of the stream. Arrays are [n].

    `copy` counts the times that an epoch has had the record before, so that (epoch, copy, record) never comes twice.
    """

    record: np.ndarray  # int64, counted over all sets one behind the other
    copy: np.ndarray  # int64
    epoch: np.ndarray  # int64


class Order:
    """The stream over some sets. Safe to read from several threads; pickles as its arguments.

    Args:
      parts: the sets; all with a weight, or none.
      seed: 0 to 2^32 - 1.
      shuffle: False takes the sets one behind the other, every one from its first record to its last.
    """

    def __init__(self, parts: Sequence[Part], *, seed: int = 0, shuffle: bool = True) -> None:
        if not parts:
            raise ExpllmError("there are no sets to mix", "give at least one")
        if len({part.weight > 0 for part in parts}) != 1:
            raise ExpllmError("some sets of the mixture have a weight and some have not", "give one to all, or to none")
        if not 0 <= seed < 2**32:
            raise ExpllmError(f"seed is {seed}", "use 0 to 4294967295")
        self.parts, self.seed, self.shuffle = tuple(parts), seed, shuffle
        self.records = sum(part.records for part in parts)
        self.counts = _counts(self.parts)
        self.items_per_epoch = sum(self.counts)
        self._starts = np.cumsum([0, *(part.records for part in parts)])
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return _restored, (self.parts, self.seed, self.shuffle)

    def items(self, start: int, stop: int) -> Items:
        """Places `start` to `stop` of the stream."""
        parts = []
        for epoch in range(start // self.items_per_epoch, -(-stop // self.items_per_epoch)):
            record, copy = self._epoch(epoch)
            first = epoch * self.items_per_epoch
            inside = slice(max(start - first, 0), stop - first)
            parts.append((record[inside], copy[inside], np.full(len(record[inside]), epoch)))
        if not parts:
            return Items(*[np.zeros(0, np.int64)] * 3)
        return Items(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:
            if epoch not in self._epochs:
                self._epochs[epoch] = self._make_epoch(epoch)
                while len(self._epochs) > _KEPT:
                    del self._epochs[next(iter(self._epochs))]
            return self._epochs[epoch]

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        records, copies, times = [], [], []
        for number, (part, count) in enumerate(zip(self.parts, self.counts, strict=True)):
            item = np.arange(count)
            if count % part.records:  # the incomplete pass is a random part, and the last one
                drawn_at = 0 if part.repeat < 1 else epoch + 1  # a fraction is drawn once for all epochs
                drawn = np.argsort(_raw(part.records, self.seed, number, drawn_at, 1), kind="stable")
                whole = count - count % part.records
                item = np.concatenate([item[:whole], whole + np.sort(drawn[: count - whole])])
            raw = _raw(count + 1, self.seed, number, epoch, 0)
            if self.shuffle:
                item = item[np.argsort(raw[:-1], kind="stable")]
            records.append(self._starts[number] + item % part.records)
            copies.append(item // part.records)
            # Evenly spaced over the epoch, from a random start, so that no set always comes first.
            times.append((np.arange(count) + raw[-1] / 2**64) / count)
        record, copy = np.concatenate(records), np.concatenate(copies)
        if self.shuffle and len(self.parts) > 1:
            order = np.argsort(np.concatenate(times), kind="stable")
            record, copy = record[order], copy[order]
        return record, copy


def _restored(parts: tuple[Part, ...], seed: int, shuffle: bool) -> Order:
    return Order(parts, seed=seed, shuffle=shuffle)


def _counts(parts: Sequence[Part]) -> tuple[int, ...]:
    """Items of every set in an epoch. With weights, an epoch is as long as it takes to see every record once."""
    if not parts[0].weight:
        return tuple(
            part.records * int(part.repeat) if part.repeat >= 1 else int(part.records * part.repeat) for part in parts
        )
    total = max(part.records / part.weight for part in parts)
    return tuple(round(total * part.weight) for part in parts)


def _raw(count: int, seed: int, number: int, epoch: int, purpose: int) -> np.ndarray:
    """`count` uniform uint64 of a stream of their own. Philox's raw output is the same in every NumPy, where
    `Generator.permutation` is not promised to be."""
    key = np.array([seed << 32 | number, epoch << 1 | purpose], np.uint64)
    return np.random.Philox(key=key).random_raw(count)
