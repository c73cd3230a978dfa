"""Packing: several records in one row, as a plan over records that are stored once.

An update takes exactly N records, as without packing, and lays them out in R rows of T tokens with room for M pictures;
R, T and M are the same in every update, so that shapes are static, and so is S, the most supervised tokens of a row.
Which record stands where is a pure function of the stream (`records.order`), the records' lengths and these numbers.

Fill is won twice. The records of a window of updates are dealt out by length, longest first, so that every update has
nearly the same number of tokens; and an update's records go, longest first, to the row with the fewest tokens so far
(Graham's LPT rule for scheduling machines), which evens out rows, picture slots and supervised tokens together; then
the fullest row exchanges records for shorter ones while that helps.
First-fit rules, which fill one row after the other, leave the last ones empty and put all the long texts side by side.

Within a row, records stand one behind the other in the order of their pictures. Each keeps its positions from 0, and
the segments of the k-th record (from 0) are raised by k x SEGMENTS, which the model's mask reads: a token sees what
stands before it in its own branch and in its own record's prefix, and nothing of another record.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

from expllm_jax.errors import ExpllmError
from expllm_jax.files import unfinished
from expllm_jax.records.index import Lengths
from expllm_jax.records.order import Items, Order

SEGMENTS = 64
"""Segment numbers that every record of a row has for itself; `models.attention_mask` counts with the same."""

EMPTY = -1
"""The record number of a picture slot that is not used."""

FORMAT = 1
"""Version of the algorithm: a plan of another version is another plan."""

TOKENS_STEP = 128
"""Row lengths are multiples of it, as accelerators like them."""

_KEPT = 3  # windows held in memory
_CHUNK = 2**20  # items that are looked at together where a whole run is summed up
_EXCHANGES = 64  # at most, to even out the rows of one update; a handful is usual


@dataclass(frozen=True)
class PackingConfig:
    """How records share rows. Every 0 is chosen by what it costs; see `row_shapes.choose`."""

    on: bool = False  # without packing, every record is a row of its own
    row_length: int = 0  # tokens of a row, a multiple of 128; 0: chosen, at most `longest`
    pictures: int = 0  # pictures that a row has room for; 0: chosen
    rows: int = 0  # rows of an update, over all devices; 0: as many as the fullest update needs
    longest: int = 4096  # the longest row to choose from; attention and memory grow with it
    window: int = 16  # updates that share out their records by length; 1: every update takes its own as they come
    # What things cost, in tokens of a row; 0: from the model's configuration.
    picture_cost: float = 0.0  # the tower's work for one picture, be its slot used or not
    attention_length: float = 0.0  # the row length at which attention costs as much as everything else in the decoder

    def __post_init__(self) -> None:
        for name in ("row_length", "pictures", "rows", "picture_cost", "attention_length"):
            if getattr(self, name) < 0:
                raise ExpllmError(f"packing.{name} is {getattr(self, name)}", "use 0 (chosen) or more")
        for name in ("row_length", "longest"):
            if getattr(self, name) % TOKENS_STEP:
                raise ExpllmError(f"packing.{name} is {getattr(self, name)}", f"use a multiple of {TOKENS_STEP}")
        if self.longest < TOKENS_STEP:
            raise ExpllmError(f"packing.longest is {self.longest}", f"use {TOKENS_STEP} or more")
        if not 1 <= self.window <= 1024:
            raise ExpllmError(f"packing.window is {self.window}", "use 1 to 1024")
        if not self.on and (self.row_length or self.pictures or self.rows):
            raise ExpllmError("packing.row_length, pictures or rows is set, but packing.on is false",
                              "set packing.on=true as well")  # fmt: skip


class Shape(NamedTuple):
    """What one update is made of."""

    rows: int  # R
    row_length: int  # T
    pictures: int  # M, per row
    supervised: int  # S, per row


class Layout(NamedTuple):
    """Which record stands where in one update. All [R, M]; EMPTY where a slot is not used, in all three."""

    record: np.ndarray  # int64
    copy: np.ndarray  # int64, see `order.Items`
    epoch: np.ndarray  # int64

    def rows(self, start: int, stop: int) -> Layout:
        """Some of the rows."""
        return Layout(*(column[start:stop] for column in self))


class Plan:
    """The rows of every update: `plan.update(k) -> Layout`. Pickles, and is safe to read from several threads.

    Args:
      order, lengths: of the mixture.
      records_per_update: N.
      updates: of the whole run, so that the last window ends with it; 0: without end.
      shape: R, T, M and S.
      window: updates that share out their records by length.
    """

    def __init__(
        self, order: Order, lengths: Lengths, records_per_update: int, updates: int, shape: Shape, window: int = 1
    ) -> None:
        self.order, self.shape, self.window = order, shape, window
        self.records_per_update, self.updates = records_per_update, updates
        self._lengths = lengths
        self.tokens = np.ascontiguousarray(lengths.tokens, np.int32)
        self.supervised = np.ascontiguousarray(lengths.supervised, np.int32)
        if not len(self.tokens) == len(self.supervised) == order.records:
            raise ExpllmError(
                f"there are lengths of {len(self.tokens)} records, but {order.records} records in the mixture",
                "open the sets again",
            )
        self._windows: dict[int, Items] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return Plan, (self.order, self._lengths, self.records_per_update, self.updates,
                      self.shape, self.window)  # fmt: skip

    def update(self, number: int) -> Layout:
        """The layout of update `number`, counted from 0.

        Raises ExpllmError if its records do not fit into the rows.
        """
        items, shape = self.items(number), self.shape
        row, tokens, supervised = self._pack(items, shape.rows, shape.pictures)
        if tokens > shape.row_length or supervised > shape.supervised:
            raise ExpllmError(
                f"the fullest of the {shape.rows} rows of update {number + 1} has {tokens} tokens, and a row has up "
                f"to {supervised} supervised ones; there is room for {shape.row_length} and {shape.supervised}",
                "set packing.rows or packing.row_length higher, or to 0",
            )
        return _laid_out(items, row, shape)

    def items(self, number: int) -> Items:
        """The N records of update `number`."""
        window, place = divmod(number, self.window)
        with self._lock:
            if window not in self._windows:
                self._windows[window] = self._deal(window)
                while len(self._windows) > _KEPT:
                    del self._windows[next(iter(self._windows))]
            dealt = self._windows[window]
        count = self.records_per_update
        return Items(*(column[place * count : (place + 1) * count] for column in dealt))

    def fullest(self, number: int, rows: int, pictures: int) -> tuple[int, int]:
        """The tokens of the fullest row of update `number`, and the supervised tokens of the one that has most, with
        any number of rows and slots."""
        return self._pack(self.items(number), rows, pictures)[1:]

    def fill(self, updates: int) -> tuple[float, float]:
        """Mean share of tokens and of picture slots in use, over the first `updates` updates."""
        room = updates * self.shape.rows
        slots = room * self.shape.pictures
        return self.total_tokens(updates) / (room * self.shape.row_length), updates * self.records_per_update / slots

    def total_tokens(self, updates: int) -> int:
        """Tokens of all records of the first `updates` updates."""
        stop = updates * self.records_per_update
        return sum(
            int(self.tokens[self.order.items(start, min(start + _CHUNK, stop)).record].sum(dtype=np.int64))
            for start in range(0, stop, _CHUNK)
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that the plan is a function of."""
        return self._hash({**self._stream(), **self.shape._asdict()}, self.tokens, self.supervised)

    @property
    def stream_fingerprint(self) -> str:
        """SHA-256 (hex) of all that decides which records each update takes, in whatever rows."""
        return self._hash(self._stream(), *([self.tokens] if self.window > 1 else []))

    def save(self, path: str | Path, updates: int) -> None:
        """Writes the first `updates` updates as an `.npz`: `record`, `copy`, `epoch` int32 [updates, R, M], and
        `described`, the JSON of what they follow from, with the fingerprint.

        Segments and positions follow from the module's rule and the records. Raises ExpllmError if it cannot be
        written.
        """
        layouts = [self.update(number) for number in range(updates)]
        columns = {
            name: np.stack([getattr(layout, name) for layout in layouts]).astype(np.int32) for name in Layout._fields
        }
        described = {**self._stream(), **self.shape._asdict(), "fingerprint": self.fingerprint}
        path = Path(path)
        try:
            with unfinished(path) as partial, partial.open("xb") as file:
                np.savez_compressed(file, described=json.dumps(described, sort_keys=True), **columns)
        except OSError as error:
            raise ExpllmError(
                f"the plan cannot be written to {path} ({error.strerror})", "choose a folder that can be written"
            ) from error

    def _hash(self, described: dict[str, object], *columns: np.ndarray) -> str:
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        for column in columns:
            digest.update(column.astype("<i4").tobytes())
        return digest.hexdigest()

    def _stream(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "seed": self.order.seed,
            "shuffle": self.order.shuffle,
            "parts": [asdict(part) for part in self.order.parts],
            "records_per_update": self.records_per_update,
            "updates": self.updates,
            "window": self.window,
        }

    def _deal(self, window: int) -> Items:
        """The items of a window's updates, N for each, one update behind the other."""
        first = window * self.window
        updates = min(self.window, self.updates - first) if self.updates else self.window
        items = self.order.items(first * self.records_per_update, (first + updates) * self.records_per_update)
        if updates <= 1:
            return items
        # Like cards, longest first, one to every update, and back again: differences cancel in every second round.
        by_length = np.argsort(-self.tokens[items.record], kind="stable").reshape(-1, updates)
        by_length[1::2] = by_length[1::2, ::-1]
        dealt = np.sort(by_length, axis=0).T.reshape(-1)  # within an update, the stream's order
        return Items(*(column[dealt] for column in items))

    def _pack(self, items: Items, rows: int, pictures: int) -> tuple[np.ndarray, int, int]:
        return _longest_first(self.tokens[items.record], self.supervised[items.record], rows, pictures)


