"""Filling our parameters from foreign tensors, one tensor in memory at a time.

Two passes. The first looks at names, shapes and dtypes alone and tells everything that is wrong in one error, before a
number is read. The second reads tensor after tensor and puts each where it belongs: into NumPy arrays, or straight onto
the devices that hold its parts, so that the most memory ever taken is that of the parameters and one tensor.

What cannot be caught: two tensors of the same shape under each other's names (q and o of a model without grouped
heads) are the same file to any reader. Only answers tell.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from expllm_jax.errors import ExpllmError
from expllm_jax.models import AbstractParams
from expllm_jax.weights.naming import Source, Table, divided, sources_of
from expllm_jax.weights.tensor_files import TensorFile, TensorInfo

_TILE = 128  # rows and columns copied at a time: a tile of both arrays fits the processor's cache

Progress = Callable[[int, int], None]
"""Is told (bytes read, bytes to read) after every tensor."""


@dataclasses.dataclass(frozen=True)
class Misfits:
    """Everything that keeps a file from being the expected weights; each entry names a tensor or a parameter."""

    missing: tuple[str, ...] = ()  # foreign names that the file lacks, and parameters that the table does not feed
    unexpected: tuple[str, ...] = ()  # foreign names that nothing here is made of
    shapes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(dataclasses.astuple(self))

    def listed(self) -> list[tuple[str, tuple[str, ...]]]:
        """(what is wrong, with which) of every kind that occurs."""
        kinds = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.shapes),
            ("of a wrong dtype", self.dtypes),
        )
        return [(what, names) for what, names in kinds if names]

    def __str__(self) -> str:
        return "; ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in self.listed())


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What `load_params` read."""

    params: dict[str, Any]  # our path -> numpy.ndarray, or jax.Array where shardings were given
    misfits: Misfits  # what was left out; empty unless partial loading was asked for
    read_bytes: int  # bytes of the foreign tensors


@dataclasses.dataclass(frozen=True)
class _Step:
    """One foreign tensor and all places it feeds, in order."""

    name: str
    sources: tuple[Source, ...]
    wanted: tuple[bool, ...]  # which of them

    def parts(self, tensor: np.ndarray) -> Iterator[tuple[Source, np.ndarray]]:
        """Every wanted place with its part of the tensor, in our layout."""
        for source, wanted, part in zip(self.sources, self.wanted, divided(tensor, len(self.sources)), strict=True):
            if wanted:
                yield source, source.transform.ours(part)


def load_params(
    files: TensorFile,
    table: Table,
    shapes: AbstractParams,
    *,
    shardings: Mapping[str, Sharding] | None = None,
    ignored: Collection[str] = (),
    partial: bool = False,
    progress: Progress | None = None,
) -> Loaded:
    """Fills our parameters from foreign tensors.

    A float leaf takes floats only: bfloat16, float16, float32 and 8-bit floats, converted to the leaf's dtype (float32
    to bfloat16 rounds to the nearest, ties to even). Integers, whose scale would be unknown, float64, which would lose
    half its digits, and float32 or bfloat16 for a float16 leaf, which may overflow, are a wrong dtype.

    Args:
      files: what there is to read.
      table: foreign name -> Source, or several; feeds every place of `shapes` once.
      shapes: our path -> shape and dtype that it is to have.
      shardings: where each parameter goes; the leading layer axis of stacked leaves stays whole. None: NumPy arrays on
        the host. A process reads only the rows that its own devices hold, where the layout allows it.
      ignored: foreign names that are known and not wanted.
      partial: load the leaves that fit in full, and return what did not instead of raising.
      progress: is told how far it is.

    Raises:
      ExpllmError: lists every missing, unexpected, mis-shaped and wrongly typed tensor in one message; or a file cannot
        be read. Nothing is returned then.
    """
    misfits, complete = examine(files, table, shapes, ignored)
    if misfits and not partial:
        raise ExpllmError(
            f"{files.origin} does not hold the expected weights: {misfits}",
            "check that it is the right file, and the configuration the right size",
        )
    wanted = {path: leaf for path, leaf in shapes.items() if path in complete}
    steps = list(_steps(files, table, wanted))
    total = sum(files.tensors[step.name].nbytes for step in steps)
    destination = _HostLeaves(wanted) if shardings is None else _DeviceLeaves(wanted, shardings)
    done = 0
    for step in steps:
        destination.put(files, step)
        done += files.tensors[step.name].nbytes
        if progress is not None:
            progress(done, total)
    return Loaded({path: destination.leaves[path] for path in wanted}, misfits, total)


