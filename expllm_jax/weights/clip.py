"""CLIP's vision tower: names in Hugging Face's `CLIPVisionModel`."""

from __future__ import annotations

from expllm_jax.models import ViTConfig
from expllm_jax.weights.naming import Source, Table, Transform
from expllm_jax.weights.tower_layouts import block_entries, patch_kernel

# Before every name in published files. Since version 5 `transformers` writes files without it, and reads both.
PREFIX = "vision_model."
# Names inside `encoder.layers.N.` -> paths inside `blocks/`, of SigLIP as well
BLOCK = {
    "layer_norm1.weight": "norm1/scale",
    "layer_norm1.bias": "norm1/bias",
    "self_attn.q_proj.weight": "attn/q/kernel",
    "self_attn.q_proj.bias": "attn/q/bias",
    "self_attn.k_proj.weight": "attn/k/kernel",
    "self_attn.k_proj.bias": "attn/k/bias",
    "self_attn.v_proj.weight": "attn/v/kernel",
    "self_attn.v_proj.bias": "attn/v/bias",
    "self_attn.out_proj.weight": "attn/o/kernel",
    "self_attn.out_proj.bias": "attn/o/bias",
    "layer_norm2.weight": "norm2/scale",
    "layer_norm2.bias": "norm2/bias",
    "mlp.fc1.weight": "mlp/fc1/kernel",
    "mlp.fc1.bias": "mlp/fc1/bias",
    "mlp.fc2.weight": "mlp/fc2/kernel",
    "mlp.fc2.bias": "mlp/fc2/bias",
}
# The norm of the head, and a table of the numbers 0, 1, 2 ... that older files store
UNUSED = ("post_layernorm.weight", "post_layernorm.bias", "embeddings.position_ids")


def clip_table(config: ViTConfig) -> Table:
    """Hugging Face `CLIPVisionModel` name -> where it goes. The norm of its head is left out."""
    one_row = Transform(lambda w: w.reshape(1, config.width), lambda w: w.reshape(config.width))
    return {
        # the misspelling is theirs
        f"{PREFIX}pre_layrnorm.weight": Source("pre_norm/scale"),
        f"{PREFIX}pre_layrnorm.bias": Source("pre_norm/bias"),
        f"{PREFIX}embeddings.class_embedding": Source("cls_token", transform=one_row),
        f"{PREFIX}embeddings.position_embedding.weight": Source("position_embedding"),
        f"{PREFIX}embeddings.patch_embedding.weight": Source("patch_embed/kernel", transform=patch_kernel(config)),
        **block_entries(config, f"{PREFIX}encoder.layers", BLOCK),
    }
