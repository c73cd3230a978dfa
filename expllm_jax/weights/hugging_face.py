"""The layout of Hugging Face's files: names and configurations, and reading folders that `exporting` wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from expllm_jax.errors import ExpllmError
from expllm_jax.models import (
    DecoderConfig,
    ExpLLMConfig,
    LoRAConfig,
    ProjectorConfig,
    ViTConfig,
    abstract,
)
from expllm_jax.weights.naming import SAME, TRANSPOSED, Source, Table, gather
from expllm_jax.weights.towers import tower_fillers, tower_table
from expllm_jax.weights.writing import INDEX, WEIGHTS

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


def read_safetensors(folder: str | Path) -> tuple[ExpLLMConfig, dict[str, np.ndarray]]:
    """Reads what `export_safetensors` wrote.

    Raises:
      ExpllmError: a file is missing or damaged, or any weight missing, unexpected or mis-shaped.
    """
    folder = Path(folder)
    from expllm_jax.weights.peft import attach_adapters  # it imports the tables above

    config = _read_config(folder / _CONFIG)
    expected = abstract(config)[1]
    params: dict[str, np.ndarray] = {}
    for part, table in _parts(config):
        path = folder / part / WEIGHTS
        tensors = _load(path)
        leaves = _under(expected, f"{part}/")
        shapes = {name: leaf.shape for name, leaf in leaves.items()}
        dtype = next(iter(leaves.values())).dtype
        read = gather(tensors, table, shapes, origin=str(path), ignored=tower_fillers(config.vision), dtype=dtype)
        params |= {f"{part}/{name}": value for name, value in read.items()}
    config, params = attach_adapters(folder, config, params)
    return config, dict(sorted(params.items()))


def _load(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file, or of the numbered files that an index beside it lists."""
    try:
        index = path.with_name(INDEX)
        if path.exists() or not index.exists():
            return load_file(path)
        places = json.loads(index.read_text())["weight_map"]
        tensors: dict[str, np.ndarray] = {}
        for file in sorted(set(places.values())):
            tensors |= load_file(path.with_name(file))
        return tensors
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ExpllmError(f"{path} cannot be read: {error}", "export the model again") from error


def _parts(config: ExpLLMConfig) -> tuple[tuple[str, Table], ...]:
    """(folder and path prefix, table) of each part."""
    return (
        ("vision", tower_table(config.vision)),
        ("projector", projector_table(config.projector)),
        ("decoder", llama_table(config.decoder)),
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
