"""Folders in the layout of Hugging Face, opened: one tower, one decoder, or a whole model that we exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.models import DecoderConfig
from expllm_jax.weights.decoder_configs import DECODER_TYPES, decoder_config_from_hf
from expllm_jax.weights.dinov2 import is_meta_dinov2, open_meta_dinov2
from expllm_jax.weights.foreign import ForeignWeights
from expllm_jax.weights.hugging_face import llama_table
from expllm_jax.weights.released import is_released, open_released
from expllm_jax.weights.safetensors_files import SafetensorsFiles, open_safetensors
from expllm_jax.weights.tensor_files import RenamedTensors
from expllm_jax.weights.tower_configs import TOWER_TYPES, tower_config_from_hf
from expllm_jax.weights.towers import tower_table, tower_tensors

CONFIG = "config.json"
_ROTARY = "rotary_emb.inv_freq"  # a buffer that older exporters stored; it follows from the configuration


def open_hf_folder(path: str | Path) -> ForeignWeights:
    """Opens a folder with config.json and safetensors: one file, or shards and their index. A DINOv2 tower by Meta's
    names needs no config.json.

    Args:
      path: the folder, or the file or index in it that is meant.

    Raises:
      ExpllmError: a file is missing or damaged, or the model is of an architecture that is not known here.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    files = open_safetensors(path)
    if is_meta_dinov2(files):
        return open_meta_dinov2(files, files.paths)
    settings = read_hf_settings(folder)
    paths = (folder / CONFIG, *files.paths)
    kind = settings.get("model_type")
    if is_released(files):
        return open_released(files, settings, paths)
    if kind in TOWER_TYPES:
        config = tower_config_from_hf(settings, origin=str(folder / CONFIG))
        # of a whole CLIP or SigLIP the tower alone; whatever else may be in such a file is no misfit
        names = tower_tensors({name: name for name in files.tensors}, config)
        tower = RenamedTensors(files, names)
        return ForeignWeights("vision", f"Hugging Face {kind}", config, tower, tower_table(config), paths)
    if kind in DECODER_TYPES:
        config = _decoder_config(settings, folder / CONFIG)
        return ForeignWeights(
            "decoder", f"Hugging Face {kind}", config, files, llama_table(config), paths, _unneeded(files, config)
        )
    raise ExpllmError(
        f"{folder / CONFIG} describes a model of type {kind!r}",
        f"known: {', '.join((*TOWER_TYPES, *DECODER_TYPES))}, and the released ExpLLM",
    )


def _decoder_config(settings: dict[str, Any], path: Path) -> DecoderConfig:
    """The decoder's configuration; of one with a sliding window, for rows that are too short to feel it."""
    window = settings.get("sliding_window") if settings["model_type"] == "mistral" else None
    try:
        return decoder_config_from_hf(settings, **({"max_length": window} if window else {}))
    except ExpllmError as error:
        raise ExpllmError(f"{path}: {error.problem}", error.remedy) from error


def read_hf_settings(folder: Path) -> dict[str, Any]:
    """The parsed config.json of a folder; raises ExpllmError if it is missing or no JSON object."""
    path = folder / CONFIG
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExpllmError(
            f"{path} cannot be read: {error.strerror}", "put the config.json that came with the weights beside them"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ExpllmError(f"{path} is no JSON: {error}", "copy it again") from error
    if not isinstance(settings, dict):
        raise ExpllmError(f"{path} holds no JSON object", "copy it again")
    return settings


def _unneeded(files: SafetensorsFiles, config: DecoderConfig) -> tuple[str, ...]:
    """Names that a sound decoder may have beside its weights."""
    names = [name for name in files.tensors if name.endswith(_ROTARY)]
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if config.tied and head in files.tensors and embedding in files.tensors:
        # Some tools store a tied head again. It may be left out only where it is the embedding.
        same = files.tensors[head] == files.tensors[embedding]
        if not same or not np.array_equal(files.read(head).view(np.uint8), files.read(embedding).view(np.uint8)):
            raise ExpllmError(
                f"{files.origin}: config.json ties the head to the embedding, but {head} is another tensor",
                'set "tie_word_embeddings": false in config.json if the head is meant',
            )
        names.append(head)
    return tuple(names)
