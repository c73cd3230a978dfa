from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.parallel import MESH_AXES, MeshConfig, make_mesh

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
