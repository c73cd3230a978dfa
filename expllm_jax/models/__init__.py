"""The networks, as Flax NNX definitions and nothing else: no files, no loops, no state.

`init(config, seed)` gives a definition and a flat dictionary of parameters, `merge(graphdef, params)` the module
again inside a jitted function, and `abstract(config)` the shapes alone, without allocating anything.
"""

from expllm_jax.models.decoder import Decoder, DecoderConfig, KVCache
from expllm_jax.models.decoder_sizes import (
    llama3_8b,
    llama31_8b,
    llama32_1b,
    mistral_7b,
    qwen25_0_5b,
    qwen25_7b,
    smollm2_1_7b,
    smollm2_135m,
    smollm2_360m,
    vicuna_7b,
    vicuna_13b,
)
from expllm_jax.models.decoding import DecodingWeights, SlotCache, decode_token, decoding_weights
from expllm_jax.models.expllm import (
    PAPER_TRAINABLE,
    SEGMENTS,
    ExpLLM,
    ExpLLMConfig,
    attention_mask,
    check_image_tokens,
    expllm_7b,
    merged,
    mesh_splits,
)
from expllm_jax.models.lora import LoRAConfig, merge_lora, unmerge_lora
from expllm_jax.models.params import AbstractParams, ModelDef, Params, abstract, count, init, merge, select, split
from expllm_jax.models.projector import Projector, ProjectorConfig
from expllm_jax.models.quantize import dequantize_int8, from_int8, quantize_int8, to_int8
from expllm_jax.models.unit_regressor import UnitEstimates, UnitRegressor, UnitRegressorConfig, unit_losses
from expllm_jax.models.vit import ViT, ViTConfig
from expllm_jax.models.vit_sizes import clip_l14, siglip_b16, siglip_so400m14, vit_b14, vit_g14, vit_l14, vit_s14

__all__ = [
    "DecodingWeights",
    "SlotCache",
    "check_image_tokens",
    "decode_token",
    "decoding_weights",
    "AbstractParams",
    "Decoder",
    "DecoderConfig",
    "ExpLLM",
    "ExpLLMConfig",
    "KVCache",
    "LoRAConfig",
    "ModelDef",
    "PAPER_TRAINABLE",
    "Params",
    "Projector",
    "ProjectorConfig",
    "SEGMENTS",
    "ViT",
    "ViTConfig",
    "abstract",
    "attention_mask",
    "clip_l14",
    "count",
    "dequantize_int8",
    "expllm_7b",
    "from_int8",
    "init",
    "llama31_8b",
    "llama32_1b",
    "llama3_8b",
    "merge",
    "merge_lora",
    "merged",
    "mesh_splits",
    "mistral_7b",
    "quantize_int8",
    "qwen25_0_5b",
    "qwen25_7b",
    "select",
    "siglip_b16",
    "siglip_so400m14",
    "smollm2_135m",
    "smollm2_1_7b",
    "smollm2_360m",
    "split",
    "to_int8",
    "unmerge_lora",
    "vicuna_13b",
    "vicuna_7b",
    "vit_b14",
    "vit_g14",
    "vit_l14",
    "vit_s14",
    "UnitEstimates",
    "UnitRegressor",
    "UnitRegressorConfig",
    "unit_losses",
]
