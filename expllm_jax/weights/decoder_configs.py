"""What a Hugging Face `config.json` says of a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.models import DecoderConfig

DECODER_TYPES = ("llama", "qwen2")


def decoder_config_from_hf(settings: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that `transformers` would build of `settings` (a parsed config.json).

    Raises:
      ExpllmError: another architecture, a key is missing, or a feature that `Decoder` does not have.
    """
    kind = settings.get("model_type")
    if kind not in DECODER_TYPES:
        raise ExpllmError(
            f"config.json describes a {kind!r} model, no decoder known here", f"known: {', '.join(DECODER_TYPES)}"
        )
    for key, needed in (("hidden_act", "silu"), ("mlp_bias", False), ("use_sliding_window", False)):
        if settings.get(key, needed) != needed:
            raise ExpllmError(f"config.json has {key}={settings[key]!r}", f"only {key}={needed!r} is supported")
    scaling = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    how = scaling.get("rope_type", scaling.get("type", "default"))
    if how not in ("default", "linear"):
        raise ExpllmError(f"config.json has the rotary scaling {how!r}", "only 'default' and 'linear' are supported")
    try:
        heads, width = int(settings["num_attention_heads"]), int(settings["hidden_size"])
        return DecoderConfig(
            vocab=int(settings["vocab_size"]),
            width=width,
            depth=int(settings["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(settings.get("num_key_value_heads") or heads),
            head_dim=int(settings.get("head_dim") or width // heads),
            mlp_width=int(settings["intermediate_size"]),
            rope_theta=float(settings.get("rope_theta") or scaling.get("rope_theta") or 10000.0),
            rope_scaling=f"linear:{scaling['factor']}" if how == "linear" else "",
            norm_eps=float(settings.get("rms_norm_eps", 1e-6)),
            tied=bool(settings.get("tie_word_embeddings", False)),
            qkv_bias=kind == "qwen2" or bool(settings.get("attention_bias", False)),
            max_length=int(settings.get("max_position_embeddings", 2048)),
        )
    except KeyError as error:
        raise ExpllmError(f"config.json lacks {error}", "use the config.json that came with the weights") from error
