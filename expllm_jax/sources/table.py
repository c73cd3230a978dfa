"""Delimited text, one row a line: opened, checked and streamed once."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from pathlib import Path

from expllm_jax.errors import ExpllmError
from expllm_jax.sources.dataset import Problems

_DELIMITERS = (",", ";", "\t", "|")

BLANKS = " "
"""The delimiter of tables whose columns stand apart by blanks or tabs; their first column may itself hold blanks."""


class Header(Enum):
    """Whether the first line names the columns."""

    NO = "no"
    YES = "yes"
    SOME = "some"  # some copies have one: it is a header if it names all the columns


@dataclass(frozen=True)
class Table:
    """How to read a table. Line ends of any system and a byte order mark are fine; text is UTF-8.

    ``columns`` are all columns in their order; in a table with a header they may stand in any order, among others.
    ``optional`` columns of a header are empty cells where they are absent.
    """

    columns: tuple[str, ...]
    header: Header = Header.NO
    delimiter: str = ","
    optional: tuple[str, ...] = ()
    closed: bool = False  # any other column in a header is a mistake
    skipped_lines: int = 0  # before the header, or before the first row

    def rows(self, path: Path, problems: Problems) -> Iterator[tuple[int, dict[str, str]]]:
        """Line number and cells (stripped, by column name) of every row; blank lines do not count.

        ``problems`` hears of a file that is missing, empty or no such table, and of rows with too few or too many
        cells, with file and line.
        """
        line, found = 0, False
        columns: tuple[str, ...] = ()
        absent: dict[str, str] = {}
        try:
            with path.open(encoding="utf-8-sig", newline="") as text:
                for line, cells in self._cells(text):
                    if line <= self.skipped_lines:
                        continue
                    if not columns:
                        columns = self._columns(cells)
                        absent = {name: "" for name in self.optional if name not in columns}
                        if self._is_header(cells):
                            continue
                    if len(cells) != len(columns):
                        problems(_uneven(path, line, len(cells), len(columns)))
                    else:
                        found = True
                        yield line, {**absent, **dict(zip(columns, map(str.strip, cells), strict=True))}
        except FileNotFoundError:
            problems(ExpllmError(f"There is no label file {path}.", "Put it there, or read another split."))
        except OSError as error:
            problems(ExpllmError(f"Cannot read {path}: {error.strerror}.", "Check the path and its rights."))
        except UnicodeDecodeError:
            problems(_not_utf8(path))
        except csv.Error as error:
            problems(ExpllmError(f"{path}, after line {line}: {error}.", "Mend the quotation marks of the next line."))
        except _HeaderError as error:
            problems(ExpllmError(f"{path}, line {line}: {error}", "The first line names the columns."))
        else:
            if not found:
                problems(ExpllmError(f"{path} holds no rows.", "Restore the file."))

    def _cells(self, text: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
        if self.delimiter == BLANKS:
            apart = len(self.columns) - 1 if self.header is Header.NO else 0
            for line, row in enumerate(text, start=1):
                # From the right, so that only the first column may hold blanks.
                if cells := row.rsplit(None, apart) if apart else row.split():
                    yield line, cells
        else:
            reader = csv.reader(text, delimiter=self.delimiter, strict=True)
            for cells in reader:
                if cells and any(cells):
                    yield reader.line_num, cells

    def _is_header(self, cells: list[str]) -> bool:
        if self.header is Header.SOME:
            return {cell.strip() for cell in cells} >= set(self.columns)
        return self.header is Header.YES

    def _columns(self, cells: list[str]) -> tuple[str, ...]:
        """The names of the columns, given the first line."""
        if not self._is_header(cells):
            return self.columns
        names = tuple(cell.strip() for cell in cells)
        missing = [name for name in self.columns if name not in names]
        if missing:
            other = next((mark for mark in _DELIMITERS if mark != self.delimiter and mark in cells[0]), None)
            apart = f" The cells are to be apart by {self.delimiter!r}, and not by {other!r}." if other else ""
            raise _HeaderError(f"no column {missing[0]!r} among {', '.join(map(repr, names))}.{apart}")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _HeaderError(f"two columns are called {twice!r}.")
        known = self.columns + self.optional
        others = [name for name in names if name not in known] if self.closed else []
        if others:
            nearest = get_close_matches(others[0], known, n=1)
            hint = f" did you mean {nearest[0]!r}?" if nearest else ""
            raise _HeaderError(f"no column is called {others[0]!r};{hint or ' it has ' + ', '.join(known) + '.'}")
        return names


class _HeaderError(Exception):
    """A header that does not belong to the table."""


def _not_utf8(path: Path) -> ExpllmError:
    """Which line of a file is to blame; text is decoded in pieces, so that whoever read it cannot say."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte = f"0x{line[error.start]:02x}"
                return ExpllmError(f"{path}, line {number}: not UTF-8 text (byte {byte}).", "Save the file as UTF-8.")
    return ExpllmError(f"{path} is not UTF-8 text.", "Save it as UTF-8.")


def _uneven(path: Path, line: int, has: int, expected: int) -> ExpllmError:
    return ExpllmError(f"{path}, line {line}: {has} cells where {expected} belong.", "Mend the line.")
