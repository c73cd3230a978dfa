"""Whole models as folders that `transformers` and PEFT open.

    folder/expllm.json                              our configuration of the model without adapters
    folder/vision/{config.json,model.safetensors}   Dinov2Model, CLIPVisionModel or SiglipVisionModel
    folder/decoder/{config.json,model.safetensors}  LlamaForCausalLM
    folder/projector/model.safetensors              layers.N.weight, layers.N.bias
    folder/{vision,decoder}_adapter/                PEFT adapters, where they are not folded in

A part larger than one file is `model-00001-of-0000N.safetensors`, ..., and `model.safetensors.index.json`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.models import AbstractParams, ExpLLMConfig, LoRAConfig, abstract, from_int8, merge_lora
from expllm_jax.models.vit import FAMILIES, fitted_positions
from expllm_jax.weights.decoder_configs import decoder_hf_config
from expllm_jax.weights.hugging_face import llama_table, projector_table
from expllm_jax.weights.naming import Table
from expllm_jax.weights.peft import PARTS, export_adapter
from expllm_jax.weights.tower_configs import tower_hf_config
from expllm_jax.weights.towers import tower_fillers, tower_table
from expllm_jax.weights.writing import (
    SHARD_BYTES,
    ReadLeaf,
    host_reader,
    new_folder,
    pending_array,
    pending_tensors,
    write_shards,
)

AdapterForm = Literal["merged", "peft"]
ADAPTER_FORMS: tuple[AdapterForm, ...] = ("merged", "peft")

_POSITIONS = "vision/position_embedding"


def export_safetensors(
    params: Mapping[str, jax.Array | np.ndarray],
    config: ExpLLMConfig,
    folder: str | Path,
    *,
    adapters: AdapterForm = "merged",
    image_size: int | None = 224,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Writes the whole model so that other tools open its parts (see the module's text).

    The folder appears complete or not at all. Tensors are computed and written one by one, in the dtype of the
    parameters (int8 kernels are scaled back), so that beside the parameters only one of them is in memory.

    Released ExpLLM fits the tower's position table to the picture by the convention "scale_0.1", which `transformers`
    does not know. So the table is written fitted already, by the tower's own convention: at `image_size` both compute
    the same features. The exported tower's stored grid is that of `image_size`; for pictures of other sizes it is
    resized a second time, which is not what this model does. In bfloat16 the fitted table is rounded once more.

    Args:
      params: parameters of `ExpLLM(config)`: NumPy arrays, or JAX arrays sharded over the devices of this process.
      config: its configuration, with adapters if `params` has them.
      folder: must not exist yet.
      adapters: "merged" folds them in (summed in float32); "peft" writes the plain parts, and the adapters beside them.
      image_size: pixels a side of the pictures that the model is used with; None: write the table as it is stored.
      shard_bytes: largest weight file, unless a single tensor is larger.

    Raises:
      ExpllmError: the folder exists, the parameters do not fit the configuration (all misfits are listed), there are no
        adapters to write, or the tower is one that Hugging Face's class cannot be (see `tower_hf_config`).
    """
    folder = Path(folder)
    loras = {"vision": config.vision_lora, "decoder": config.decoder_lora}
    if adapters not in ADAPTER_FORMS:
        raise ExpllmError(f"adapters cannot be written {adapters!r}", f"choose from {', '.join(ADAPTER_FORMS)}")
    if adapters == "peft" and not any(lora.rank for lora in loras.values()):
        raise ExpllmError("the model has no adapters to write", "export it merged")
    if shard_bytes < 1:
        raise ExpllmError(f"a file cannot be {shard_bytes} bytes large", "give a positive number; usual is 5 GB")
    _check_params(params, abstract(config)[1])
    plain, params = _at_image_size(config, params, image_size)
    full = dataclasses.replace(plain.decoder, base="full")
    plain = dataclasses.replace(plain, decoder=full, vision_lora=LoRAConfig(), decoder_lora=LoRAConfig())
    leaves = abstract(plain)[1]
    read = _full_reader(params, full.param_dtype)
    if adapters == "merged":
        read = _folding_reader(params, read, loras)
    with new_folder(folder) as unfinished:
        for part, table, settings in _parts(plain):
            (unfinished / part).mkdir()
            tensors = pending_tensors(
                table, _under(leaves, part), lambda path, layer, at=part: read(f"{at}/{path}", layer)
            )
            if part == "vision":  # Hugging Face's class would complain that they are missing
                tensors |= {name: pending_array(array) for name, array in tower_fillers(plain.vision).items()}
            write_shards(unfinished / part, tensors, shard_bytes)
            if settings:
                (unfinished / part / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
        if adapters == "peft":
            for part in PARTS:
                if loras[part].rank:
                    export_adapter(params, config, part, unfinished / f"{part}_adapter")
        (unfinished / "expllm.json").write_text(json.dumps(dataclasses.asdict(plain), indent=2) + "\n")
    return folder


def _check_params(params: Mapping[str, jax.Array | np.ndarray], expected: AbstractParams) -> None:
    """Raises listing every parameter that is missing, unexpected, or of another shape or dtype."""
    problems = [f"missing {path}" for path in sorted(set(expected) - set(params))]
    problems += [f"unexpected {path}" for path in sorted(set(params) - set(expected))]
    for path in sorted(set(params) & set(expected)):
        found, wanted = params[path], expected[path]
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            problems.append(f"{path} is {found.dtype} {found.shape}, not {wanted.dtype} {wanted.shape}")
    if problems:
        raise ExpllmError(f"parameters do not fit the configuration: {'; '.join(problems)}", "export what was trained")


def _at_image_size(
    config: ExpLLMConfig, params: Mapping[str, jax.Array | np.ndarray], image_size: int | None
) -> tuple[ExpLLMConfig, Mapping[str, jax.Array | np.ndarray]]:
    """The same model with the position table that it computes for pictures of this size as its stored one."""
    if image_size is None:
        return config, params
    grid, _ = config.vision.grid(image_size, image_size)
    if grid == config.vision.native_grid:
        return config, params
    table = host_reader(params)(_POSITIONS, None)
    of_cls, of_patches = np.split(table, [FAMILIES[config.vision.family].cls_token])
    fitted = np.asarray(fitted_positions(config.vision, of_patches.astype(np.float32), grid, grid))
    resized = np.concatenate([of_cls, fitted.astype(table.dtype)])
    vision = dataclasses.replace(config.vision, native_grid=grid)
    return dataclasses.replace(config, vision=vision), {**params, _POSITIONS: resized}


def _full_reader(params: Mapping[str, jax.Array | np.ndarray], dtype: str) -> ReadLeaf:
    """Reads leaves as they are, but int8 kernels scaled back to full ones."""
    read = host_reader(params)

    def full(path: str, layer: int | None) -> np.ndarray:
        if f"{path}_scale" not in params:
            return read(path, layer)
        return from_int8(read(path, layer), read(f"{path}_scale", layer)).astype(dtype)

    return full


def _folding_reader(
    params: Mapping[str, jax.Array | np.ndarray], read: ReadLeaf, loras: Mapping[str, LoRAConfig]
) -> ReadLeaf:
    """Reads kernels with their adapters folded in, each layer when it is asked for: no second model is ever made."""

    def folded(path: str, layer: int | None) -> np.ndarray:
        stem = path.removesuffix("/kernel")
        if f"{stem}/lora_a" not in params:
            return read(path, layer)
        one = {name: read(name, layer) for name in (path, f"{stem}/lora_a", f"{stem}/lora_b")}
        return np.asarray(merge_lora(one, loras[path.split("/")[0]])[path])

    return folded


def _parts(config: ExpLLMConfig) -> tuple[tuple[str, Table, dict[str, Any]], ...]:
    """(folder and path prefix, table, Hugging Face configuration) of each part."""
    return (
        ("vision", tower_table(config.vision), tower_hf_config(config.vision)),
        ("projector", projector_table(config.projector), {}),
        ("decoder", llama_table(config.decoder), decoder_hf_config(config.decoder)),
    )


def _under(leaves: AbstractParams, part: str) -> AbstractParams:
    return {path.removeprefix(f"{part}/"): leaf for path, leaf in leaves.items() if path.startswith(f"{part}/")}
