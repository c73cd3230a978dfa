"""How many things go through the model at a time, in few different numbers, since each is compiled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

LENGTH_STEP = 32
"""Lengths are rounded up to multiples of this."""

_MOST = 16  # a CPU is as busy with one prompt as with many; accelerators are with this many


def passes(items: Sequence[T], unit: int = 1) -> Iterator[tuple[Sequence[T], int]]:
    """Parts of `items`, each with the number of rows of its pass: `unit` times 1, 4 or 16, and never fewer than items.

    With a unit of 1 no row is left empty.
    """
    start = 0
    while start < len(items):
        size = unit
        while size * 4 <= min(len(items) - start, _MOST * unit):
            size *= 4
        yield items[start : start + size], size
        start += size


def rounded(length: int) -> int:
    """The length that a pass is compiled for."""
    return -(-length // LENGTH_STEP) * LENGTH_STEP
