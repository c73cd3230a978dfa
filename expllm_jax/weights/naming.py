"""The table style of every weight format: foreign name -> (our path, transform); one error lists every misfit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from expllm_jax.errors import ExpllmError

Convert = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Transform:
    """How one tensor is laid out there and here."""

    ours: Convert  # from the foreign layout to ours
    theirs: Convert | None = None  # back again; None in formats that are only read


SAME = Transform(lambda array: array, lambda array: array)
# PyTorch stores a linear layer as (outputs, inputs), we as (inputs, outputs)
TRANSPOSED = Transform(np.transpose, np.transpose)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a foreign tensor goes: `path`, at `layer` of the leading axis (None: the tensor is the whole leaf)."""

    path: str
    layer: int | None = None
    transform: Transform = SAME


# A tuple: the foreign tensor is that of each Source, one behind another along the first axis, all of one size, as a
# fused q, k, v is.
Table = Mapping[str, Source | tuple[Source, ...]]


def sources(entry: Source | tuple[Source, ...]) -> tuple[Source, ...]:
    """Where the parts of a foreign tensor go, in order; one part if it is not fused."""
    return entry if isinstance(entry, tuple) else (entry,)


def divided(array: np.ndarray, parts: int) -> list[np.ndarray]:
    """The equal parts of a fused tensor; raises ValueError if its first axis does not divide."""
    return [array] if parts == 1 else np.split(np.atleast_1d(array), parts)


def fused(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The inverse of `divided`."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def gather(
    tensors: Mapping[str, np.ndarray],
    table: Table,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    origin: str,
    ignored: Collection[str] = (),
    dtype: str = "float32",
) -> dict[str, np.ndarray]:
    """Fills our parameters from foreign tensors.

    Args:
      tensors: what the file holds.
      table: foreign name -> Source or Sources; covers every path in `shapes`.
      shapes: our path -> shape.
      origin: the file, for messages.
      ignored: foreign names that are known and not wanted.
      dtype: of the result.

    Raises:
      ExpllmError: lists every missing, every unexpected and every mis-shaped tensor in one message.
    """
    missing = sorted(set(table) - set(tensors))
    unexpected = sorted(set(tensors) - set(table) - set(ignored))
    wrong = []
    params = {path: np.empty(shape, dtype) for path, shape in shapes.items()}
    for name in sorted(set(table) & set(tensors)):
        array, entry = np.asarray(tensors[name]), sources(table[name])
        try:
            parts = divided(array, len(entry))
            values = [source.transform.ours(part) for source, part in zip(entry, parts, strict=True)]
        except ValueError:  # a division, reshape or transposition that does not fit
            values = [None] * len(entry)
        for source, value in zip(entry, values, strict=True):
            target = params[source.path] if source.layer is None else params[source.path][source.layer]
            if value is None or value.shape != target.shape:
                wrong.append(f"{name} {array.shape} for {source.path} {target.shape}")
            else:
                target[...] = value
    if missing or unexpected or wrong:
        parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        listing = "; ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in parts if names)
        raise ExpllmError(
            f"{origin} does not hold the expected weights: {listing}",
            "check that it is the right file, and the configuration the right size",
        )
    return params


def scatter(params: Mapping[str, np.ndarray], table: Table) -> dict[str, np.ndarray]:
    """Our parameters as foreign tensors, contiguous in memory; the inverse of `gather` for formats that are written."""
    tensors = {}
    for name, entry in table.items():
        parts = []
        for source in sources(entry):
            value = params[source.path] if source.layer is None else params[source.path][source.layer]
            parts.append(source.transform.theirs(np.asarray(value)))
        tensors[name] = np.ascontiguousarray(fused(parts))
    return tensors
