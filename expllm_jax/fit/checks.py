"""What can be told to be impossible without a compiler, with the nearest choice that is possible."""

from __future__ import annotations

from typing import NamedTuple

from expllm_jax.errors import ExpllmError
from expllm_jax.fit.request import FitRequest
from expllm_jax.fit.topology import Topology
from expllm_jax.models import mesh_splits
from expllm_jax.parallel import MeshConfig, check_mesh


class _Device(NamedTuple):
    """What `check_mesh` asks of a device."""

    slice_index: int
    process_index: int
    platform: str = "tpu"


def resolve_mesh(mesh: MeshConfig, topology: Topology) -> tuple[int, int, int]:
    """The sizes of (data, fsdp, tensor) on all devices of the topology, `data` spread over all slices.

    Raises ExpllmError with the nearest meshes that fill them.
    """
    return mesh.shape(topology.devices, topology.slices)


def check(request: FitRequest) -> None:
    """Raises ExpllmError if the model does not divide over the mesh, or the batch does not."""
    train, topology = request.task == "train", request.topology
    # Every process reads its share of the rows of an update; prompts may be whole in all of them.
    devices = [
        _Device(index // topology.devices_per_slice, index // topology.devices_per_host if train else 0)
        for index in range(topology.devices)
    ]
    rows = request.rows * request.accumulate * request.shards if train else request.batch
    check_mesh(MeshConfig(*request.mesh), devices, splits=mesh_splits(request.model), rows=rows)
    tokens = request.pictures * request.model.image_tokens(request.picture_size, request.picture_size)
    if train and tokens > request.row_length:
        most = request.row_length * request.pictures // tokens
        raise ExpllmError(
            f"{request.pictures} pictures take {tokens} tokens, more than a row of {request.row_length}",
            f"at most {most} fit: --pictures {most}" if most else f"use --row-length {tokens} or more",
        )
