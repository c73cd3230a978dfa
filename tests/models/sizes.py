"""Configurations small enough to compute in milliseconds, with every feature of the large ones."""

from __future__ import annotations

import dataclasses

import numpy as np

from expllm_jax.models import DecoderConfig, ExpLLMConfig, LoRAConfig, ProjectorConfig, ViTConfig, abstract
from expllm_jax.weights import ArraysInMemory, load_params

VISION = ViTConfig(width=32, depth=3, heads=4, patch=4, native_grid=5)
DECODER = DecoderConfig(
    vocab=50, width=48, depth=3, heads=6, kv_heads=2, head_dim=8, mlp_width=64, rope_theta=1000.0, max_length=64
)
LORA = LoRAConfig(rank=2, alpha=8.0, dropout=0.5)
WHOLE = ExpLLMConfig(
    vision=VISION,
    decoder=DECODER,
    vision_layers=(1, -1),
    projector=ProjectorConfig(pool=2),
    vision_lora=LORA,
    decoder_lora=LORA,
    image_token=50,
)
PLAIN = dataclasses.replace(WHOLE, vision_lora=LoRAConfig(), decoder_lora=LoRAConfig())


def changed(config, **changes):
    """`dataclasses.replace`, shorter."""
    return dataclasses.replace(config, **changes)


def random_params(config, *, spread=0.15, seed=0, zero=()):
    """(definition, parameters) in which every leaf matters: no norm at 1, no bias at 0.

    Drawn by NumPy, without compiling anything; leaves whose last name is in `zero` are zeros.
    """
    rng = np.random.default_rng(seed)
    graphdef, shapes = abstract(config)
    params = {}
    for path, leaf in shapes.items():
        name = path.split("/")[-1]
        start = 1.0 if name in ("scale", "scale1", "scale2") else 0.0
        value = start + spread * rng.normal(size=leaf.shape)
        params[path] = np.zeros(leaf.shape, np.float32) if name in zero else value.astype(np.float32)
    return graphdef, params


def loaded(tensors, table, config, *, origin="memory", ignored=()):
    """Our parameters out of foreign tensors that are in memory."""
    return load_params(ArraysInMemory(origin, tensors), table, abstract(config)[1], ignored=ignored).params
