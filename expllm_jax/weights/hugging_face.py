"""Safetensors in the layout of Hugging Face: folders that `transformers` opens, and back.

folder/expllm.json                        our configuration
folder/vision/{config.json,model.safetensors}     Dinov2Model, CLIPVisionModel or SiglipVisionModel
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
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from expllm_jax.errors import ExpllmError
from expllm_jax.models import (
    DecoderConfig,
    ExpLLMConfig,
    LoRAConfig,
    ProjectorConfig,
    ViTConfig,
    abstract,
    dequantize_int8,
    merged,
)
from expllm_jax.weights.decoder_configs import decoder_hf_config
from expllm_jax.weights.naming import SAME, TRANSPOSED, Source, Table, gather, scatter
from expllm_jax.weights.tower_configs import tower_hf_config
from expllm_jax.weights.towers import tower_fillers, tower_table

_WEIGHTS = "model.safetensors"
_CONFIG = "expllm.json"

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


def export_safetensors(params: Mapping[str, jax.Array], config: ExpLLMConfig, folder: str | Path) -> Path:
    """Writes the whole model so that other tools open its parts (see the module's text).

    Adapters are folded in and int8 kernels made full. The folder appears complete or not at all. Position tables are
    exported as stored; a tower with resize "scale_0.1" gives slightly other features in `transformers`, which knows
    "size" (and "antialias" with registers) only.

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
    config, params = merged(config, dict(params))
    if config.decoder.base == "int8":
        decoder, params = dequantize_int8(params, config.decoder, "decoder/")
        config = dataclasses.replace(config, decoder=decoder)
    expected = abstract(config)[1]
    if misfits := sorted(set(expected) ^ set(params)):
        raise ExpllmError(f"parameters do not fit the configuration: {', '.join(misfits)}", "export what was trained")
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        for part, table, settings in _parts(config):
            target = unfinished / part
            target.mkdir(parents=True)
            tensors = scatter(_under(params, f"{part}/"), table)
            if part == "vision":  # Hugging Face's class would complain that they are missing
                tensors |= tower_fillers(config.vision)
            save_file(tensors, target / _WEIGHTS, metadata={"format": "pt"})
            if settings:
                (target / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
        (unfinished / _CONFIG).write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def read_safetensors(folder: str | Path) -> tuple[ExpLLMConfig, dict[str, np.ndarray]]:
    """Reads what `export_safetensors` wrote.

    Raises:
      ExpllmError: a file is missing or damaged, or any weight missing, unexpected or mis-shaped.
    """
    folder = Path(folder)
    config = _read_config(folder / _CONFIG)
    expected = abstract(config)[1]
    params: dict[str, np.ndarray] = {}
    for part, table, _ in _parts(config):
        path = folder / part / _WEIGHTS
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ExpllmError(f"{path} cannot be read: {error}", "export the model again") from error
        leaves = _under(expected, f"{part}/")
        shapes = {name: leaf.shape for name, leaf in leaves.items()}
        dtype = next(iter(leaves.values())).dtype
        read = gather(tensors, table, shapes, origin=str(path), ignored=tower_fillers(config.vision), dtype=dtype)
        params |= {f"{part}/{name}": value for name, value in read.items()}
    return config, {path: params[path] for path in expected}


def _parts(config: ExpLLMConfig) -> tuple[tuple[str, Table, dict[str, Any]], ...]:
    """(folder and path prefix, table, Hugging Face configuration) of each part."""
    return (
        ("vision", tower_table(config.vision), tower_hf_config(config.vision)),
        ("projector", projector_table(config.projector), {}),
        ("decoder", llama_table(config.decoder), decoder_hf_config(config.decoder)),
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
