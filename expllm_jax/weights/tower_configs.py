"""What a Hugging Face `config.json` says of a vision tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.models import ViTConfig

TOWER_TYPES = ("dinov2", "dinov2_with_registers")


def tower_config_from_hf(settings: Mapping[str, Any]) -> ViTConfig:
    """The tower that `transformers` would build of `settings` (a parsed config.json; defaults are those of its class).

    Raises:
      ExpllmError: another architecture, or a feature that `ViT` does not have.
    """
    kind = settings.get("model_type")
    if kind not in TOWER_TYPES:
        raise ExpllmError(
            f"config.json describes a {kind!r} model, no DINOv2 tower", f"known: {', '.join(TOWER_TYPES)}"
        )
    for key, needed in (
        ("use_swiglu_ffn", False),
        ("qkv_bias", True),
        ("hidden_act", "gelu"),
        ("num_channels", 3),
    ):
        if settings.get(key, needed) != needed:
            raise ExpllmError(f"config.json has {key}={settings[key]!r}", f"only {key}={needed!r} is supported")
    registers = int(settings.get("num_register_tokens", 4)) if kind == "dinov2_with_registers" else 0
    patch = int(settings.get("patch_size", 16 if registers else 14))
    return ViTConfig(
        width=int(settings.get("hidden_size", 768)),
        depth=int(settings.get("num_hidden_layers", 12)),
        heads=int(settings.get("num_attention_heads", 12)),
        mlp_ratio=float(settings.get("mlp_ratio", 4)),
        patch=patch,
        native_grid=int(settings.get("image_size", 224)) // patch,
        layer_norm_eps=float(settings.get("layer_norm_eps", 1e-6)),
        registers=registers,
        resize="antialias" if registers else "size",
    )
