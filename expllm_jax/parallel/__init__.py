"""How arrays lie on devices: the mesh, the one table from names to axes, and attention by platform.

Everything that depends on the number or kind of devices is decided here; the models only name their axes.
"""

from expllm_jax.parallel.accelerators import ACCELERATORS, Accelerator, accelerator_of
from expllm_jax.parallel.attention import ATTENTION, attention
from expllm_jax.parallel.cpu_attention import SAVED as SAVED_ATTENTION
from expllm_jax.parallel.mesh import MESH_AXES, MeshConfig, check_mesh, make_mesh
from expllm_jax.parallel.presets import PRESETS, Preset, preset
from expllm_jax.parallel.sharding import (
    ACTIVATION_RULES,
    LOGICAL_AXES,
    PARAM_RULES,
    activation_spec,
    batch_sharding,
    constrain,
    gather_stored,
    logical_axes,
    param_shardings,
    partition_spec,
    shard_params,
    shards,
)
from expllm_jax.parallel.splash_attention import splash_attention, splash_fits

__all__ = [
    "ACCELERATORS",
    "ACTIVATION_RULES",
    "ATTENTION",
    "LOGICAL_AXES",
    "MESH_AXES",
    "PARAM_RULES",
    "PRESETS",
    "SAVED_ATTENTION",
    "Accelerator",
    "MeshConfig",
    "Preset",
    "accelerator_of",
    "activation_spec",
    "attention",
    "batch_sharding",
    "check_mesh",
    "constrain",
    "gather_stored",
    "logical_axes",
    "make_mesh",
    "param_shardings",
    "partition_spec",
    "preset",
    "shard_params",
    "shards",
    "splash_attention",
    "splash_fits",
]
