"""The networks, as Flax NNX definitions and nothing else: no files, no loops, no state.

`init(config, seed)` gives a definition and a flat dictionary of parameters, `merge(graphdef, params)` the module
again inside a jitted function, and `abstract(config)` the shapes alone, without allocating anything.
"""

from expllm_jax.models.decoder import Decoder, DecoderConfig, KVCache, smollm2_135m, vicuna_7b
from expllm_jax.models.decoding import DecodingWeights, SlotCache, decode_token, decoding_weights
from expllm_jax.models.expllm import (
    PAPER_TRAINABLE,
    ExpLLM,
    ExpLLMConfig,
    attention_mask,
    check_image_tokens,
    expllm_7b,
    merged,
)
from expllm_jax.models.lora import LoRAConfig, merge_lora
from expllm_jax.models.params import AbstractParams, ModelDef, Params, abstract, count, init, merge, select, split
from expllm_jax.models.projector import Projector, ProjectorConfig
from expllm_jax.models.vit import ViT, ViTConfig
from expllm_jax.models.vit_sizes import clip_l14, siglip_b16, siglip_so400m14, vit_b14, vit_g14, vit_l14, vit_s14

__all__ = [
    "decoding_weights",
    "decode_token",
    "check_image_tokens",
    "SlotCache",
    "DecodingWeights",
    "PAPER_TRAINABLE",
    "AbstractParams",
    "Decoder",
    "DecoderConfig",
    "ExpLLM",
    "ExpLLMConfig",
    "KVCache",
    "LoRAConfig",
    "ModelDef",
    "Params",
    "Projector",
    "ProjectorConfig",
    "ViT",
    "ViTConfig",
    "abstract",
    "attention_mask",
    "clip_l14",
    "count",
    "expllm_7b",
    "init",
    "merge",
    "merge_lora",
    "merged",
    "select",
    "siglip_b16",
    "siglip_so400m14",
    "smollm2_135m",
    "split",
    "vicuna_7b",
    "vit_b14",
    "vit_g14",
    "vit_l14",
    "vit_s14",
]