def examine(
    files: TensorFile, table: Table, shapes: AbstractParams, ignored: Collection[str] = ()
) -> tuple[Misfits, frozenset[str]]:
    """The first pass of `load_params`: (what is wrong, our paths that can be filled in full). Reads no numbers."""
    missing, unexpected, wrong_shapes, wrong_dtypes = [], [], [], []
    fed: dict[str, set[int | None]] = collections.defaultdict(set)
    for name in sorted(table):
        sources = sources_of(table[name])
        if name not in files.tensors:
            missing.append(name)
            continue
        info = files.tensors[name]
        problem = _shape_problem(name, info, sources, shapes)
        mistyped = [source for source in sources if not _fits_dtype(info.dtype, shapes, source)]
        if problem:
            wrong_shapes.append(problem)
        elif mistyped:
            path = mistyped[0].path
            wrong_dtypes.append(f"{name} {info.dtype} for {path} {np.dtype(shapes[path].dtype)}")
        else:
            for source in sources:
                fed[source.path].add(source.layer)
    unexpected = sorted(set(files.tensors) - set(table) - set(ignored))
    # A table that leaves a place out is as bad as a file that does: the leaf would keep whatever memory held.
    asked: dict[str, set[int | None]] = collections.defaultdict(set)
    for value in table.values():
        for source in sources_of(value):
            asked[source.path].add(source.layer)
    for path, leaf in shapes.items():
        missing += [f"anything for {place}" for place in _places(path, leaf.shape, asked[path]) if place]
    complete = frozenset(path for path, leaf in shapes.items() if not any(_places(path, leaf.shape, fed[path])))
    return Misfits(tuple(missing), tuple(unexpected), tuple(wrong_shapes), tuple(wrong_dtypes)), complete


def _places(path: str, shape: tuple[int, ...], fed: set[int | None]) -> Iterator[str]:
    """The parts of a leaf that nothing feeds."""
    if None in fed:
        return
    if not fed:
        yield path
        return
    yield from (f"{path}[{layer}]" for layer in range(shape[0]) if layer not in fed)


def _shape_problem(name: str, info: TensorInfo, sources: tuple[Source, ...], shapes: AbstractParams) -> str:
    """What is wrong with a tensor's shape; "" if it fits all it feeds."""
    # has the shape of the tensor and takes no memory, and so have its transpositions and slices
    stand_in = np.broadcast_to(np.zeros((), info.dtype), info.shape)
    try:
        parts = divided(stand_in, len(sources))
    except ValueError:
        return f"{name} {info.shape} for {', '.join(source.path for source in sources)}, into which it does not divide"
    for source, part in zip(sources, parts, strict=True):
        if source.path not in shapes:
            return f"{name} {info.shape} for {source.path}, which the model does not have"
        whole = shapes[source.path].shape
        target = whole if source.layer is None else whole[1:]
        outside = source.layer is not None and not (whole and 0 <= source.layer < whole[0])
        try:
            found = source.transform.ours(part).shape
        except (ValueError, IndexError):  # a reshape or transposition that does not fit
            found = None
        if outside or found != target:
            return f"{name} {info.shape} for {source.path} {target}" + (f" of layer {source.layer}" if outside else "")
    return ""


def _fits_dtype(found: np.dtype, shapes: AbstractParams, source: Source) -> bool:
    if source.path not in shapes:
        return True  # told as a matter of its shape
    wanted = np.dtype(shapes[source.path].dtype)
    if found == wanted:
        return True
    if not (jnp.issubdtype(found, jnp.floating) and jnp.issubdtype(wanted, jnp.floating)):
        return False
    if wanted == np.float16:
        return found.itemsize == 1
    return found.itemsize <= 4


def _steps(files: TensorFile, table: Table, wanted: Collection[str]) -> Iterator[_Step]:
    """The tensors that feed the wanted leaves, in the order of the file."""
    for name in files.tensors:
        if name in table:
            sources = sources_of(table[name])
            asked = tuple(source.path in wanted for source in sources)
            if any(asked):
                yield _Step(name, sources, asked)


class ParamReader:
    """Reads single layers of single parameters, in the dtype of the file; for comparing without holding a model.

    Args:
      files, table, shapes: as of `load_params`, and they fit each other.
    """

    def __init__(self, files: TensorFile, table: Table, shapes: AbstractParams):
        self.files, self.shapes = files, shapes
        self._places = {
            (source.path, source.layer): (name, sources_of(value), index)
            for name, value in table.items()
            for index, source in enumerate(sources_of(value))
        }

    def read(self, path: str, layer: int | None = None) -> np.ndarray:
        """A leaf, or one layer of a stacked one."""
        if (path, layer) in self._places:
            return self._converted(path, layer)
        if layer is None:
            return np.stack([self.read(path, each) for each in range(self.shapes[path].shape[0])])
        return self._converted(path, None)[layer]

    def _converted(self, path: str, layer: int | None) -> np.ndarray:
        name, sources, index = self._places[path, layer]
        return sources[index].transform.ours(divided(self.files.read(name), len(sources))[index])


class _HostLeaves:
    """Leaves that are NumPy arrays."""

    def __init__(self, wanted: AbstractParams):
        self.leaves = {path: np.empty(leaf.shape, leaf.dtype) for path, leaf in wanted.items()}

    def put(self, files: TensorFile, step: _Step) -> None:
        """Reads one foreign tensor and copies it to all its places."""
        tensor = files.read(step.name)
        for source, value in step.parts(tensor):
            leaf = self.leaves[source.path]
            # a slice, since a layer of a leaf without further axes would be a number and no view
            target = leaf if source.layer is None else leaf[source.layer : source.layer + 1].reshape(leaf.shape[1:])
            _copy(value, target)


