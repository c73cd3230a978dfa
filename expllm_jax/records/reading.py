"""Records off the disk, by number, with every byte checked before it is believed."""

from __future__ import annotations

import bisect
import difflib
import hashlib
import itertools
import os
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from expllm_jax.errors import ExpllmError
from expllm_jax.records.encode import Record, RecordEncoder
from expllm_jax.records.examples import StoredRecord
from expllm_jax.records.index import Lengths, SplitIndex, file_sha256, ids_path
from expllm_jax.records.manifest import Manifest, ShardFile
from expllm_jax.records.rows import EncodedRow
from expllm_jax.records.shards import ON_ERROR, ShardReader
from expllm_jax.records.writing import stored_encoder

_LOOKS = 64  # files whose sizes are asked for at a time

_AGAIN = "fetch or build the records again, or go on without what is damaged (--on-error skip)"


class CorruptRecord(ExpllmError):
    """A record whose bytes are not those that were written. `index` is its number in the split, `id` its id."""

    def __init__(self, index: int, id: str, reason: str, where: str) -> None:
        super().__init__(f"{where}: record {index} ({id}) is damaged: {reason}", _AGAIN)
        self.index, self.id, self.reason, self.where = index, id, reason, where

    def __reduce__(self) -> tuple:
        return CorruptRecord, (self.index, self.id, self.reason, self.where)


@dataclass(frozen=True)
class SkippedRecord:
    """A damaged record that was passed over."""

    index: int
    id: str
    reason: str


class RecordSource:
    """Random access to the records of one split: `source[i] -> Record`, or its parts, `row(i)`, `picture(i)`, `id(i)`
    and `located(i)`. `lengths` is known without reading a record; `pad_token` and `longest_row` (tokens, id) are what
    the pipeline needs to know.

    Safe to read from several threads, and from processes that got it pickled: files are opened by whoever reads. The
    parts of a record that a thread asks for one after another are parsed once.

    A damaged record raises CorruptRecord. With on_error "skip" `source[i]` is None instead, its parts still raise, and
    `skipped` lists it (as this process has met it).
    """

    def __init__(
        self, folder: Path, split: str, manifest: Manifest, *, keep_rows: bool = False, on_error: str = "raise",
        check: bool = True,
    ) -> None:  # fmt: skip
        summary = manifest.splits[split]
        self.folder, self.split, self.manifest, self.on_error = folder, split, manifest, on_error
        self.pad_token = manifest.pad_token
        self.mirrors, self.resize = manifest.encoding.mirror, manifest.encoding.resize
        self.longest_row = (summary.longest_row, summary.longest_id)
        self._records = summary.records
        self._shards = [shard for shard in summary.shards if shard.records]
        self._ends = list(itertools.accumulate(shard.records for shard in self._shards))
        self._index = SplitIndex(folder, split, summary.records, sha256=summary.index_sha256 if check else "")
        self._keep_rows = keep_rows
        self._rows: dict[tuple[int, bool], EncodedRow] = {}
        self._readers: dict[int, ShardReader] = {}  # by shard, the one opened first first
        self._most_open = _most_open()
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._last = threading.local()
        self._damaged: dict[int, str] = {}  # shard → what is wrong with its file
        self._skipped: dict[int, SkippedRecord] = {}
        self._check_files()

    def __len__(self) -> int:
        return self._records

    def __getitem__(self, index: int) -> Record | None:
        try:
            return self._stored(index).record()
        except CorruptRecord:
            if self.on_error == "skip":
                return None
            raise

    def __iter__(self) -> Iterator[Record | None]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple:
        return _reopened, (self.folder, self.split, self.manifest, self._keep_rows, self.on_error)

    def row(self, index: int, mirrored: bool = False) -> EncodedRow:
        """The encoded row of record `index`, or that of its mirrored picture. Raises CorruptRecord."""
        row = self._rows.get((index, mirrored))
        if row is None:
            stored = self._stored(index)
            row = (stored.mirrored if mirrored else None) or stored.row
            if self._keep_rows:
                self._rows[index, mirrored] = row
        return row

    def picture(self, index: int) -> bytes:
        """The encoded picture of record `index`. Raises CorruptRecord."""
        return self._stored(index).picture

    def id(self, index: int) -> str:
        """The id of record `index`, from the index."""
        return self._index.id(self._checked(index))

    def located(self, index: int) -> bool:
        """Whether the row of record `index` states coordinates, from the index."""
        return bool(self._index.entries["located"][self._checked(index)])

    @cached_property
    def lengths(self) -> Lengths:
        """Tokens and supervised tokens of every record, from the index."""
        return self._index.lengths()

    @property
    def skipped(self) -> tuple[SkippedRecord, ...]:
        """The damaged records met so far, each once, in order; with on_error "skip"."""
        with self._lock:
            return tuple(self._skipped[index] for index in sorted(self._skipped))

    def content(self, index: int) -> bytes:
        """The stored bytes of record `index` (see `records.examples`), checked. Raises CorruptRecord."""
        index = self._checked(index)
        number = bisect.bisect_right(self._ends, index)
        shard = self._shards[number]
        try:
            if number in self._damaged:
                raise OSError(self._damaged[number])
            position = index - self._ends[number] + shard.records
            return self._reader(number).read(position, int(self._index.entries["crc32"][index]))
        except OSError as error:
            reason = str(error)
            if self.on_error == "skip":
                self._skip(index, reason)
            raise CorruptRecord(index, self.id(index), reason, str(self.folder / shard.name)) from error

    def _checked(self, index: int) -> int:
        if not 0 <= index < self._records:
            raise IndexError(f"record {index} of {self._records}")
        return int(index)

    def _check_files(self) -> None:
        """Finds files that are missing or cut off, before anything is read."""
        # Side by side: in a mounted bucket each look takes long, and a large set has thousands of shards.
        with ThreadPoolExecutor(_LOOKS) as threads:
            problems = list(threads.map(self._file_problem, self._shards))
        for number, (shard, problem) in enumerate(zip(self._shards, problems, strict=True)):
            if not problem:
                continue
            if self.on_error != "skip":
                raise ExpllmError(f"{self.folder / shard.name} {problem}", _AGAIN)
            self._damaged[number] = f"{shard.name} {problem}"
            for index in range(self._ends[number] - shard.records, self._ends[number]):
                self._skip(index, self._damaged[number])

    def _file_problem(self, shard: ShardFile) -> str:
        """What is wrong with the size of a shard's file; "" if nothing."""
        try:
            found = (self.folder / shard.name).stat().st_size
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        return "" if found == shard.bytes else f"has {found:,} bytes, the manifest says {shard.bytes:,}"

    def _stored(self, index: int) -> StoredRecord:
        index = self._checked(index)
        if getattr(self._last, "index", None) != index:
            self._last.stored = StoredRecord(self.content(index))
            self._last.index = index
        return self._last.stored

    def _reader(self, number: int) -> ShardReader:
        if self._process != os.getpid():  # forked: a reader's threads did not come along
            with self._lock:
                self._readers, self._process = {}, os.getpid()
        reader = self._readers.get(number)
        if reader is None:
            with self._lock:
                reader = self._readers.get(number)
                if reader is None:
                    if len(self._readers) >= self._most_open:  # closed by the last thread that still reads from it
                        del self._readers[next(iter(self._readers))]
                    reader = self._readers[number] = ShardReader(self.folder / self._shards[number].name)
        return reader

    def _skip(self, index: int, reason: str) -> None:
        with self._lock:
            if index not in self._skipped:
                self._skipped[index] = SkippedRecord(index, self.id(index), reason)


