"""The frozen tower's tokens of every record, computed once and kept as one array file.

Shape letters: R records, B pictures of a batch, N tokens, D width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TextIO

import jax
import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.parallel import barrier, is_first
from expllm_jax.records import normalise, seen_picture
from expllm_jax.train.progress import Progress

_DTYPE = np.float16
_TOGETHER = 600.0  # seconds that processes which do the same may be apart
_REMEDY = "choose a folder that can be written, on a disk with room"


class PictureSource(Protocol):
    """What features are extracted from: `records.RecordSource`, or anything like it."""

    @property
    def resize(self) -> str: ...  # see `records.RowSource`

    def __len__(self) -> int: ...

    def picture(self, index: int) -> bytes: ...


def extract_features(
    encode: Callable[[np.ndarray], jax.Array],
    source: PictureSource,
    path: str | Path,
    *,
    fingerprint: str,
    batch: int = 16,
    share: tuple[int, int] = (0, 1),
    picture_size: int = 224,
    normalisation: str = "clip",
    stream: TextIO | None = None,
) -> np.ndarray:
    """Runs `encode` over the pictures of all records, in order, unless the file is there with this fingerprint already.

    Several processes call it together: each decodes its share of the pictures, `encode` uses the devices of all and
    gives the tokens of all, and the first one writes.

    Args:
      encode: jitted, pixels float32 [B / count, size, size, 3] (normalised), this process's share of a batch, -> tokens
        [B, N, D] of the whole batch, readable by every process; B is always `batch`.
      source: the records.
      path: the `.npy` file; its `.json` neighbour holds the fingerprint. Written whole or not at all.
      fingerprint: whatever the features depend on: data manifest hash and weights (`checkpoints.params_fingerprint`).
      batch: pictures per call, of all processes; the last one is filled up.
      share: (index, count): which of `count` equal stretches of a batch this process decodes; they divide `batch`.
      picture_size: pixels a side.
      normalisation: "clip" or "imagenet".
      stream: where progress goes; None: stderr.

    Returns:
      float16 [R, N, D], mapped into memory read-only.

    Raises:
      ExpllmError: a picture that cannot be read, features not finite in float16, a folder that cannot be written.
    """
    path = Path(path)
    described = {
        "fingerprint": fingerprint, "records": len(source), "picture_size": picture_size, "resize": source.resize,
        "normalisation": normalisation,
    }  # fmt: skip
    current = _is_current(path, described)
    barrier(f"features looked for: {path.name}", _TOGETHER)  # before the first process writes them
    if current:
        return np.load(path, mmap_mode="r")
    if not len(source):
        raise ExpllmError(f"there are no records to extract features from for {path}", "check the split")
    pictures = _pictures(source, batch, share, picture_size, normalisation)
    if is_first():
        _write(lambda partial: _extract(encode, pictures, len(source), partial, batch, stream), path, described)
    else:
        with open(os.devnull, "w") as silent:
            _extract(encode, pictures, len(source), Path(os.devnull), batch, silent)
    barrier(f"features written: {path.name}", _TOGETHER)
    return np.load(path, mmap_mode="r")


def _write(extract: Callable[[Path], None], path: Path, described: Mapping[str, object]) -> None:
    """Lets `extract` fill the file, and notes beside it what it holds."""
    partial, note = path.with_name(f".{path.name}.partial"), path.with_suffix(".json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)  # from here on until the end, the file does not count as current
        extract(partial)
        os.replace(partial, path)
        partial.write_text(json.dumps(described), encoding="utf-8")
        os.replace(partial, note)
    except OSError as error:
        raise ExpllmError(f"features cannot be written to {path} ({error.strerror})", _REMEDY) from error
    finally:
        if path.parent.is_dir():
            partial.unlink(missing_ok=True)


def _is_current(path: Path, described: Mapping[str, object]) -> bool:
    try:
        return path.is_file() and json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) == described
    except (OSError, ValueError):
        return False


def _extract(
    encode: Callable[[np.ndarray], jax.Array],
    pictures: Iterator[np.ndarray],
    records: int,
    partial: Path,
    batch: int,
    stream: TextIO | None,
) -> None:
    progress = Progress(records, "features", "pictures", stream=stream)
    # Written as a plain stream: a full disk then is an error, where a memory-mapped file would end the process.
    with partial.open("wb") as file:
        for start, pixels in zip(range(0, records, batch), pictures, strict=True):
            tokens = np.asarray(encode(pixels))[: records - start]
            with np.errstate(over="ignore"):
                stored = tokens.astype(_DTYPE)
            finite = np.isfinite(stored).all((1, 2))
            if not finite.all():
                raise ExpllmError(
                    f"the features of record {start + int(np.argmin(finite))} are not finite in float16",
                    "check the weights of the vision tower",
                )
            if start == 0:
                header = {"descr": _DTYPE().dtype.str, "fortran_order": False, "shape": (records, *tokens.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
                progress.begin(len(stored))  # the first batch waited for the compiler
            file.write(stored.tobytes())
            progress.update(start + len(stored))
    progress.close()


def _pictures(
    source: PictureSource, batch: int, share: tuple[int, int], size: int, normalisation: str
) -> Iterator[np.ndarray]:
    """This process's share of every batch of normalised pixels, [batch / count, size, size, 3]; the next one is decoded
    while the tower is at work."""
    index, count = share
    rows = batch // count

    def read(start: int) -> np.ndarray:
        pixels, first = np.zeros((rows, size, size, 3), np.float32), start + index * rows
        for line, record in enumerate(range(first, min(first + rows, len(source)))):
            content = source.picture(record)
            picture = seen_picture(content, size, source.resize, name=f"the picture of record {record}")
            pixels[line] = normalise(picture, normalisation)
        return pixels

    with ThreadPoolExecutor(1) as reader:
        starts = range(0, len(source), batch)
        ahead = reader.submit(read, 0)
        for start in starts:
            pixels = ahead.result()
            if start + batch < len(source):
                ahead = reader.submit(read, start + batch)
            yield pixels
