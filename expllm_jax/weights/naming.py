"""The table style of every weight format: foreign name -> (our path, transform). `loading` reads by such a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Convert = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Transform:
    """How one tensor is laid out there and here."""

    ours: Convert  # from the foreign layout to ours
    theirs: Convert | None = None  # back again; None in formats that are only read
    # The axis of ours that the foreign leading axis becomes, unchanged in order and length, so that a range of foreign
    # rows gives a range along it; None: only the whole tensor can be converted.
    rows_axis: int | None = None


SAME = Transform(lambda array: array, lambda array: array, rows_axis=0)
# PyTorch stores a linear layer as (outputs, inputs), we as (inputs, outputs)
TRANSPOSED = Transform(np.transpose, np.transpose, rows_axis=-1)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a foreign tensor goes: `path`, at `layer` of the leading axis (None: the tensor is the whole leaf)."""

    path: str
    layer: int | None = None
    transform: Transform = SAME


# A tuple: the foreign tensor is that of each Source, one behind another along the first axis, all of one size, as a
# fused q, k, v is.
TableValue = Source | tuple[Source, ...]
Table = Mapping[str, TableValue]


def sources_of(value: TableValue) -> tuple[Source, ...]:
    """The places that one foreign tensor feeds."""
    return value if isinstance(value, tuple) else (value,)


def inside(part: str, value: TableValue) -> tuple[Source, ...]:
    """The same places by their paths in the whole model: "blocks/..." of the decoder is "decoder/blocks/..."."""
    return tuple(dataclasses.replace(source, path=f"{part}/{source.path}") for source in sources_of(value))


def divided(array: np.ndarray, parts: int) -> list[np.ndarray]:
    """The equal parts of a fused tensor; raises ValueError if its first axis does not divide."""
    return [array] if parts == 1 else np.split(np.atleast_1d(array), parts)


def fused(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The inverse of `divided`."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def scatter(params: Mapping[str, np.ndarray], table: Table) -> dict[str, np.ndarray]:
    """Our parameters as foreign tensors, contiguous in memory: the inverse of loading, for formats that are written."""
    tensors = {}
    for name, value in table.items():
        parts = []
        for source in sources_of(value):
            leaf = params[source.path] if source.layer is None else params[source.path][source.layer]
            parts.append(source.transform.theirs(np.asarray(leaf)))
        tensors[name] = np.ascontiguousarray(fused(parts))
    return tensors