def one_a_row(
    order: Order, lengths: Lengths, records_per_update: int, row_length: int, *, updates: int = 0, supervised: int = 0
) -> Plan:
    """The plan without packing: record k of an update is row k. `supervised` 0 takes the most that any record has."""
    shape = Shape(records_per_update, row_length, 1, supervised or int(np.max(lengths.supervised, initial=0)))
    return Plan(order, lengths, records_per_update, updates, shape)


def _laid_out(items: Items, row: np.ndarray, shape: Shape) -> Layout:
    """[R, M] arrays of items whose rows are known; within a row they keep the stream's order."""
    by_row = np.argsort(row, kind="stable")
    placed = row[by_row]
    first = np.searchsorted(placed, np.arange(shape.rows))
    slot = np.arange(len(row)) - first[placed]
    columns = []
    for column in items:
        out = np.full((shape.rows, shape.pictures), EMPTY, np.int64)
        out[placed, slot] = column[by_row]
        columns.append(out)
    return Layout(*columns)


@njit(cache=True, nogil=True)
def _longest_first(tokens: np.ndarray, supervised: np.ndarray, rows: int, pictures: int) -> tuple[np.ndarray, int, int]:
    """Longest first, each to the row with the fewest tokens that has a slot left (of equal ones, the first): the row of
    every record [n], the tokens of the fullest row, and the most supervised tokens of a row. rows x pictures >= n."""
    count = len(tokens)
    row = np.empty(count, np.int64)
    if pictures == 1:
        most_tokens, most_supervised = 0, 0
        for k in range(count):
            row[k] = k  # the stream's order
            most_tokens, most_supervised = max(most_tokens, tokens[k]), max(most_supervised, supervised[k])
        return row, most_tokens, most_supervised
    load = np.zeros(rows, np.int64)
    learnt = np.zeros(rows, np.int64)
    slots = np.full(rows, pictures, np.int64)
    for item in np.argsort(-tokens, kind="mergesort"):
        best = -1
        for k in range(rows):
            if slots[k] > 0 and (best < 0 or load[k] < load[best]):
                best = k
        row[item] = best
        load[best] += tokens[item]
        slots[best] -= 1
    _exchange(tokens, row, load)
    for item in range(count):
        learnt[row[item]] += supervised[item]
    return row, load.max(), learnt.max()


@njit(cache=True, nogil=True)
def _exchange(tokens: np.ndarray, row: np.ndarray, load: np.ndarray) -> None:
    """Lowers the fullest row, in place, by exchanging one of its records for a shorter one of another row, as long as
    the fuller of the two rows gets emptier by it."""
    for _ in range(_EXCHANGES):
        fullest = np.argmax(load)
        lowest, mine, theirs = load[fullest], -1, -1
        for i in range(len(row)):
            if row[i] != fullest:
                continue
            for j in range(len(row)):
                gain = tokens[i] - tokens[j]
                if row[j] != fullest and gain > 0:
                    after = max(load[fullest] - gain, load[row[j]] + gain)
                    if after < lowest:
                        lowest, mine, theirs = after, i, j
        if mine < 0:
            return
        gain = tokens[mine] - tokens[theirs]
        load[fullest] -= gain
        load[row[theirs]] += gain
        row[mine], row[theirs] = row[theirs], row[mine]
