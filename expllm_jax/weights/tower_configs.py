"""Configurations of vision towers as `transformers` writes them to `config.json`, in both directions.

What a tower computes is translated. How it runs and trains (drop_path, dtype, unroll, remat) is not part of it, except
that the dtype of the weights is noted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.models import ViTConfig
from expllm_jax.models.vit import SWIGLU

# What `transformers` assumes where a file says nothing: published files leave defaults out.
_SIZES = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224}
_DINOV2 = _SIZES | {"mlp_ratio": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "use_swiglu_ffn": False}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "dinov2": _DINOV2 | {"patch_size": 14},
    "dinov2_with_registers": _DINOV2 | {"patch_size": 16, "num_register_tokens": 4},
    "clip_vision_model": _SIZES
    | {"intermediate_size": 3072, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip_vision_model": _SIZES
    | {"intermediate_size": 3072, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}
# Keys that change what is computed and that must have this value where they are given.
_REQUIRED = {
    "num_channels": 3,
    "qkv_bias": True,
    "hidden_dropout_prob": 0,
    "attention_probs_dropout_prob": 0,
    "attention_dropout": 0,
    "drop_path_rate": 0,
}
# configurations of whole models -> that of the tower inside
_WHOLE = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
TOWER_TYPES = (*_DEFAULTS, *_WHOLE)
_ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
_CLASSES = {
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
}


def tower_hf_config(config: ViTConfig) -> dict[str, Any]:
    """The `config.json` with which `transformers` builds the same tower.

    The picture size in it is the one whose grid needs no resize of the position table.

    Raises:
      ExpllmError: a DINOv2 tower that Hugging Face's class cannot be: without LayerScale, or with an mlp_ratio that is
        no whole number.
    """
    kind = _kind(config)
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    common = {
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "patch_size": config.patch,
        "image_size": config.patch * config.native_grid,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_act": names.get(config.feed_forward, "gelu"),  # SwiGLU does not look at it
        "num_channels": 3,
        "torch_dtype": config.param_dtype,
    }
    if config.family != "dinov2":
        head = {"vision_use_head": False} if config.family == "siglip" else {}
        return common | {"intermediate_size": config.mlp_width, "attention_dropout": 0.0} | head
    if not config.layer_scale:
        raise ExpllmError("the tower has no LayerScale, which Dinov2Model cannot do without", "set layer_scale=True")
    if config.mlp_ratio != int(config.mlp_ratio):
        raise ExpllmError(
            f"the tower's mlp_ratio is {config.mlp_ratio}, which Dinov2Model cannot be", "use a whole number"
        )
    registers = {"num_register_tokens": config.registers} if config.registers else {}
    return common | {
        "mlp_ratio": int(config.mlp_ratio),  # transformers refuses a float
        "qkv_bias": True,
        "use_swiglu_ffn": config.feed_forward == SWIGLU,
        **registers,
    }


def tower_config_from_hf(values: Mapping[str, Any], *, origin: str = "config.json") -> ViTConfig:
    """The tower that a `config.json` of `transformers` describes.

    Keys that are not given have the defaults of `transformers`; those that do not change patch tokens are not looked
    at.

    Args:
      values: its content; model_type dinov2, dinov2_with_registers, clip_vision_model or siglip_vision_model, or that
        of a whole clip or siglip, of which the vision part is taken.
      origin: the file, for messages.

    Raises:
      ExpllmError: names the key whose value is not of its kind or describes something that `ViT` does not compute.
    """
    kind = values.get("model_type")
    if kind in _WHOLE:
        # where an old file gives the tower twice, `transformers` believes the second
        inside = values.get("vision_config_dict") or values.get("vision_config") or {}
        if not isinstance(inside, Mapping):
            raise ExpllmError(f"{origin}: vision_config is {inside!r}", "give the settings of the vision part by name")
        return tower_config_from_hf({**inside, "model_type": _WHOLE[kind]}, origin=f"{origin}: vision_config")
    if kind not in _DEFAULTS:
        raise ExpllmError(
            f"{origin}: model_type is {kind!r}, which is no vision tower known here",
            f"choose from {', '.join((*_DEFAULTS, *_WHOLE))}",
        )
    for key, required in _REQUIRED.items():
        if key in values and values[key] != required:
            raise ExpllmError(
                f"{origin}: {key} is {values[key]!r}; only {required!r} is computed here", "use another tower"
            )
    read = {key: _checked(key, values.get(key, default), default, origin) for key, default in _DEFAULTS[kind].items()}
    dino = kind.startswith("dinov2")
    swiglu = read.get("use_swiglu_ffn", False)
    if not swiglu and read["hidden_act"] not in _ACTIVATIONS:
        raise ExpllmError(f"{origin}: hidden_act is {read['hidden_act']!r}", f"choose from {', '.join(_ACTIVATIONS)}")
    return ViTConfig(
        width=read["hidden_size"],
        depth=read["num_hidden_layers"],
        heads=read["num_attention_heads"],
        mlp_ratio=float(read["mlp_ratio"]) if dino else _ratio(read["intermediate_size"], read["hidden_size"]),
        patch=read["patch_size"],
        # pixels that fill no whole patch have no position
        native_grid=read["image_size"] // max(read["patch_size"], 1),
        layer_norm_eps=read["layer_norm_eps"],
        family="dinov2" if dino else kind.split("_")[0],
        feed_forward=SWIGLU if swiglu else _ACTIVATIONS[read["hidden_act"]],
        registers=read.get("num_register_tokens", 0),
        layer_scale=dino,
        resize="antialias" if kind == "dinov2_with_registers" else "size",
    )


def _kind(config: ViTConfig) -> str:
    """The model_type of a tower."""
    if config.family == "dinov2":
        return "dinov2_with_registers" if config.registers else "dinov2"
    return f"{config.family}_vision_model"


def _checked(key: str, value: Any, default: Any, origin: str) -> Any:
    """The value if it is of the same kind as the default; a square written as a pair becomes its side."""
    if key in ("image_size", "patch_size") and isinstance(value, list | tuple) and len(set(value)) == 1:
        value = value[0]
    kinds = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}[type(default)]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        square = ", or a pair of the same whole number twice" if key in ("image_size", "patch_size") else ""
        wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}[type(default)]
        raise ExpllmError(f"{origin}: {key} is {value!r}", f"give {wanted}{square}")
    return value


def _ratio(hidden: int, width: int) -> float:
    """The mlp_ratio with which `ViTConfig.mlp_width` is exactly `hidden`."""
    ratio = hidden / max(width, 1)
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)
