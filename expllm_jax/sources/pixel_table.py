"""FER2013's table holds its pictures as text; here they become files, which is what all readers want."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation, expression_of
from expllm_jax.files import write_whole
from expllm_jax.sources.dataset import Reading, raise_first
from expllm_jax.sources.listing import inside
from expllm_jax.sources.table import Header, Table

SIDE = 48  # pixels; all pictures of FER2013 are square
_PIXELS = Table(("emotion", "pixels", "Usage"), header=Header.YES)
_NAMES = Table(("Usage", "Image name"), header=Header.YES)
FER2013_SPLITS: Mapping[str, str] = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
"""The column "Usage" of FER2013's table and of FERPlus' -> split."""

FERPLUS_TABLE = "fer2013new.csv"
"""What FERPlus calls its table of labels."""

FERPLUS_FOLDERS: Mapping[str, str] = {
    "Training": "FER2013Train",
    "PublicTest": "FER2013Valid",
    "PrivateTest": "FER2013Test",
}
"""The same column -> where FERPlus has the pictures."""


@dataclass(frozen=True)
class PixelTable:
    """Recognises a table of pixels, and says what to do with it; an annotation needs a picture to point to."""

    file: str
    splits: tuple[str, ...] = tuple(FER2013_SPLITS.values())

    @property
    def looks_for(self) -> str:
        """The file that it recognises."""
        return self.file

    def detect(self, root: Path) -> bool:
        """Whether the file is there."""
        return (root / self.file).is_file()

    def read(self, reading: Reading) -> Iterator[Annotation]:
        """Yields nothing.

        Raises:
            ExpllmError: always, with the way out.
        """
        raise ExpllmError(
            f"{reading.root / self.file} holds pictures as text, and no files.",
            f"Write them out once: expllm data unpack {shlex.quote(str(reading.root / self.file))} --out FOLDER",
        )


def write_fer2013_pictures(
    table: Path, out: Path, *, ferplus: Path | None = None, report: Callable[[int], None] = lambda written: None
) -> int:
    """Writes the pictures of fer2013.csv as PNG files and returns how many.

    They go to ``out``/split/expression/number.png, which the dataset "fer2013" reads. With ``ferplus`` (FERPlus' table,
    fer2013new.csv, which has the same rows in the same order) they go where that table names them, for the dataset
    "ferplus"; rows without a name are no faces and are not written. ``report`` is told how many are written.

    Raises:
        ExpllmError: a table is missing or damaged (file and line are named), or the tables do not belong together.
    """
    # A row of pixels is 10 kB; the limit only guards against quotation marks that are never closed.
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 17))
    names = None if ferplus is None else _NAMES.rows(ferplus, raise_first)
    count = 0
    for number, (line, row) in enumerate(_PIXELS.rows(table, raise_first)):
        where = f"{table}, line {line}"
        if row["Usage"] not in FER2013_SPLITS:
            raise ExpllmError(
                f"{where}: column 'Usage' holds {row['Usage']!r}.", f"It holds {' or '.join(FER2013_SPLITS)}."
            )
        if names is None:
            path = f"{FER2013_SPLITS[row['Usage']]}/{_expression(row, where).lower()}/{number:05d}.png"
        else:
            label = next(names, None)
            if label is None or label[1]["Usage"] != row["Usage"]:
                raise ExpllmError(f"{where} has no counterpart in {ferplus}.", "Give the two tables as published.")
            if not label[1]["Image name"]:
                continue
            path = f"{FERPLUS_FOLDERS[row['Usage']]}/{inside(label[1]['Image name'])}"
        _write(out / path, _picture(row, where))
        count += 1
        report(count)
    return count


def _expression(row: Mapping[str, str], where: str) -> str:
    try:
        return expression_of("fer2013", int(row["emotion"]))
    except ValueError:
        raise ExpllmError(f"{where}: column 'emotion' holds {row['emotion']!r}.", "It holds a number.") from None
    except ExpllmError as error:
        raise ExpllmError(f"{where}: {error.problem}", error.remedy) from None


def _picture(row: Mapping[str, str], where: str) -> np.ndarray:
    try:
        return np.array(row["pixels"].split(), dtype=np.uint8).reshape(SIDE, SIDE)
    except (ValueError, OverflowError):
        raise ExpllmError(f"{where}: not {SIDE * SIDE:,} pixels from 0 to 255.", "Restore the file.") from None


def _write(path: Path, pixels: np.ndarray) -> None:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    write_whole(path, encoded.getvalue(), sync=False)
