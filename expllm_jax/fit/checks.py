"""What can be told to be impossible without a compiler, with the nearest choice that is possible."""

from __future__ import annotations

import math

from expllm_jax.errors import ExpllmError
from expllm_jax.fit.request import FitRequest
from expllm_jax.fit.topology import Topology
from expllm_jax.parallel import MeshConfig


def resolve_mesh(mesh: MeshConfig, topology: Topology) -> tuple[int, int, int]:
    """The sizes of (data, fsdp, tensor) on all devices of the topology.

    Raises ExpllmError with the nearest mesh that fills them, whose `data` is spread over all slices.
    """
    data, fsdp, tensor = mesh.data, mesh.fsdp, mesh.tensor
    devices = topology.devices
    known = math.prod(size for size in (data, fsdp, tensor) if size != -1)
    whole = devices % known == 0 if -1 in (data, fsdp, tensor) else known == devices
    shape = mesh.shape(devices) if whole else None
    if shape is not None and shape[0] % topology.slices == 0:
        return shape
    near = _nearest_mesh(topology, max(1, data), max(1, tensor))
    wrong = f"the mesh data={data} fsdp={fsdp} tensor={tensor}"
    if shape is None:
        problem = f"{wrong} does not fill the {devices} devices of {topology}"
    else:
        problem = f"{wrong} does not spread data over {topology.slices} slices; other axes would cross between them"
    raise ExpllmError(problem, f"nearest that does: --mesh {','.join(map(str, near))}")


def _nearest_mesh(topology: Topology, data: int, tensor: int) -> tuple[int, int, int]:
    per_slice = topology.devices_per_slice
    tensor = _nearest_divisor(per_slice, tensor)
    inside = _nearest_divisor(per_slice // tensor, max(1, data // topology.slices))
    return topology.slices * inside, per_slice // tensor // inside, tensor


def _nearest_divisor(number: int, wanted: int) -> int:
    divisors = [one for one in range(1, number + 1) if number % one == 0]
    return min(divisors, key=lambda one: abs(math.log(one / wanted)))


def check(request: FitRequest) -> None:
    """Raises ExpllmError if the model does not divide over the mesh, or the batch does not."""
    resolve_mesh(MeshConfig(*request.mesh), request.topology)
    _, fsdp, tensor = request.mesh
    decoder, vision = request.model.decoder, request.model.vision
    for what, size, axis, devices in (
        ("the decoder's heads", decoder.heads, "tensor", tensor),
        ("the decoder's mlp_width", decoder.mlp_width, "tensor", tensor),
        ("the tower's heads", vision.heads, "tensor", tensor),
        ("the tower's mlp_width", vision.mlp_width, "tensor", tensor),
        ("the decoder's width", decoder.width, "fsdp", fsdp),
        ("the tower's width", vision.width, "fsdp", fsdp),
    ):
        if size % devices:
            near = _nearest_divisor(math.gcd(size, request.topology.devices_per_slice), devices)
            raise ExpllmError(
                f"{what} ({size}) do not divide over {axis}={devices}" if what.endswith("heads")
                else f"{what} ({size}) does not divide over {axis}={devices}",
                f"nearest that does: {axis}={near}",
            )  # fmt: skip
    if request.task == "decode" and request.batch % request.shards:
        near = request.shards * max(1, round(request.batch / request.shards))
        raise ExpllmError(
            f"a batch of {request.batch} prompts does not divide over data x fsdp = {request.shards} devices",
            f"nearest that does: --batch {near}",
        )
    tokens = request.pictures * request.model.image_tokens(request.picture_size, request.picture_size)
    if request.task == "train" and tokens > request.row_length:
        most = request.row_length * request.pictures // tokens
        raise ExpllmError(
            f"{request.pictures} pictures take {tokens} tokens, more than a row of {request.row_length}",
            f"at most {most} fit: --pictures {most}" if most else f"use --row-length {tokens} or more",
        )
