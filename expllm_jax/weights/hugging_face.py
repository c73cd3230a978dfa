"""Safetensors in the layout of Hugging Face: folders that `transformers` opens, and back.

folder/expllm.json                        our configuration
folder/vision/{config.json,model.safetensors}     Dinov2Model
folder/decoder/{config.json,model.safetensors}    LlamaForCausalLM
folder/projector/model.safetensors        layers.N.weight, layers.N.bias
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from expllm_jax.errors import ExpllmError
from expllm_jax.models import (
    DecoderConfig,
    ExpLLMConfig,
    LoRAConfig,
    ProjectorConfig,
    ViTConfig,
    abstract,
    merged,
)
from expllm_jax.models.layers.rope import parse_rope_scaling
from expllm_jax.weights.dinov2 import MASK_TOKEN, dinov2_table
from expllm_jax.weights.foreign import ForeignWeights
from expllm_jax.weights.naming import SAME, TRANSPOSED, Source, Table, scatter, sources_of
from expllm_jax.weights.safetensors_files import open_safetensors
from expllm_jax.weights.tensor_files import JoinedFiles

_WEIGHTS = "model.safetensors"
EXPORT_CONFIG = "expllm.json"

# Hugging Face name inside `model.layers.N.` -> our path inside `blocks/`
_LLAMA_BLOCK = {
    "input_layernorm.weight": "norm1/scale",
    "self_attn.q_proj.weight": "attn/q/kernel",
    "self_attn.k_proj.weight": "attn/k/kernel",
    "self_attn.v_proj.weight": "attn/v/kernel",
    "self_attn.o_proj.weight": "attn/o/kernel",
    "post_attention_layernorm.weight": "norm2/scale",
    "mlp.gate_proj.weight": "mlp/gate/kernel",
    "mlp.up_proj.weight": "mlp/up/kernel",
    "mlp.down_proj.weight": "mlp/down/kernel",
}
_QKV_BIAS = {f"self_attn.{name}_proj.bias": f"attn/{name}/bias" for name in "qkv"}


def llama_table(config: DecoderConfig) -> dict[str, Source]:
    """Hugging Face `LlamaForCausalLM` name -> where it goes (no `lm_head.weight` when it is tied)."""
    table = {"model.embed_tokens.weight": Source("embedding"), "model.norm.weight": Source("norm/scale")}
    if not config.tied:
        table["lm_head.weight"] = Source("lm_head/kernel", transform=TRANSPOSED)
    block = _LLAMA_BLOCK | (_QKV_BIAS if config.qkv_bias else {})
    for layer in range(config.depth):
        for name, path in block.items():
            transform = TRANSPOSED if path.endswith("/kernel") else SAME
            table[f"model.layers.{layer}.{name}"] = Source(f"blocks/{path}", layer, transform)
    return table


def projector_table(config: ProjectorConfig) -> dict[str, Source]:
    """`layers.N.weight` and `.bias`, laid out as PyTorch's Linear."""
    table = {}
    for layer in range(config.depth):
        table[f"layers.{layer}.weight"] = Source(f"layers/{layer}/kernel", transform=TRANSPOSED)
        table[f"layers.{layer}.bias"] = Source(f"layers/{layer}/bias")
    return table


def dinov2_hf_config(config: ViTConfig) -> dict[str, Any]:
    """The `config.json` with which `transformers` builds the same tower."""
    registers = {"num_register_tokens": config.registers} if config.registers else {}
    return {
        "architectures": ["Dinov2WithRegistersModel" if registers else "Dinov2Model"],
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "mlp_ratio": int(config.mlp_ratio),  # transformers refuses a float
        "patch_size": config.patch,
        "image_size": config.patch * config.native_grid,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_act": "gelu",
        "num_channels": 3,
        "qkv_bias": True,
        "use_swiglu_ffn": False,
        "torch_dtype": config.param_dtype,
        **registers,
    }


def llama_hf_config(config: DecoderConfig) -> dict[str, Any]:
    """The `config.json` with which `transformers` builds the same decoder; Qwen2 is LLaMA with q, k, v biases."""
    factor = parse_rope_scaling(config.rope_scaling)
    return {
        "architectures": ["Qwen2ForCausalLM" if config.qkv_bias else "LlamaForCausalLM"],
        "model_type": "qwen2" if config.qkv_bias else "llama",
        "vocab_size": config.vocab,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_width,
        "rope_theta": config.rope_theta,
        "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": factor} if factor != 1 else None,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "max_position_embeddings": config.max_length,
        "hidden_act": "silu",
        "torch_dtype": config.param_dtype,
    }


