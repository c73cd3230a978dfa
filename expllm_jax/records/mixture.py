"""Several sets of records as one, each as often as its repeat or weight says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.records.encode import Record
from expllm_jax.records.index import Lengths
from expllm_jax.records.order import Part
from expllm_jax.records.pipeline import RowSource
from expllm_jax.records.rows import EncodedRow


@dataclass(frozen=True)
class MixtureEntry:
    """One line of a mixture: `FOLDER[:SPLIT][*REPEAT]` or `FOLDER[:SPLIT]@WEIGHT`."""

    folder: str
    split: str = "train"
    repeat: float = 1.0
    weight: float = 0.0

    @classmethod
    def parse(cls, text: str) -> MixtureEntry:
        """Reads `records/rafdb`, `records/rafdb:train*3` (three times an epoch) or `records/rafdb@0.75` (a share).

        Raises ExpllmError.
        """
        place, number, amounts = text, "", {}
        for sign, name in (("@", "weight"), ("*", "repeat")):
            if sign in place:
                place, _, number = place.rpartition(sign)
                try:
                    amounts[name] = float(number)
                except ValueError:
                    raise ExpllmError(f"{text!r}: {name} {number!r} is no number", _FORM) from None
        folder, colon, split = place.rpartition(":")
        if not colon:
            folder, split = place, "train"
        if not folder or not split:
            raise ExpllmError(f"{text!r} names no folder or no split", _FORM)
        entry = cls(folder, split, **amounts)
        Part(1 if entry.repeat >= 1 else 10**9, entry.repeat, entry.weight)  # checks the numbers
        return entry


_FORM = "write FOLDER, FOLDER:SPLIT*REPEAT or FOLDER:SPLIT@WEIGHT"


class MixedRows:
    """What `batches` and `train` read of several sets. Record k of the whole is record k - (those of the sets before).

    Args:
      sources: the sets.
      repeats: of each, see `order.Part`.
      weights: of each; empty: the repeats count.

    Raises:
      ExpllmError: no sets, sets with different padding, a bad repeat, or pictures that are resized differently.
    """

    def __init__(self, sources: Sequence[RowSource], repeats: Sequence[float], weights: Sequence[float] = ()) -> None:
        if len({source.pad_token for source in sources}) != 1:
            raise ExpllmError("there are no sets to mix, or they were made with different tokenizers",
                              "encode all sets with the same encoder")  # fmt: skip
        if len(resizes := {source.resize for source in sources}) != 1:
            raise ExpllmError(f"the sets' pictures are resized differently: {', '.join(sorted(resizes))}",
                              "build all sets with the same resize")  # fmt: skip
        self.sources = tuple(sources)
        self.pad_token, self.resize = sources[0].pad_token, sources[0].resize
        self.longest_row = max(source.longest_row for source in sources)
        self.mirrors = all(source.mirrors for source in sources)
        self.on_error = "skip" if any(source.on_error == "skip" for source in sources) else "raise"
        self.parts = tuple(
            Part(len(source), repeat, weight)
            for source, repeat, weight in zip(sources, repeats, weights or [0.0] * len(repeats), strict=True)
        )
        self.lengths = Lengths(
            *(
                np.concatenate([getattr(source.lengths, name) for source in sources])
                for name in ("tokens", "supervised", "located")
            )
        )
        self._starts = np.cumsum([0, *(len(source) for source in sources)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Record:
        source, record = self.place(index)
        return source[record]

    def place(self, index: int) -> tuple[RowSource, int]:
        """The set that record `index` lies in, and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.sources[number], int(index - self._starts[number])

    def row(self, index: int, mirrored: bool = False) -> EncodedRow:
        """The encoded row of record `index`."""
        source, record = self.place(index)
        return source.row(record, mirrored)

    def picture(self, index: int) -> bytes:
        """Its encoded picture."""
        source, record = self.place(index)
        return source.picture(record)

    def id(self, index: int) -> str:
        """Its id, which is unique in its set."""
        source, record = self.place(index)
        return source.id(record)
