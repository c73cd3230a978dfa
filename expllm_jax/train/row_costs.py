"""What a packer has to know of a model: pictures and attention in tokens of the decoder."""

from __future__ import annotations

import dataclasses

from expllm_jax.models import ExpLLMConfig
from expllm_jax.records import PackingConfig


def with_row_costs(packing: PackingConfig, model: ExpLLMConfig, pixels: int, *, encoded: bool = False) -> PackingConfig:
    """`packing` with the costs that are 0 filled in from the model's multiplications.

    One token of the decoder takes, in every layer, its matrix products, and as many times 2 x heads x head_dim for
    attention as the row has tokens (all of them are computed, masked or not). A picture takes the tower's products and
    its attention.

    Args:
      packing: see PackingConfig.
      model: of the run.
      pixels: a side of the pictures.
      encoded: the tower's features are read from a file, so that a picture costs the projector alone.
    """
    decoder, tower = model.decoder, model.vision
    inner = decoder.heads * decoder.head_dim
    token = 2 * decoder.width * (inner + decoder.kv_heads * decoder.head_dim) + 3 * decoder.width * decoder.mlp_width
    down, across = tower.grid(pixels, pixels)
    patches = down * across
    block = patches * (4 + 2 * tower.mlp_ratio) * tower.width**2 + 2 * patches**2 * tower.width
    projector = model.image_tokens(pixels, pixels) * decoder.width * (
        model.vision_width * model.projector.pool**2 + (model.projector.depth - 1) * decoder.width
    )  # fmt: skip
    picture = projector + (0 if encoded else block * tower.depth)
    return dataclasses.replace(
        packing,
        picture_cost=packing.picture_cost or round(picture / (token * decoder.depth), 2),
        attention_length=packing.attention_length or round(token / (2 * inner)),
    )
