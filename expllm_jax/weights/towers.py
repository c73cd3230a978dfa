"""The name tables of all vision towers behind one function, and what else a file of such a tower holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.models import ViTConfig
from expllm_jax.weights import clip, siglip
from expllm_jax.weights.clip import clip_table
from expllm_jax.weights.dinov2 import MASK_TOKEN, META_MASK_TOKEN, dinov2_meta_table, dinov2_table
from expllm_jax.weights.naming import Table
from expllm_jax.weights.siglip import siglip_table

Tensor = TypeVar("Tensor")

_TABLES = {
    ("dinov2", "hugging_face"): dinov2_table,
    ("dinov2", "meta"): dinov2_meta_table,
    ("clip", "hugging_face"): clip_table,
    ("siglip", "hugging_face"): siglip_table,
}
_UNUSED = {
    ("dinov2", "hugging_face"): (MASK_TOKEN,),
    ("dinov2", "meta"): (META_MASK_TOKEN,),
    ("clip", "hugging_face"): tuple(clip.PREFIX + name for name in clip.UNUSED),
    ("siglip", "hugging_face"): tuple(clip.PREFIX + name for name in siglip.UNUSED),
}


def tower_table(config: ViTConfig, layout: str = "hugging_face") -> Table:
    """Foreign name -> where it goes, for every parameter of `ViT(config)`.

    Args:
      config: the tower.
      layout: "hugging_face" (Dinov2Model, Dinov2WithRegistersModel, CLIPVisionModel, SiglipVisionModel, by the names
        in their files) or, for DINOv2, "meta" (Meta's own files, which the released ExpLLM checkpoint follows).

    Raises:
      ExpllmError: there is no such layout of this family.
    """
    return _TABLES[_known(config, layout)](config)


def tower_tensors(tensors: Mapping[str, Tensor], config: ViTConfig, layout: str = "hugging_face") -> dict[str, Tensor]:
    """The tower's tensors out of a file, by their names in `tower_table`, ready for `loading.load_params`.

    Leaves out what patch tokens do not depend on (mask token, pooling heads) and, in files of a whole CLIP or SigLIP,
    the text tower and the projections. Files of either that name their tensors without "vision_model." are understood.
    A tensor that belongs to none of these stays, for the loader to complain about.
    """
    if config.family != "dinov2":
        inside = {name: tensor for name, tensor in tensors.items() if name.startswith(clip.PREFIX)}
        tensors = inside or {clip.PREFIX + name: tensor for name, tensor in tensors.items()}
    unused = _UNUSED[_known(config, layout)]
    return {name: tensor for name, tensor in tensors.items() if name not in unused}


def tower_fillers(config: ViTConfig, layout: str = "hugging_face") -> dict[str, np.ndarray]:
    """Tensors that the foreign class cannot do without although patch tokens do not depend on them.

    They are neutral: a mask token of zeros, a norm that only normalises. SigLIP needs none, because its class is built
    without its head.
    """
    _known(config, layout)
    D, dtype = config.width, config.param_dtype
    if config.family == "dinov2":
        return {META_MASK_TOKEN if layout == "meta" else MASK_TOKEN: np.zeros((1, D), dtype)}
    if config.family == "clip":
        norm = f"{clip.PREFIX}post_layernorm"
        return {f"{norm}.weight": np.ones(D, dtype), f"{norm}.bias": np.zeros(D, dtype)}
    return {}


def _known(config: ViTConfig, layout: str) -> tuple[str, str]:
    key = (config.family, layout)
    if key not in _TABLES:
        known = [name for family, name in _TABLES if family == config.family]
        raise ExpllmError(f"{config.family} towers have no layout {layout!r}", f"choose from {', '.join(known)}")
    return key
