"""Writing safetensors tensor by tensor, in folders that appear complete or not at all.

A safetensors file is the length of its header (8 bytes, little endian), the header (JSON: name -> dtype, shape and
place) and the raw tensors one behind the other. The header needs no numbers, so only one tensor at a time is in memory.
Source: the format's description in huggingface/safetensors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.weights.naming import Source, Table, fused, sources_of

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
"""Largest weight file, unless a single tensor is larger; what the Hugging Face hub's tools write as well."""

_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

ReadLeaf = Callable[[str, int | None], np.ndarray]
"""(path, layer) -> one layer of the leaf, or all of it for None, in the memory of this process."""


@dataclasses.dataclass(frozen=True)
class PendingTensor:
    """A tensor that is computed when it is written, and not kept."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the file."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """An unfinished folder to write into, which becomes `folder` when the block ends, and is removed if it fails.

    Raises:
      ExpllmError: `folder` exists already.
    """
    if folder.exists():
        raise ExpllmError(f"{folder} exists already", "choose a new folder, or remove it first")
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def pending_tensors(
    table: Table, leaves: Mapping[str, jax.ShapeDtypeStruct], read: ReadLeaf
) -> dict[str, PendingTensor]:
    """The foreign tensors of a table, none of them computed yet.

    Args:
      table: foreign name -> where it is found and how it is laid out there.
      leaves: shape and dtype of every leaf that the table names.
      read: gives them.
    """

    def shape_of(source: Source) -> tuple[int, ...]:
        leaf = leaves[source.path]
        ours = leaf.shape if source.layer is None else leaf.shape[1:]
        # a single number seen through strides of 0: it takes no memory, and transforms only move axes
        return source.transform.theirs(np.broadcast_to(np.zeros((), leaf.dtype), ours)).shape

    def convert(parts: tuple[Source, ...]) -> np.ndarray:
        return fused([source.transform.theirs(read(source.path, source.layer)) for source in parts])

    pending = {}
    for name, entry in table.items():
        parts = sources_of(entry)
        first, *_ = shape_of(parts[0]) or (1,)
        shape = (first * len(parts), *shape_of(parts[0])[1:]) if len(parts) > 1 else shape_of(parts[0])
        pending[name] = PendingTensor(shape, np.dtype(leaves[parts[0].path].dtype), functools.partial(convert, parts))
    return pending


def pending_array(array: np.ndarray) -> PendingTensor:
    """An array that is there already."""
    return PendingTensor(array.shape, array.dtype, lambda: array)


def host_reader(params: Mapping[str, jax.Array | np.ndarray]) -> ReadLeaf:
    """Reads parameters that are NumPy arrays or JAX arrays, sharded in whatever way, one layer at a time.

    Raises (the reader, when called):
      ExpllmError: the leaf lies partly on devices of other processes.
    """

    def read(path: str, layer: int | None) -> np.ndarray:
        leaf = params[path]
        if not isinstance(leaf, jax.Array):
            return np.asarray(leaf if layer is None else leaf[layer])
        if not leaf.is_fully_addressable:
            raise ExpllmError(
                f"{path} lies partly on the devices of other processes",
                "restore the checkpoint in a single process, and write the weights from there",
            )
        return np.asarray(leaf if layer is None else _one_layer(leaf, layer))

    return read


@jax.jit
def _one_layer(leaf: jax.Array, layer: int) -> jax.Array:
    """Compiled once a leaf, not once a layer; the whole leaf never comes to the host, where JAX would keep the copy."""
    return jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False)


def write_shards(folder: Path, tensors: Mapping[str, PendingTensor], shard_bytes: int = SHARD_BYTES) -> None:
    """Writes `model.safetensors`, or numbered files and their index where that would be larger than `shard_bytes`.

    Tensors keep their order; a file is full when the next tensor would make it larger. Names and index are those that
    `transformers` writes and reads.
    """
    shards: list[dict[str, PendingTensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if size + tensor.nbytes > shard_bytes and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        write_safetensors(folder / WEIGHTS, shards[0])
        return
    places = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, shard)
        places |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def write_safetensors(path: Path, tensors: Mapping[str, PendingTensor]) -> None:
    """Writes one file; at any time at most one of the tensors is in memory."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers asks who can read it
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        dtype = _DTYPES[tensor.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    described = json.dumps(header).encode()
    described += b" " * (-len(described) % 8)  # the tensors begin at a multiple of 8
    with path.open("wb") as file:
        file.write(len(described).to_bytes(8, "little"))
        file.write(described)
        for name, tensor in tensors.items():
            value = tensor.read()
            if value.shape != tensor.shape or value.dtype != tensor.dtype:
                raise ExpllmError(
                    f"{name} is {value.dtype} {value.shape}, not {tensor.dtype} {tensor.shape}",
                    "give parameters of the configuration's shapes and dtypes",
                )
            file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
