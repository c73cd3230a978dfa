"""Layers that the towers share: linear (with its adapter), norms, activations, drop path, rotary positions, the layer
loop.
"""

from expllm_jax.models.layers.activation import ACTIVATIONS, gelu
from expllm_jax.models.layers.drop_path import branch_factors
from expllm_jax.models.layers.linear import Linear
from expllm_jax.models.layers.loop import REMAT_POLICIES, run_layers, unroll_count
from expllm_jax.models.layers.norm import LayerNorm, RMSNorm, rms_norm
from expllm_jax.models.layers.resize import bicubic_matrix
from expllm_jax.models.layers.rope import apply_rope, rope_tables

__all__ = [
    "ACTIVATIONS",
    "REMAT_POLICIES",
    "LayerNorm",
    "Linear",
    "RMSNorm",
    "apply_rope",
    "bicubic_matrix",
    "branch_factors",
    "gelu",
    "rms_norm",
    "rope_tables",
    "run_layers",
    "unroll_count",
]
