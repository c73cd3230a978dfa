"""The table style of every weight format: foreign name -> (our path, transform); one error lists every misfit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping

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


Table = Mapping[str, Source]


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
      table: foreign name -> Source; covers every path in `shapes`.
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
        source = table[name]
        target = params[source.path] if source.layer is None else params[source.path][source.layer]
        try:
            value = source.transform.ours(np.asarray(tensors[name]))
        except ValueError:  # a reshape or transposition that does not fit
            value = None
        if value is None or value.shape != target.shape:
            wrong.append(f"{name} {np.shape(tensors[name])} for {source.path} {target.shape}")
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
    for name, source in table.items():
        value = params[source.path] if source.layer is None else params[source.path][source.layer]
        tensors[name] = np.ascontiguousarray(source.transform.theirs(np.asarray(value)))
    return tensors
