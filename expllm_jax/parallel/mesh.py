"""The device mesh: one logical grid `data x fsdp x tensor` over whatever devices there are.

Words: a *slice* is a set of TPUs with links of their own between them; between slices lies the data-centre network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from expllm_jax.errors import ExpllmError

MESH_AXES = ("data", "fsdp", "tensor")

Shape = tuple[int, int, int]  # sizes of MESH_AXES

_NEAREST = 3  # valid choices that an error names, at most


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices each mesh axis has; one of the three may be -1, "all that are left"."""

    data: int = 1  # replicas that hold the same parameters; spans slices, where the network is slowest
    fsdp: int = -1  # devices that share out parameters and optimiser state, and also split the batch
    tensor: int = 1  # devices that split heads, MLP width and vocabulary of one layer

    def __post_init__(self) -> None:
        sizes = dataclasses.astuple(self)
        for name, size in zip(MESH_AXES, sizes, strict=True):
            if size != -1 and size < 1:
                raise ExpllmError(
                    f"mesh axis {name!r} is {size}", "give a positive number of devices, or -1 for the rest"
                )
        if sizes.count(-1) > 1:
            raise ExpllmError(f"more than one mesh axis is -1: {self}", "leave at most one axis open with -1")

    def __str__(self) -> str:
        return _written(dataclasses.astuple(self))

    def shape(self, devices: int, slices: int = 1) -> Shape:
        """The sizes of (data, fsdp, tensor) on `devices` devices in `slices` slices.

        Raises ExpllmError, naming the nearest meshes that would do, if they do not fill the devices, or `data` does not
        share out the slices.
        """
        sizes = list(dataclasses.astuple(self))
        known = math.prod(size for size in sizes if size != -1)
        if -1 in sizes:
            sizes[sizes.index(-1)] = devices // known
        found = (sizes[0], sizes[1], sizes[2])
        if math.prod(found) != devices:
            problem = f"the mesh {self} does not fill {devices} device(s)"
        elif found[0] % slices:
            problem = f"the mesh {self} has data={found[0]}, which is no multiple of the {slices} slices that it spans"
        else:
            return found
        raise ExpllmError(problem, self._remedy(devices, lambda shape: not shape[0] % slices))

    def _remedy(self, devices: int, valid: Callable[[Shape], bool]) -> str:
        """What to do instead: the valid meshes nearest to this one, first those that leave most axes as they are; of
        equally near ones, those that split layers less."""
        asked = dataclasses.astuple(self)

        def distance(shape: Shape) -> tuple[int, float, int]:
            changes = [(size, wish) for size, wish in zip(shape, asked, strict=True) if wish not in (-1, size)]
            return len(changes), sum(abs(math.log(size / wish)) for size, wish in changes), shape[2]

        nearest = sorted(filter(valid, _shapes(devices)), key=distance)[:_NEAREST]
        if not nearest:
            return f"no mesh of {devices} device(s) would do"
        return f"use {', or '.join(map(_written, nearest))}"


def _written(shape: Sequence[int]) -> str:
    return " ".join(f"{name}={size}" for name, size in zip(MESH_AXES, shape, strict=True))


def _shapes(devices: int) -> Iterator[Shape]:
    """All meshes that fill so many devices."""
    factors = [size for size in range(1, devices + 1) if devices % size == 0]
    for data in factors:
        for fsdp in factors:
            if devices % (data * fsdp) == 0:
                yield data, fsdp, devices // (data * fsdp)


