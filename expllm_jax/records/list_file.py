"""List files: which annotation sets make up an epoch, and how often each comes.

The released code mixes its data by them (`data_list/train/*.txt`): one set a line, three fields with commas between::

    annotations.json,folder/of/pictures,repeat

`repeat` 1 or more takes the whole set int(repeat) times, so 2.7 is twice; below 1 it takes a random part, int(records x
repeat) of them. Without a third field the set comes once. ExpLLM's 3 : 1 of labels to texts on RAF-DB is one line with
3 and one with 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.records.encode import EncodedRow
from expllm_jax.records.pipeline import RowSource


@dataclass(frozen=True)
class ListEntry:
    """One line of a list file."""

    annotations: Path
    pictures: Path
    repeat: float = 1.0  # above 0

    def __post_init__(self) -> None:
        _check_repeat(self.repeat)


def read_list_file(path: str | Path, *, root: str | Path = ".") -> tuple[ListEntry, ...]:
    """The entries of a list file, in order. Empty lines and those that begin with "#" are passed over.

    Args:
      path: the list file.
      root: what relative paths in it start from, as the released code starts from the folder that it is called in.

    Raises:
      ExpllmError: the file cannot be read or lists nothing; or, with file and line, a line has not two or three fields,
        a bad repeat, or names what does not exist.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ExpllmError(f"list file {path} cannot be read ({why})", "check the path") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            entries.append(_entry(line, Path(root)))
        except ExpllmError as error:
            raise ExpllmError(f"{path}, line {number}: {error.problem}", error.remedy) from error
    if not entries:
        raise ExpllmError(f"list file {path} lists nothing", "give it one annotation set a line")
    return tuple(entries)


def repeated(records: int, repeat: float, rng: np.random.Generator) -> np.ndarray:
    """Record indices, int64: all of 0 to `records` - 1 int(repeat) times, or int(records x repeat) drawn without
    replacement if `repeat` is below 1.

    Raises ExpllmError for a repeat that is not above 0, or if nothing is drawn.
    """
    _check_repeat(repeat)
    if repeat >= 1:
        return np.tile(np.arange(records), int(repeat))
    drawn = int(records * repeat)
    if not drawn:
        raise ExpllmError(f"repeat {repeat:g} leaves nothing of {records} records", "use a larger repeat")
    return rng.choice(records, drawn, replace=False)


class RepeatedRows:
    """Several sets of records as one, each as often as its repeat says; what `batches` shuffles anew every epoch.

    Which records a repeat below 1 takes is drawn once, by `seed` and the set's number, as the released code draws when
    it reads the list. `origin` is int64 [len, 2]: the set and the record in it that each row comes from.

    Raises ExpllmError for no sets, sets with different padding, or a bad repeat.
    """

    def __init__(self, sources: Sequence[RowSource], repeats: Sequence[float], *, seed: int = 0) -> None:
        if len({source.pad_token for source in sources}) != 1:
            raise ExpllmError("there are no sets to mix, or they were made with different tokenizers",
                              "encode all sets with the same encoder")  # fmt: skip
        self._sources = tuple(sources)
        self.pad_token = sources[0].pad_token
        self.longest_row = max(source.longest_row for source in sources)
        parts = []
        for number, (source, repeat) in enumerate(zip(sources, repeats, strict=True)):
            records = repeated(len(source), repeat, np.random.default_rng([seed, number]))
            parts.append(np.stack([np.full_like(records, number), records], 1))
        self.origin = np.concatenate(parts)

    def __len__(self) -> int:
        return len(self.origin)

    def row(self, index: int) -> EncodedRow:
        """The encoded row at `index`."""
        number, record = self.origin[index]
        return self._sources[number].row(int(record))

    def picture(self, index: int) -> bytes:
        """Its encoded picture."""
        number, record = self.origin[index]
        return self._sources[number].picture(int(record))


def _entry(line: str, root: Path) -> ListEntry:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) not in (2, 3) or not all(fields):
        raise ExpllmError(f"{line.strip()!r} has not two or three fields", "write: annotations.json,pictures,repeat")
    try:
        repeat = float(fields[2]) if len(fields) == 3 else 1.0
    except ValueError as error:
        raise ExpllmError(f"repeat {fields[2]!r} is no number", "use 3 for three times, 0.2 for a fifth") from error
    annotations, pictures = root / fields[0], root / fields[1]
    for path, there, what in ((annotations, annotations.is_file(), "file"), (pictures, pictures.is_dir(), "folder")):
        if not there:
            raise ExpllmError(f"there is no {what} {path}", "correct the path, or start where it is relative to")
    return ListEntry(annotations, pictures, repeat)


def _check_repeat(repeat: float) -> None:
    if not (math.isfinite(repeat) and repeat > 0):
        raise ExpllmError(f"repeat is {repeat:g}", "use 1 or more for whole copies, or a fraction above 0")
