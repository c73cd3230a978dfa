"""One file of records: written whole with a note of what is in it, and read back with every byte checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from expllm_jax.errors import ExpllmError
from expllm_jax.files import unfinished, write_whole
from expllm_jax.records.encode import Record
from expllm_jax.records.examples import serialised
from expllm_jax.records.index import ENTRY, file_sha256
from expllm_jax.records.manifest import ShardFile, shard_name

ON_ERROR = ("raise", "skip")
"""What may be asked for where a face cannot be encoded, or a stored record is damaged."""

_WRITER_OPTIONS = "group_size:1"  # every record is a chunk of its own, for random access
_READER_OPTIONS = "readahead_buffer_size:0"
_READ_BUFFER = 32768
_DIGEST = 32  # bytes of a SHA-256


@dataclass(frozen=True)
class Skipped:
    """A face that was left out, and why."""

    picture: str  # as its annotation names it
    reason: str  # the kind of thing that is wrong, without names
    problem: str  # what is wrong with this one

    @classmethod
    def of(cls, picture: str, error: ExpllmError) -> Skipped:
        """Reasons are counted, so that what differs from one picture to the next is taken out of them."""
        reason = error.problem.replace(picture, "").strip(" :").partition(" (")[0]
        return cls(picture, re.sub(r"'.*'|\".*\"|\d+", "…", reason), error.problem)


@dataclass(frozen=True, eq=False)
class Shard:
    """What one shard file holds, record by record."""

    file: ShardFile
    content_bytes: int  # of all its records
    entries: np.ndarray  # [R] of index.ENTRY; `id_end` is not set
    ids: tuple[str, ...]
    digests: bytes  # the SHA-256 of every record's bytes, one behind the other
    skipped: tuple[Skipped, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "file": vars(self.file),
            "content_bytes": self.content_bytes,
            "entries": self.entries.tolist(),
            "ids": self.ids,
            "digests": self.digests.hex(),
            "skipped": [vars(skipped) for skipped in self.skipped],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Shard:
        """The shard that a note tells of. Raises ValueError, KeyError or TypeError if it is damaged."""
        entries = np.array([tuple(entry) for entry in fields["entries"]], ENTRY)
        digests = bytes.fromhex(fields["digests"])
        if not len(entries) == len(fields["ids"]) == len(digests) / _DIGEST:
            raise ValueError("it is not of one number of records")
        return cls(
            file=ShardFile(**fields["file"]),
            content_bytes=fields["content_bytes"],
            entries=entries,
            ids=tuple(fields["ids"]),
            digests=digests,
            skipped=tuple(Skipped(**skipped) for skipped in fields["skipped"]),
        )


def write_shard(
    folder: Path, split: str, number: int, records: Iterable[Record], skipped: Iterable[Skipped] = ()
) -> Shard:
    """Writes a split's `number`-th shard, whole or not at all.

    `skipped` is read after the last of `records`, so that whoever makes them may still be adding to it. Raises OSError
    if the file cannot be written, and whatever comes out of `records`.
    """
    path = folder / shard_name(split, number)
    lines, ids, digests, size = [], [], bytearray(), 0
    with unfinished(path) as partial:
        with file_errors():
            writer = array_record_module.ArrayRecordWriter(str(partial), _WRITER_OPTIONS)
        try:
            for record in records:
                content = serialised(record)
                with file_errors():
                    writer.write(content)
                lines.append(_entry(record, content))
                ids.append(record.id)
                digests += hashlib.sha256(content).digest()
                size += len(content)
        finally:
            with file_errors():
                writer.close()
        file = ShardFile(path.name, len(ids), partial.stat().st_size, file_sha256(partial))
    return Shard(file, size, np.array(lines, ENTRY), tuple(ids), bytes(digests), tuple(skipped))


def save_note(path: Path, shard: Shard, fingerprint: str) -> None:
    """Writes down, whole or not at all, that `shard` is finished, and what it was made from. Raises ExpllmError."""
    write_whole(path, json.dumps({"fingerprint": fingerprint, "shard": shard.to_json()}))


def finished_shard(path: Path, folder: Path, fingerprint: str) -> Shard | None:
    """The shard of the note at `path` if it was made from the same things and its file in `folder` is whole."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        if note["fingerprint"] != fingerprint:
            return None
        shard = Shard.from_json(note["shard"])
        return shard if file_sha256(folder / shard.file.name) == shard.file.sha256 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no note, or one that cannot be believed: the shard is made again


class ShardReader:
    """Reads the bytes of one shard's records, by number; several threads may.

    Raises OSError if the file cannot be opened as what it is.
    """

    def __init__(self, path: Path) -> None:
        with file_errors():
            self._reader = array_record_module.ArrayRecordReader(
                str(path), options=_READER_OPTIONS, file_reader_buffer_size=_READ_BUFFER
            )
            self.records = self._reader.num_records()

    def read(self, number: int, crc32: int) -> bytes:
        """The bytes of record `number`. Raises OSError unless they are those that `crc32` was taken of."""
        with file_errors():
            content = self._reader.read([number])[0]
        if zlib.crc32(content) != crc32:
            raise OSError("its bytes are not those that were written (CRC-32)")
        return content


@contextlib.contextmanager
def file_errors() -> Iterator[None]:
    """ArrayRecord reports a full disk or a damaged file as RuntimeError and the like; here it becomes OSError."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError) as error:
        raise OSError(str(error).partition(";")[0].strip()) from error


def _entry(record: Record, content: bytes) -> tuple[int, int, int, bool, int]:
    rows = [row for row in (record.row, record.mirrored) if row is not None]
    tokens = max(len(row) for row in rows)
    supervised = max(int(np.count_nonzero(row.loss_weights)) for row in rows)
    return tokens, supervised, zlib.crc32(content), record.located, 0
