"""Opening what `exporting` wrote: a whole model in the layout of Hugging Face, and adapters beside it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.models import ExpLLMConfig
from expllm_jax.weights.foreign import ForeignWeights
from expllm_jax.weights.hugging_face import llama_table, projector_table
from expllm_jax.weights.naming import TableValue, inside
from expllm_jax.weights.peft import PARTS, open_adapter
from expllm_jax.weights.safetensors_files import open_safetensors
from expllm_jax.weights.tensor_files import JoinedFiles, TensorFile
from expllm_jax.weights.towers import tower_fillers, tower_table

EXPORT_CONFIG = "expllm.json"


def open_export(folder: str | Path) -> ForeignWeights:
    """Opens what `export_safetensors` wrote, as one whole model; with its adapters, if any lie beside it.

    Raises:
      ExpllmError: a file is missing or damaged.
    """
    folder = Path(folder)
    config = _read_config(folder / EXPORT_CONFIG)
    files: dict[str, TensorFile] = {}
    table: dict[str, TableValue] = {}
    paths = [folder / EXPORT_CONFIG]
    tables = (
        ("vision", tower_table(config.vision)),
        ("projector", projector_table(config.projector)),
        ("decoder", llama_table(config.decoder)),
    )
    for part, names in tables:
        files[f"{part}/"] = found = open_safetensors(folder / part)
        paths += found.paths
        for name, value in names.items():
            table[f"{part}/{name}"] = inside(part, value)
    for part in PARTS:
        beside = folder / f"{part}_adapter"
        if beside.exists():
            lora, found, names = open_adapter(beside, config, part)
            config = dataclasses.replace(config, **{f"{part}_lora": lora})
            files[f"{part}_adapter/"] = found
            paths += found.paths
            table |= {f"{part}_adapter/{name}": source for name, source in names.items()}
    ignored = tuple(f"vision/{name}" for name in tower_fillers(config.vision))
    joined = JoinedFiles(str(folder), files)
    return ForeignWeights("model", "expllm weights export", config, joined, table, tuple(paths), ignored)


def read_safetensors(folder: str | Path) -> tuple[ExpLLMConfig, dict[str, np.ndarray]]:
    """Configuration and parameters, by our paths, out of what `export_safetensors` wrote.

    Raises:
      ExpllmError: as `open_export`; or any weight missing, unexpected or mis-shaped.
    """
    weights = open_export(folder)
    return weights.config, weights.load().params


def _read_config(path: Path) -> ExpLLMConfig:
    try:
        return ExpLLMConfig.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExpllmError(f"{path} is not a readable model configuration: {error}", "export the model again") from error
