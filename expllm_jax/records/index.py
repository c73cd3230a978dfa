"""Beside a split's shards: a few numbers and the id of every record, so that nobody reads records to plan with them.

`SPLIT.index.npy` is one structured array, a line a record; `SPLIT.ids.txt` holds the ids, a line each. Both are mapped
into memory, not read: ten million records open as fast as ten.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from expllm_jax.errors import ExpllmError

ENTRY = np.dtype(
    [
        ("tokens", "<i4"),  # of the row or the mirrored row, whichever is longer
        ("supervised", "<i4"),  # tokens with a loss, likewise
        ("crc32", "<u4"),  # of the record's bytes
        ("located", "?"),  # the row states coordinates
        ("id_end", "<i8"),  # where the id ends in the file of ids, in bytes, without the line end
    ]
)


@dataclass(frozen=True)
class Lengths:
    """What packing plans from: arrays [R] over the records of a split."""

    tokens: np.ndarray  # int32, of the row or the mirrored row, whichever is longer
    supervised: np.ndarray  # int32, tokens with a loss, likewise
    located: np.ndarray  # bool, the row states coordinates


class SplitIndex:
    """The index of one split, open for reading.

    Raises ExpllmError if a file is missing or is not for `records` records, or, given its hash, has changed.
    """

    def __init__(self, folder: Path, split: str, records: int, *, sha256: str = "") -> None:
        path = _index_path(folder, split)
        try:
            if sha256 and file_sha256(path) != sha256:
                raise ExpllmError(f"{path} differs from the manifest", "build the records again")
            self.entries = np.load(path, mmap_mode="r", allow_pickle=False)
            self._ids = _mapped(ids_path(folder, split))
        except (OSError, ValueError) as error:
            raise ExpllmError(
                f"{path} or the ids beside it cannot be read ({error})", "build the records again"
            ) from error
        ends = self.entries["id_end"] if self.entries.dtype == ENTRY and self.entries.shape == (records,) else None
        if ends is None or (records and int(ends[-1]) + 1 != len(self._ids)):
            raise ExpllmError(f"{path} and the ids beside it are not of {records} records", "build the records again")

    def id(self, index: int) -> str:
        """The id of record `index`."""
        ends = self.entries["id_end"]
        start = int(ends[index - 1]) + 1 if index else 0
        return self._ids[start : int(ends[index])].decode()

    def lengths(self) -> Lengths:
        """The lengths, copied into memory."""
        return Lengths(*(np.ascontiguousarray(self.entries[name]) for name in ("tokens", "supervised", "located")))


def write_index(folder: Path, split: str, entries: np.ndarray, ids: Sequence[str]) -> tuple[str, str]:
    """Writes both files and returns their SHA-256 (index, ids). `entries` [R] are of ENTRY; their `id_end` is set."""
    lines = [id.encode() for id in ids]
    entries["id_end"] = np.fromiter(itertools.accumulate(len(line) + 1 for line in lines), np.int64, len(lines)) - 1
    np.save(_index_path(folder, split), entries, allow_pickle=False)
    ids_path(folder, split).write_bytes(b"".join(line + b"\n" for line in lines))
    return file_sha256(_index_path(folder, split)), file_sha256(ids_path(folder, split))


def ids_path(folder: Path, split: str) -> Path:
    return folder / f"{split}.ids.txt"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _index_path(folder: Path, split: str) -> Path:
    return folder / f"{split}.index.npy"


def _mapped(path: Path) -> bytes | mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
