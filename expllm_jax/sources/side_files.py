"""More columns for a row, from files beside the label table: one file a picture, or one table for all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from posixpath import dirname, join
from typing import Protocol

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.sources.columns import Row
from expllm_jax.sources.dataset import Reading
from expllm_jax.sources.listing import Listing
from expllm_jax.sources.table import Table


class MoreColumns(Protocol):
    """Where further columns come from."""

    def open(self, reading: Reading, base: str, listing: Listing, used: set[str]) -> Callable[[Row], Row]:
        """A function from a row to its further columns; it raises ExpllmError for a row that has none.

        Files that belong to single rows are noted in ``used``.
        """


class FurtherColumns:
    """All that stands beside the labels, opened: gives rows their further columns."""

    def __init__(self, beside: tuple[MoreColumns, ...], reading: Reading, base: str, listing: Listing) -> None:
        self._listing = listing
        self._used: set[str] = set()
        self._sources = [more.open(reading, base, listing, self._used) for more in beside]

    def __call__(self, row: Row) -> Row:
        """The row with its further columns.

        Raises:
            ExpllmError: they are missing or damaged.
        """
        for source in self._sources:
            row = {**row, **source(row)}
        return row

    def unused(self) -> list[str]:
        """Files beside those that were used, which no row asked for."""
        beside = sorted({dirname(path) for path in self._used})
        files = (join(folder, name) for folder in beside for name in sorted(self._listing.files(folder)))
        return [path for path in files if path not in self._used]


@dataclass(frozen=True)
class SideFile:
    """One small file for every picture.

    Where the whole folder is absent there are no such columns at all (a copy without annotations beside the labels),
    and readers of `optional` columns find empty cells.
    """

    path: Callable[[Row], str]  # of a row, relative to the base
    columns: tuple[str, ...]
    read: Callable[[Path], Mapping[str, str]]  # raises ValueError for a file of another shape
    optional: bool = False

    def open(self, reading: Reading, base: str, listing: Listing, used: set[str]) -> Callable[[Row], Row]:
        """See `MoreColumns`."""
        empty = dict.fromkeys(self.columns, "")

        def more(row: Row) -> Row:
            path = join(base, self.path(row))
            if not listing.has(path):
                if self.optional and not listing.files(dirname(path)):
                    return empty
                raise ExpllmError(f"there is no {reading.root / path}.", "Restore the file.")
            used.add(path)
            try:
                return self.read(reading.root / path)
            except (OSError, ValueError) as error:
                raise ExpllmError(f"{reading.root / path}: {error}", "Restore the file.") from error

        return more


@dataclass(frozen=True)
class JoinedTable:
    """A second table with a line for every picture, held in memory while the first one streams."""

    file: str  # relative to the base
    table: Table
    key: Callable[[Row], str]  # of a row of the joined table; equal to `of` of the row that it belongs to
    of: Callable[[Row], str]  # of a row of the label table

    def open(self, reading: Reading, base: str, listing: Listing, used: set[str]) -> Callable[[Row], Row]:
        """See `MoreColumns`."""
        path = reading.root / base / self.file
        columns: tuple[str, ...] = self.table.columns
        cells: dict[str, tuple[str, ...]] = {}
        for line, row in self.table.rows(path, reading.problems):
            key = self.key(row)
            if key in cells:
                reading.problems(ExpllmError(f"{path}, line {line}: a second line for {key}.", "Keep one of the two."))
            columns = tuple(row)
            # Codes repeat a million times in such tables; one copy of each is enough.
            cells[key] = tuple(sys.intern(cell) if len(cell) < 5 else cell for cell in row.values())

        def more(row: Row) -> Row:
            key = self.of(row)
            if key not in cells:
                raise ExpllmError(f"{path} has no line for {key}.", "Restore the line.")
            return dict(zip(columns, cells[key], strict=True))

        return more


def read_array(column: str, separator: str = ";") -> Callable[[Path], Mapping[str, str]]:
    """A reader of .npy files with a number, a number as text, or a row of numbers. Pickled objects are refused."""

    def read(path: Path) -> Mapping[str, str]:
        with path.open("rb") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
        return {column: separator.join(_as_text(value) for value in values.ravel().tolist())}

    return read


def _as_text(value: object) -> str:
    # 3.0 is the label 3.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def numbered_lines(columns: tuple[str, ...]) -> Callable[[Path], Mapping[str, str]]:
    """A reader of text files where each line is one column."""

    def read(path: Path) -> Mapping[str, str]:
        lines = [line.strip() for line in _lines(path)]
        if len(lines) != len(columns):
            raise ValueError(f"{len(lines)} lines where {len(columns)} belong.")
        return dict(zip(columns, lines, strict=True))

    return read


def _lines(path: Path) -> Iterator[str]:
    return (line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
