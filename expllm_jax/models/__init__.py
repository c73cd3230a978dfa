"""The networks, as Flax NNX definitions and nothing else: no files, no loops, no state.

`init(config, seed)` gives a definition and a flat dictionary of parameters, `merge(graphdef, params)` the module
again inside a jitted function, and `abstract(config)` the shapes alone, without allocating anything.
"""

from expllm_jax.models.decoder import Decoder, DecoderConfig, KVCache, smollm2_135m, vicuna_7b
from expllm_jax.models.expllm import PAPER_TRAINABLE, ExpLLM, ExpLLMConfig, attention_mask, expllm_7b, merged
from expllm_jax.models.lora import LoRAConfig, merge_lora, unmerge_lora
from expllm_jax.models.params import AbstractParams, ModelDef, Params, abstract, count, init, merge, select, split
from expllm_jax.models.projector import Projector, ProjectorConfig
from expllm_jax.models.vit import ViT, ViTConfig, vit_b14, vit_l14, vit_s14

__all__ = [
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
    "count",
    "expllm_7b",
    "init",
    "merge",
    "merge_lora",
    "merged",
    "select",
    "smollm2_135m",
    "split",
    "unmerge_lora",
    "vicuna_7b",
    "vit_b14",
    "vit_l14",
    "vit_s14",
]