class _DeviceLeaves:
    """Leaves that lie on devices by their shardings.

    A stacked leaf is allocated once and written layer by layer in place: the update donates the old buffer.
    """

    def __init__(self, wanted: AbstractParams, shardings: Mapping[str, Sharding]):
        self._wanted = wanted
        self._shardings = {path: shardings[path] for path in wanted}
        self.leaves: dict[str, jax.Array] = {}

    def put(self, files: TensorFile, step: _Step) -> None:
        """Reads what this process's devices need of one foreign tensor and lays it out on them."""
        tensor, first = _needed_rows(files, step, self._sliced)
        for source, value in step.parts(tensor):
            offset = 0 if first is None else first
            axis = None if first is None else source.transform.rows_axis % value.ndim
            placed = self._place(source, value, axis, offset)
            if source.layer is None:
                self.leaves[source.path] = placed
            else:
                leaf = self.leaves.get(source.path)
                if leaf is None:
                    wanted = self._wanted[source.path]
                    leaf = jnp.zeros(wanted.shape, wanted.dtype, device=self._shardings[source.path])
                self.leaves[source.path] = _writer(self._shardings[source.path])(leaf, placed, source.layer)
            # The next tensor is read only when this one's buffers are free again.
            jax.block_until_ready(self.leaves[source.path])

    def _sliced(self, source: Source) -> tuple[tuple[int, ...], Sharding]:
        """Shape and sharding of what one foreign tensor gives to a leaf: all of it, or one layer."""
        shape, sharding = self._wanted[source.path].shape, self._shardings[source.path]
        if source.layer is None:
            return shape, sharding
        return shape[1:], _layer_sharding(source.path, sharding)

    def _place(self, source: Source, value: np.ndarray, axis: int | None, offset: int) -> jax.Array:
        """`value`, of which `axis` begins at `offset` of the whole, on the devices."""
        shape, sharding = self._sliced(source)
        dtype = self._wanted[source.path].dtype

        def part(index: tuple[slice, ...]) -> np.ndarray:
            if axis is not None:
                start, stop, _ = index[axis].indices(shape[axis])
                index = (*index[:axis], slice(start - offset, stop - offset), *index[axis + 1 :])
            part = value[index]
            if part.dtype == dtype and part.flags.c_contiguous:
                return part
            copied = np.empty(part.shape, dtype)
            _copy(part, copied)
            return copied

        return jax.make_array_from_callback(shape, sharding, part)


def _copy(value: np.ndarray, target: np.ndarray) -> None:
    """Copies and converts. A matrix that was transposed is copied in tiles, which is two to three times as fast."""
    if value.ndim != 2 or value.flags.c_contiguous:
        target[...] = value
        return
    for row in range(0, value.shape[0], _TILE):
        for column in range(0, value.shape[1], _TILE):
            tile = np.s_[row : row + _TILE, column : column + _TILE]
            target[tile] = value[tile]


def _needed_rows(
    files: TensorFile, step: _Step, sliced: Callable[[Source], tuple[tuple[int, ...], Sharding]]
) -> tuple[np.ndarray, int | None]:
    """The rows of a foreign tensor that this process's devices hold, and the first one's index; None: all were read."""
    source = step.sources[0]
    axis = source.transform.rows_axis
    if len(step.sources) > 1 or axis is None or not files.tensors[step.name].shape:
        return files.read(step.name), None
    shape, sharding = sliced(source)
    axis %= len(shape)
    ranges = [index[axis].indices(shape[axis]) for index in sharding.addressable_devices_indices_map(shape).values()]
    start, stop = min(low for low, _, _ in ranges), max(high for _, high, _ in ranges)
    if (start, stop) == (0, shape[axis]):
        return files.read(step.name), None
    return files.read(step.name, slice(start, stop)), start


def _layer_sharding(path: str, sharding: Sharding) -> Sharding:
    """How one layer of a stacked leaf lies."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    spec = tuple(sharding.spec)
    if spec and spec[0] is not None:
        raise ExpllmError(
            f"the layers of {path} would lie on different devices ({sharding.spec})",
            "leave the leading axis of stacked parameters whole",
        )
    return NamedSharding(sharding.mesh, PartitionSpec(*spec[1:]))


@functools.cache
def _writer(sharding: Sharding) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
    """(leaf, layer's value, layer) -> the leaf with that layer replaced, in the leaf's own memory."""

    def write(leaf: jax.Array, value: jax.Array, layer: jax.Array) -> jax.Array:
        if leaf.dtype != jnp.bfloat16:
            return lax.dynamic_update_index_in_dim(leaf, value, layer, 0)
        # On a CPU, XLA rewrites the whole of a bfloat16 array to update a part of it (70 times slower at 128 layers);
        # the same bits as integers it updates in place.
        leaf, value = (lax.bitcast_convert_type(x, jnp.uint16) for x in (leaf, value))
        return lax.bitcast_convert_type(lax.dynamic_update_index_in_dim(leaf, value, layer, 0), jnp.bfloat16)

    return jax.jit(write, donate_argnums=0, out_shardings=sharding)
