"""Foreign tensors, read one at a time: what every format of weights looks like to `loading`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before a byte of it is read; `dtype` is that of the array which `read` returns."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the array that `read` returns."""
        return self.size * self.dtype.itemsize


class TensorFile(Protocol):
    """One or more files of named tensors, none of which is in memory before it is asked for.

    `tensors` is in the order in which reading them is cheapest. `origin` is the path, for messages.
    """

    @property
    def origin(self) -> str: ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """A tensor, or its rows `rows.start` to `rows.stop` of the leading axis (step 1, inside the tensor).

        Raises:
          ExpllmError: the file cannot be read, or ends too early.
        """
        ...


class ArraysInMemory:
    """Tensors that a small format (ONNX), or Orbax, has read already."""

    def __init__(self, origin: str, arrays: Mapping[str, np.ndarray]):
        self.origin = origin
        self._arrays = dict(arrays)
        self.tensors = {name: TensorInfo(tuple(a.shape), np.dtype(a.dtype)) for name, a in self._arrays.items()}

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """See `TensorFile.read`; no copy is made."""
        array = np.asarray(self._arrays[name])
        return array if rows is None else array[rows]


class JoinedFiles:
    """Several files as one; each one's tensors get its prefix, such as "decoder/"."""

    def __init__(self, origin: str, files: Mapping[str, TensorFile]):
        self.origin = origin
        self._places = {f"{prefix}{name}": (file, name) for prefix, file in files.items() for name in file.tensors}
        self.tensors = {name: file.tensors[inner] for name, (file, inner) in self._places.items()}

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """See `TensorFile.read`."""
        file, inner = self._places[name]
        return file.read(inner, rows)


class RenamedTensors:
    """Some of a file's tensors, under other names (`names`: ours -> the file's)."""

    def __init__(self, file: TensorFile, names: Mapping[str, str]):
        self.origin = file.origin
        self._file, self._names = file, dict(names)
        self.tensors = {ours: file.tensors[theirs] for ours, theirs in self._names.items()}

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """See `TensorFile.read`."""
        return self._file.read(self._names[name], rows)
