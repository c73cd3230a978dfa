"""Delimited text, one row a line: opened, checked and streamed once."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from expllm_jax.errors import ExpllmError
from expllm_jax.sources.dataset import Problems

BLANKS = " "
"""The delimiter of tables whose columns stand apart by blanks or tabs; their first column may itself hold blanks."""


@dataclass(frozen=True)
class Table:
    """How to read a table. Line ends of any system and a byte order mark are fine; text is UTF-8.

    ``columns`` are all columns in their order, or, where the first line is a header, those that must be in it.
    """

    columns: tuple[str, ...]
    header: bool = False
    delimiter: str = ","
    skipped_lines: int = 0  # before the header, or before the first row

    def rows(self, path: Path, problems: Problems) -> Iterator[tuple[int, dict[str, str]]]:
        """Line number and cells (stripped, by column name) of every row; blank lines do not count.

        ``problems`` hears of a file that is missing, empty or no such table, and of rows with too few or too many
        cells, with file and line.
        """
        line, found = 0, False
        try:
            with path.open(encoding="utf-8-sig", newline="") as text:
                columns = None if self.header else self.columns
                for line, cells in self._cells(text):
                    if line <= self.skipped_lines:
                        continue
                    if columns is None:
                        columns = self._header(cells)
                    elif len(cells) != len(columns):
                        problems(_uneven(path, line, len(cells), len(columns)))
                    else:
                        found = True
                        yield line, dict(zip(columns, map(str.strip, cells), strict=True))
        except FileNotFoundError:
            problems(ExpllmError(f"There is no label file {path}.", "Put it there, or read another split."))
        except OSError as error:
            problems(ExpllmError(f"Cannot read {path}: {error.strerror}.", "Check the path and its rights."))
        except UnicodeDecodeError:
            problems(ExpllmError(f"{path} is not UTF-8 text, after line {line}.", "Save it as UTF-8."))
        except csv.Error as error:
            problems(ExpllmError(f"{path}, after line {line}: {error}.", "Mend the quotation marks of that line."))
        except _HeaderError as error:
            problems(ExpllmError(f"{path}, line {line}: {error}", "Name the columns in the first line."))
        else:
            if not found:
                problems(ExpllmError(f"{path} holds no rows.", "Restore the file."))

    def _cells(self, text: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
        if self.delimiter == BLANKS:
            apart = 0 if self.header else len(self.columns) - 1
            for line, row in enumerate(text, start=1):
                # From the right, so that only the first column may hold blanks.
                if cells := row.rsplit(None, apart) if apart else row.split():
                    yield line, cells
        else:
            reader = csv.reader(text, delimiter=self.delimiter, strict=True)
            for cells in reader:
                if cells and any(cells):
                    yield reader.line_num, cells

    def _header(self, cells: list[str]) -> tuple[str, ...]:
        names = tuple(cell.strip() for cell in cells)
        missing = [name for name in self.columns if name not in names]
        if missing:
            raise _HeaderError(f"no column {missing[0]!r} among {', '.join(map(repr, names))}.")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _HeaderError(f"two columns are called {twice!r}.")
        return names


class _HeaderError(Exception):
    """A header that does not belong to the table."""


def _uneven(path: Path, line: int, has: int, expected: int) -> ExpllmError:
    return ExpllmError(f"{path}, line {line}: {has} cells where {expected} belong.", "Mend the line.")
