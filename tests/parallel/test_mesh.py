from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.parallel import MESH_AXES, MeshConfig, check_mesh, make_mesh

SIZES = st.integers(1, 16)


@given(SIZES, SIZES, SIZES)
def test_open_axis_takes_the_rest(data, fsdp, tensor):
    devices = data * fsdp * tensor
    assert MeshConfig(data, -1, tensor).shape(devices) == (data, fsdp, tensor)
    assert MeshConfig(-1, fsdp, tensor).shape(devices) == (data, fsdp, tensor)


@given(SIZES, SIZES, st.integers(1, 256))
def test_shape_always_fills_the_devices_or_raises(data, tensor, devices):
    config = MeshConfig(data, -1, tensor)
    if devices % (data * tensor):
        with pytest.raises(ExpllmError, match="does not fill"):
            config.shape(devices)
    else:
        a, b, c = config.shape(devices)
        assert a * b * c == devices


@pytest.mark.parametrize("sizes", [(0, -1, 1), (1, -2, 1), (-1, -1, 1)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ExpllmError):
        MeshConfig(*sizes)


def test_mesh_of_this_computer():
    mesh = make_mesh()
    assert mesh.axis_names == MESH_AXES
    assert mesh.size == len(mesh.devices.ravel())


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks a device."""

    id: int
    process_index: int = 0
    platform: str = "cpu"
    slice_index: int = 0
    device_kind: str = "some TPU"
    core_on_chip: int = 0

    @property
    def coords(self) -> tuple[int, int, int]:
        return (self.id, 0, 0)


def chips(count, *, of_process=1000, of_slice=1000, platform="cpu"):
    return [Chip(n, n // of_process, platform, n // of_slice) for n in range(count)]


def test_a_mesh_that_does_not_fill_names_the_nearest_that_do():
    with pytest.raises(ExpllmError) as caught:
        MeshConfig(1, 3, 2).shape(8)
    assert caught.value.remedy == "use data=1 fsdp=4 tensor=2, or data=2 fsdp=2 tensor=2, or data=1 fsdp=2 tensor=4"
    with pytest.raises(ExpllmError, match="fill") as caught:
        MeshConfig(1, -1, 3).shape(8)
    assert caught.value.remedy.startswith("use data=1 fsdp=4 tensor=2, or ")


def test_data_spans_slices():
    assert MeshConfig(2, -1).shape(16, slices=2) == (2, 8, 1)
    with pytest.raises(ExpllmError, match="no multiple of the 2 slices") as caught:
        MeshConfig(1, -1).shape(16, slices=2)
    assert caught.value.remedy.startswith("use data=2 fsdp=8 tensor=1, or ")


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.randoms())
def test_no_slice_is_in_two_parts_of_data(slices, replicas, fsdp, random):
    devices = chips(slices * replicas * fsdp, of_slice=replicas * fsdp, of_process=replicas * fsdp, platform="tpu")
    random.shuffle(devices)
    grid = make_mesh(MeshConfig(slices * replicas, fsdp), devices).devices
    for number, part in enumerate(grid.reshape(slices, -1)):
        assert {device.slice_index for device in part} == {number}


def test_processes_stay_together_in_whatever_order_devices_come():
    devices = chips(8, of_process=2)
    grid = make_mesh(MeshConfig(2, 2, 2), devices[::-1]).devices
    assert [[device.process_index for device in pair] for pair in grid.reshape(4, 2)] == [
        [0, 0],
        [1, 1],
        [2, 2],
        [3, 3],
    ]


def test_hosts_of_gpus_may_share_out_parameters():
    """They are numbered as slices are."""
    assert make_mesh(MeshConfig(), chips(8, of_slice=4, platform="gpu")).devices.shape == (1, 8, 1)


def test_slices_of_different_sizes_are_refused():
    with pytest.raises(ExpllmError, match="slices have 4, 2 devices"):
        make_mesh(MeshConfig(2, -1), chips(6, of_slice=4, platform="tpu"))


SPLITS = {"model.decoder.heads": ("tensor", 12), "model.decoder.width": ("fsdp", 48)}


def test_a_mesh_that_fits_is_returned():
    assert check_mesh(MeshConfig(1, -1, 4), chips(8), splits=SPLITS, rows=6) == (1, 2, 4)


@pytest.mark.parametrize(
    ("mesh", "devices", "rows", "problem", "remedy"),
    [
        (MeshConfig(1, -1, 8), chips(8), 0, "model.decoder.heads is 12, which does not divide over tensor=8",
         "use data=1 fsdp=2 tensor=4, or "),
        (MeshConfig(), chips(32), 0, "model.decoder.width is 48, which does not divide over fsdp=32",
         "use data=2 fsdp=16 tensor=1, or data=1 fsdp=16 tensor=2"),
        (MeshConfig(), chips(8), 12, "a batch of 12 rows does not divide over the 8 devices",
         "take 8 or 16 rows, or data=1 fsdp=4 tensor=2, or "),
        (MeshConfig(), chips(8), 3, "a batch of 3 rows", "take 8 rows, or no mesh"),
        (MeshConfig(1, 2, 2), chips(8), 0, "does not fill 8", "use data=1 fsdp=4 tensor=2, or data=2 fsdp=2 tensor=2, or data=1 fsdp=2 tensor=4"),
        (MeshConfig(1, 2, 4), chips(8, of_process=2), 0, "over 2 parts, and 4 processes read them",
         "use data=1 fsdp=4 tensor=2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_nearest_that_does(mesh, devices, rows, problem, remedy):
    with pytest.raises(ExpllmError) as caught:
        check_mesh(mesh, devices, splits=SPLITS, rows=rows)
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


@given(st.integers(1, 4), st.integers(1, 64), st.integers(1, 12), st.integers(1, 12))
def test_a_remedy_is_accepted(data, devices, tensor, heads):
    """Whatever is refused, the first mesh that the error names passes."""
    splits = {"heads": ("tensor", heads)}
    try:
        check_mesh(MeshConfig(data, -1, tensor), chips(devices), splits=splits)
    except ExpllmError as error:
        sizes = re.match(r"use data=(\d+) fsdp=(\d+) tensor=(\d+)", error.remedy)
        check_mesh(MeshConfig(*map(int, sizes.groups())), chips(devices), splits=splits)