def _most_open() -> int:
    """Readers that may be open at a time, each of which holds a file: half of what the process may hold."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2**16 if files == resource.RLIM_INFINITY else max(16, files // 2)


def _reopened(folder: Path, split: str, manifest: Manifest, keep_rows: bool, on_error: str) -> RecordSource:
    """In another process; the hash of the index was checked where the source was opened."""
    return RecordSource(folder, split, manifest, keep_rows=keep_rows, on_error=on_error, check=False)


def open_records(folder: str | Path, split: str, *, keep_rows: bool = False, on_error: str = "raise") -> RecordSource:
    """Opens one split of a records folder.

    Args:
      folder: the records folder.
      split: which split.
      keep_rows: holds every row in memory once it has been read (16 bytes a token), which takes the disk and the
        parsing out of training on cached features.
      on_error: "raise" or "skip"; see RecordSource.

    Raises:
      ExpllmError: for a folder without records, of another format, or with a manifest or index that has changed; an
        unknown split, naming the nearest; with "raise", for a file of records that is missing or cut off.
    """
    if on_error not in ON_ERROR:
        raise ExpllmError(f"on_error is {on_error!r}", f"use one of: {', '.join(ON_ERROR)}")
    manifest = Manifest.read(folder)
    if split not in manifest.splits:
        nearest = difflib.get_close_matches(split, manifest.splits, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ExpllmError(f"{folder} has no split {split!r}", f"{hint}it has: {', '.join(manifest.splits)}")
    return RecordSource(Path(folder), split, manifest, keep_rows=keep_rows, on_error=on_error)


def open_encoder(folder: str | Path) -> RecordEncoder:
    """The encoder that the folder's rows were made with, from the template and tokenizer stored there.

    Raises ExpllmError if either is missing or is not the one the manifest names.
    """
    manifest = Manifest.read(folder)
    encoder = stored_encoder(Path(folder), manifest.tokenizer_file, manifest.encoding)
    manifest.check_encoder(encoder, folder)
    return encoder


def verify_records(folder: str | Path, *, report: Callable[[int, int], None] | None = None) -> Manifest:
    """Reads every byte and compares it with the manifest's hashes; several files at a time. `report` is told (records
    done, records in all).

    Raises ExpllmError naming the first file that differs, and the record in it if it is one.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    open_encoder(folder)
    total, done = sum(summary.records for summary in manifest.splits.values()), 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for split, summary in manifest.splits.items():
            source = open_records(folder, split)
            if file_sha256(ids_path(folder, split)) != summary.ids_sha256:
                raise ExpllmError(f"{ids_path(folder, split)} differs from the manifest", "build the records again")
            starts = itertools.accumulate((shard.records for shard in summary.shards), initial=0)
            digest = hashlib.sha256()
            for digests in threads.map(_verified, itertools.repeat(source), summary.shards, starts):
                digest.update(digests)
                done += len(digests) // hashlib.sha256().digest_size
                if report is not None:
                    report(done, total)
            if digest.hexdigest() != summary.sha256:
                raise ExpllmError(f"{folder}: split {split!r} differs from the manifest", "build the records again")
    return manifest


def _verified(source: RecordSource, shard: ShardFile, start: int) -> bytes:
    """The SHA-256 of every record of `shard`, whose first is record `start` of the split."""
    path, digests = source.folder / shard.name, bytearray()
    for index in range(start, start + shard.records):
        digests += hashlib.sha256(source.content(index)).digest()
    try:
        whole = file_sha256(path) == shard.sha256
    except OSError as error:
        raise ExpllmError(f"{path} cannot be read ({error.strerror})", "fetch or build the records again") from error
    if not whole:
        raise ExpllmError(
            f"{path} differs from the manifest, though its records can be read", "fetch or build the records again"
        )
    return bytes(digests)