def export_safetensors(params: Mapping[str, jax.Array], config: ExpLLMConfig, folder: str | Path) -> Path:
    """Writes the whole model, adapters folded in, so that other tools open its parts (see the module's text).

    The folder appears complete or not at all. Position tables are exported as stored; a tower with resize "scale_0.1"
    gives slightly other features in `transformers`, which knows "size" (and "antialias" with registers) only.

    Args:
      params: parameters of `ExpLLM(config)`.
      config: its configuration, with adapters if `params` has them.
      folder: must not exist yet.

    Raises:
      ExpllmError: the folder exists, the parameters do not fit the configuration, or the tower is one that Hugging
        Face's Dinov2Model cannot be (without LayerScale, or with an mlp_ratio that is no whole number).
    """
    folder = Path(folder)
    if folder.exists():
        raise ExpllmError(f"{folder} exists already", "choose a new folder, or remove it first")
    if not config.vision.layer_scale:
        raise ExpllmError("the tower has no LayerScale, which Dinov2Model cannot do without", "set layer_scale=True")
    if config.vision.mlp_ratio != int(config.vision.mlp_ratio):
        raise ExpllmError(
            f"the tower's mlp_ratio is {config.vision.mlp_ratio}, which Dinov2Model cannot be", "use a whole number"
        )
    config, params = merged(config, dict(params))
    expected = abstract(config)[1]
    if misfits := sorted(set(expected) ^ set(params)):
        raise ExpllmError(f"parameters do not fit the configuration: {', '.join(misfits)}", "export what was trained")
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        for part, table, settings in _parts(config):
            target = unfinished / part
            target.mkdir(parents=True)
            tensors = scatter(_under(params, f"{part}/"), table)
            if part == "vision":  # Hugging Face's class has one, and would complain that it is missing
                tensors[MASK_TOKEN] = np.zeros((1, config.vision.width), config.vision.param_dtype)
            save_file(tensors, target / _WEIGHTS, metadata={"format": "pt"})
            if settings:
                (target / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
        (unfinished / EXPORT_CONFIG).write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def open_export(folder: str | Path) -> ForeignWeights:
    """Opens what `export_safetensors` wrote, as one whole model.

    Raises:
      ExpllmError: a file is missing or damaged.
    """
    folder = Path(folder)
    config = _read_config(folder / EXPORT_CONFIG)
    files, table, paths = {}, {}, [folder / EXPORT_CONFIG]
    for part, part_table, _ in _parts(config):
        files[f"{part}/"] = found = open_safetensors(folder / part)
        paths += found.paths
        for name, value in part_table.items():
            table[f"{part}/{name}"] = tuple(
                dataclasses.replace(source, path=f"{part}/{source.path}") for source in sources_of(value)
            )
    ignored = (f"vision/{MASK_TOKEN}",)
    joined = JoinedFiles(str(folder), files)
    return ForeignWeights("model", "expllm weights export", config, joined, table, tuple(paths), ignored)


def read_safetensors(folder: str | Path) -> tuple[ExpLLMConfig, dict[str, np.ndarray]]:
    """Configuration and parameters, by our paths, out of what `export_safetensors` wrote.

    Raises:
      ExpllmError: as `open_export`; or any weight missing, unexpected or mis-shaped.
    """
    weights = open_export(folder)
    return weights.config, weights.load().params


def _parts(config: ExpLLMConfig) -> tuple[tuple[str, Table, dict[str, Any]], ...]:
    """(folder and path prefix, table, Hugging Face configuration) of each part."""
    return (
        ("vision", dinov2_table(config.vision), dinov2_hf_config(config.vision)),
        ("projector", projector_table(config.projector), {}),
        ("decoder", llama_table(config.decoder), llama_hf_config(config.decoder)),
    )


def _under(params: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {path.removeprefix(prefix): leaf for path, leaf in params.items() if path.startswith(prefix)}


def _read_config(path: Path) -> ExpLLMConfig:
    try:
        values = json.loads(path.read_text())
        return ExpLLMConfig(
            vision=ViTConfig(**values.pop("vision")),
            decoder=DecoderConfig(**values.pop("decoder")),
            projector=ProjectorConfig(**values.pop("projector")),
            vision_lora=LoRAConfig(**values.pop("vision_lora")),
            decoder_lora=LoRAConfig(**values.pop("decoder_lora")),
            **values,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExpllmError(f"{path} is not a readable model configuration: {error}", "export the model again") from error
