"""What the compiler says when memory is short, in its own words; and what arrays take by their shardings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from expllm_jax.fit.memory import OutOfMemory, device_bytes, parse_out_of_memory
from expllm_jax.parallel import MeshConfig, batch_sharding, make_mesh

GIB = 2**30


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (35.28G) "
            "exceeds available HBM (15.75G).",
            OutOfMemory(round(35.28 * GIB), round(15.75 * GIB), arguments=False),
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 16.44G "
            "of 15.75G hbm. Exceeded hbm capacity by 706.41M.\n\nTotal hbm usage >= 16.94G:\n    reserved 512.00M",
            OutOfMemory(round(16.44 * GIB), round(15.75 * GIB), arguments=True),
        ),
        ("INVALID_ARGUMENT: No such compile option: 'xla_not_a_flag'", None),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20M of 16M.", None),
    ],
)
def test_out_of_memory_is_read_from_the_error(message, found):
    assert parse_out_of_memory(message) == found


def test_arrays_count_by_what_one_device_holds():
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    array = jax.ShapeDtypeStruct((8, 16), jnp.bfloat16, sharding=batch_sharding(mesh))
    number = jax.ShapeDtypeStruct((), jnp.uint32)
    assert device_bytes({"a": array, "b": [number, number]}) == 8 * 16 * 2 + 4 + 4
