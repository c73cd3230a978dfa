"""The device mesh: one logical grid `data x fsdp x tensor` over whatever devices there are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from expllm_jax.errors import ExpllmError

MESH_AXES = ("data", "fsdp", "tensor")


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

    def shape(self, devices: int) -> tuple[int, int, int]:
        """The sizes of (data, fsdp, tensor) on `devices` devices; raises ExpllmError if they do not fit."""
        sizes = list(dataclasses.astuple(self))
        known = int(np.prod([size for size in sizes if size != -1]))
        if -1 in sizes:
            sizes[sizes.index(-1)] = devices // known
        if int(np.prod(sizes)) != devices:
            raise ExpllmError(
                f"the mesh data={self.data} fsdp={self.fsdp} tensor={self.tensor} does not fill {devices} device(s)",
                "the product of the three axes must equal the number of devices",
            )
        return sizes[0], sizes[1], sizes[2]


def make_mesh(
    config: MeshConfig | None = None, devices: Sequence[jax.Device] | None = None, *, explicit: bool = False
) -> Mesh:
    """Builds the mesh with axes `data, fsdp, tensor`; enter it with `jax.set_mesh(mesh)`.

    Axis types are Auto: the compiler propagates shardings from the parameters and from `constrain`. With `explicit`
    they are Explicit: a layout that does not fit is an error while tracing, and nothing moves that nobody asked to.
    Devices keep their order, so that `tensor`, the axis that talks most, spans neighbours.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = (config or MeshConfig()).shape(len(devices))
    axes = AxisType.Explicit if explicit else AxisType.Auto
    return Mesh(np.array(devices).reshape(shape), MESH_AXES, axis_types=(axes,) * len(MESH_AXES))
