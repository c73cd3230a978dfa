"""How arrays lie on devices: the mesh, the one table from names to axes, and attention by platform.

Everything that depends on the number or kind of devices is decided here; the models only name their axes.
"""

from expllm_jax.parallel.accelerators import ACCELERATORS, Accelerator, accelerator_of
from expllm_jax.parallel.attention import ATTENTION, attention
from expllm_jax.parallel.cluster import DistributedConfig, Place
from expllm_jax.parallel.cpu_attention import SAVED as SAVED_ATTENTION
from expllm_jax.parallel.distributed import (
    barrier,
    heard_by_first,
    is_first,
    process_count,
    process_hosts,
    process_id,
    start_distributed,
    tell_first,
    together,
)
from expllm_jax.parallel.mesh import MESH_AXES, MeshConfig, check_mesh, make_mesh
from expllm_jax.parallel.presets import PRESETS, Preset, preset
from expllm_jax.parallel.sharding import (
    ACTIVATION_RULES,
    LOGICAL_AXES,
    PARAM_RULES,
    activation_spec,
    automatic,
    batch_sharding,
    constrain,
    explicit_layout,
    gather_stored,
    gathered,
    is_explicit,
    logical_axes,
    lookup,
    param_shardings,
    partition_spec,
    product,
    reshaped,
    shard_params,
    shards,
    taken,
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
    "DistributedConfig",
    "MeshConfig",
    "Place",
    "Preset",
    "accelerator_of",
    "activation_spec",
    "attention",
    "automatic",
    "barrier",
    "batch_sharding",
    "check_mesh",
    "constrain",
    "explicit_layout",
    "gather_stored",
    "gathered",
    "heard_by_first",
    "is_explicit",
    "is_first",
    "logical_axes",
    "lookup",
    "make_mesh",
    "param_shardings",
    "partition_spec",
    "preset",
    "process_count",
    "process_hosts",
    "process_id",
    "product",
    "reshaped",
    "shard_params",
    "shards",
    "splash_attention",
    "splash_fits",
    "start_distributed",
    "taken",
    "tell_first",
    "together",
]
