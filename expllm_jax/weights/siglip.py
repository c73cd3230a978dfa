"""SigLIP's vision tower: names in Hugging Face's `SiglipVisionModel`, whose blocks are named as CLIP's."""

from __future__ import annotations

from expllm_jax.models import ViTConfig
from expllm_jax.weights.clip import BLOCK, PREFIX
from expllm_jax.weights.naming import Source, Table
from expllm_jax.weights.tower_layouts import block_entries, patch_kernel

# Attention pooling, and a table of the numbers 0, 1, 2 ... that older files store
UNUSED = (
    "head.probe",
    "head.attention.in_proj_weight",
    "head.attention.in_proj_bias",
    "head.attention.out_proj.weight",
    "head.attention.out_proj.bias",
    "head.layernorm.weight",
    "head.layernorm.bias",
    "head.mlp.fc1.weight",
    "head.mlp.fc1.bias",
    "head.mlp.fc2.weight",
    "head.mlp.fc2.bias",
    "embeddings.position_ids",
)


def siglip_table(config: ViTConfig) -> Table:
    """Hugging Face `SiglipVisionModel` name -> where it goes. The pooling head is left out."""
    return {
        f"{PREFIX}embeddings.position_embedding.weight": Source("position_embedding"),
        f"{PREFIX}embeddings.patch_embedding.weight": Source("patch_embed/kernel", transform=patch_kernel(config)),
        f"{PREFIX}embeddings.patch_embedding.bias": Source("patch_embed/bias"),
        f"{PREFIX}post_layernorm.weight": Source("norm/scale"),
        f"{PREFIX}post_layernorm.bias": Source("norm/bias"),
        **block_entries(config, f"{PREFIX}encoder.layers", BLOCK),
    }