def check_mesh(
    config: MeshConfig, devices: Sequence[jax.Device], *, splits: Mapping[str, tuple[str, int]], rows: int = 0
) -> Shape:
    """The sizes of the mesh, after looking for all that would only fail when the model is laid out or compiled.

    Args:
      config: the mesh that is asked for.
      devices: all of the run's, or of a topology without the devices themselves.
      splits: key of the configuration -> (the mesh axis that splits it, its size), such as
        {"model.decoder.heads": ("tensor", 32)}; each has to divide by that axis.
      rows: that are computed at a time, over all devices; 0: not known yet.

    Raises:
      ExpllmError: the mesh does not fill the devices, or does not share out slices or processes, or something does not
        divide by it. The nearest valid meshes are named (or, for rows, the nearest numbers of them).
    """
    slices, processes = len(_slices(devices)), len({device.process_index for device in devices})

    def shares_processes(shape: Shape) -> bool:  # every process reads rows of its own
        return shape[0] * shape[1] % processes == 0

    def divides(shape: Shape) -> bool:
        sizes = dict(zip(MESH_AXES, shape, strict=True))
        return not any(size % sizes[axis] for axis, size in splits.values())

    def valid(shape: Shape) -> bool:
        return shape[0] % slices == 0 and shares_processes(shape) and divides(shape)

    try:
        shape = config.shape(len(devices), slices)
    except ExpllmError as error:  # the model, too, has a say in what would do
        raise ExpllmError(error.problem, config._remedy(len(devices), valid)) from error
    sizes = dict(zip(MESH_AXES, shape, strict=True))
    for key, (axis, size) in splits.items():
        if size % sizes[axis]:
            raise ExpllmError(
                f"{key} is {size}, which does not divide over {axis}={sizes[axis]} of the mesh",
                config._remedy(len(devices), valid),
            )
    shards = shape[0] * shape[1]
    if not shares_processes(shape):
        raise ExpllmError(
            f"the mesh {_written(shape)} splits rows over {shards} parts, and {processes} processes read them",
            config._remedy(len(devices), valid),
        )
    if rows % shards:
        below, above = rows // shards * shards, (rows // shards + 1) * shards
        nearest = f"{below} or {above}" if below else f"{above}"
        fitting = config._remedy(len(devices), lambda shape: valid(shape) and rows % (shape[0] * shape[1]) == 0)
        raise ExpllmError(
            f"a batch of {rows} rows does not divide over the {shards} devices of data and fsdp in the mesh "
            f"{_written(shape)}",
            f"take {nearest} rows, or {fitting.removeprefix('use ')}",
        )
    return shape


def make_mesh(
    config: MeshConfig | None = None, devices: Sequence[jax.Device] | None = None, *, explicit: bool = False
) -> Mesh:
    """Builds the mesh with axes `data, fsdp, tensor`; enter it with `jax.set_mesh(mesh)`.

    Axis types are Auto: the compiler propagates shardings from the parameters and from `constrain`. `tensor`, the axis
    that talks most, spans neighbours; `data`, which talks least, spans slices. Devices of a process stay together, so
    that every process reads the rows of its own devices and no others. With `explicit` the axes are Explicit: a layout
    that does not fit is an error while tracing, and nothing moves that nobody asked to.

    Raises ExpllmError as `MeshConfig.shape` does.
    """
    devices = jax.devices() if devices is None else list(devices)
    slices = _slices(devices)
    data, fsdp, tensor = (config or MeshConfig()).shape(len(devices), len(slices))
    if len({len(members) for members in slices}) > 1:
        raise ExpllmError(
            f"the slices have {', '.join(str(len(members)) for members in slices)} devices",
            "use slices of the same size",
        )
    inside = (data // len(slices), fsdp, tensor)
    arranged = np.concatenate([_arranged(inside, members) for members in slices])
    axes = AxisType.Explicit if explicit else AxisType.Auto
    return Mesh(arranged, MESH_AXES, axis_types=(axes,) * len(MESH_AXES))


def _slices(devices: Sequence[jax.Device]) -> list[list[jax.Device]]:
    """The devices of every slice, by its number; devices that do not say their slice are all in one.

    GPUs number their hosts so, which may well share out parameters: only TPUs are asked.
    """
    slices: dict[int, list[jax.Device]] = {}
    for device in devices:
        number = getattr(device, "slice_index", None) if device.platform == "tpu" else None
        slices.setdefault(number or 0, []).append(device)
    return [slices[number] for number in sorted(slices)]


def _arranged(shape: Shape, devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices of one slice as a grid of that shape: along the physical links where JAX knows how to lay the mesh
    over them, else in their order, process by process."""
    plain = np.empty(len(devices), object)
    plain[:] = sorted(devices, key=lambda device: device.process_index)
    plain = plain.reshape(shape)
    if devices[0].platform != "tpu":
        return plain
    try:
        physical = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    except (AssertionError, NotImplementedError, ValueError):  # a part of a slice, or a shape that no torus has
        return plain
    return physical if _together(physical) or not _together(plain) else plain


def _together(grid: np.ndarray) -> bool:
    """Whether the devices that share rows, those along `tensor`, are of one process."""
    groups = grid.reshape(-1, grid.shape[-1])
    return all(len({device.process_index for device in group}) == 1 for group in groups)
