"""Decoder configurations to and from the `config.json` of Hugging Face: LLaMA, Mistral and Qwen2.

One decoder computes all three. What it cannot compute (a bias on the output projection, another activation, windows
that differ from layer to layer, ...) is refused by the name of its key, since leaving it out would give another model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from expllm_jax.errors import ExpllmError
from expllm_jax.models import DecoderConfig
from expllm_jax.models.layers.rope import RopeScaling, parse_rope_scaling, yarn_attention_factor

_CLASSES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}

# What `transformers` takes for a key that is absent; None for kv heads: as many as heads.
_COMMON = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
_ABSENT: dict[str, dict[str, Any]] = {
    "llama": {
        **_COMMON,
        "vocab_size": 32000,
        "intermediate_size": 11008,
        "num_key_value_heads": None,
        "max_position_embeddings": 2048,
    },
    "mistral": {
        **_COMMON,
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "qwen2": {
        **_COMMON,
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
    },
}
DECODER_TYPES = tuple(_ABSENT)
_ROPE_THETA = 10000.0

# Keys that change the function, and the only values of theirs with which it is ours.
_ONLY = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "partial_rotary_factor": (1, None),
}
_DTYPES = ("float32", "bfloat16", "float16")

# rope type -> the keys it may have beside its own name, rope_theta and partial_rotary_factor
_ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
}


def decoder_hf_config(config: DecoderConfig) -> dict[str, Any]:
    """The `config.json` with which `transformers` builds the same decoder.

    Biases on q, k and v make it a Qwen2, a sliding window a Mistral, and neither a LLaMA (which Mistral without a
    window is).

    Raises:
      ExpllmError: both, which is none of the three.
    """
    if config.qkv_bias and config.sliding_window:
        raise ExpllmError(
            "the decoder has both qkv_bias and sliding_window, which neither Qwen2 nor Mistral has",
            "set sliding_window=0: rows of at most max_length tokens do not feel it",
        )
    kind = "qwen2" if config.qkv_bias else "mistral" if config.sliding_window else "llama"
    return {
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        "vocab_size": config.vocab,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_width,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope_to_hf(parse_rope_scaling(config.rope_scaling)),
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "max_position_embeddings": config.max_length,
        "hidden_act": "silu",
        "torch_dtype": config.param_dtype,
        **({"sliding_window": config.sliding_window} if kind == "mistral" else {}),
    }


def _rope_to_hf(scaling: RopeScaling) -> dict[str, Any] | None:
    """The value of "rope_scaling"; both spellings of the type, so that old and new releases read it."""
    if not scaling.kind:
        return None
    values: dict[str, Any] = {"rope_type": scaling.kind, "type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "linear":
        return values
    values["original_max_position_embeddings"] = scaling.original
    if scaling.kind == "llama3":
        return values | {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
    values |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
    if scaling.attention_factor is not None:
        values["attention_factor"] = scaling.attention_factor
    return values


def decoder_config_from_hf(values: Mapping[str, Any], **changes: object) -> DecoderConfig:
    """The decoder that a Hugging Face `config.json` describes.

    Args:
      values: its content, of model_type "llama", "mistral" or "qwen2"; an absent key has the value `transformers` gives
        it. Rotary positions may be spelled the old way (`rope_theta`, `rope_scaling`) or the new (`rope_parameters`).
      changes: fields of DecoderConfig that it shall have instead, such as `dtype`, or `max_length` for a decoder with a
        sliding window.

    Returns:
      The configuration; `param_dtype` is the file's dtype, float32 if it names none.

    Raises:
      ExpllmError: another model_type, or a key whose value this decoder cannot compute, named.
    """
    kind = values.get("model_type")
    if kind not in _ABSENT:
        raise ExpllmError(f"model_type is {kind!r}", f"only {', '.join(_ABSENT)} are decoders of this family")
    values = {**_ABSENT[kind], **values}
    for key, allowed in _ONLY.items():
        if key in values and values[key] not in allowed:
            raise ExpllmError(
                f"{key} is {values[key]!r}, which this decoder does not compute",
                f"only {allowed[0]!r} is supported",
            )
    if any(layer != "full_attention" for layer in values.get("layer_types") or ()) and kind != "mistral":
        raise ExpllmError("layer_types names layers that are not 'full_attention'", "only full attention is supported")
    heads = _whole(values, "num_attention_heads")
    width = _whole(values, "hidden_size")
    theta, scaling = _rope_from_hf(values)
    windowed = kind == "mistral" and values["sliding_window"] is not None
    dtype = str(values.get("dtype") or values.get("torch_dtype") or "float32").removeprefix("torch.")
    if dtype not in _DTYPES:
        raise ExpllmError(f"dtype is {dtype!r}", f"only {', '.join(_DTYPES)} are supported")
    fields: dict[str, Any] = {
        "vocab": _whole(values, "vocab_size"),
        "width": width,
        "depth": _whole(values, "num_hidden_layers"),
        "heads": heads,
        "kv_heads": heads if values["num_key_value_heads"] is None else _whole(values, "num_key_value_heads"),
        "head_dim": width // heads if values.get("head_dim") is None else _whole(values, "head_dim"),
        "mlp_width": _whole(values, "intermediate_size"),
        "rope_theta": theta,
        "rope_scaling": str(scaling),
        "sliding_window": _whole(values, "sliding_window") if windowed else 0,
        "norm_eps": _number(values, "rms_norm_eps"),
        "tied": bool(values["tie_word_embeddings"]),
        "qkv_bias": kind == "qwen2",
        "max_length": _whole(values, "max_position_embeddings"),
        "param_dtype": dtype,
    }
    if unknown := sorted(set(changes) - {field.name for field in dataclasses.fields(DecoderConfig)}):
        raise ExpllmError(f"DecoderConfig has no {', '.join(unknown)}", "change fields that it has")
    return DecoderConfig(**fields | changes)


def _rope_from_hf(values: Mapping[str, Any]) -> tuple[float, RopeScaling]:
    """(theta, scaling), with the precedence of `transformers`: rope_scaling before rope_parameters, and what stands
    inside before what stands beside."""
    key = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    inside = values.get(key) or {}
    if not isinstance(inside, Mapping):
        raise ExpllmError(f"{key} is {inside!r}", "it must be an object, or null")
    if nested := [name for name, value in inside.items() if isinstance(value, Mapping)]:
        raise ExpllmError(f"{key} differs between kinds of layers ({', '.join(nested)})", "one for all is supported")
    inside = {name: value for name, value in inside.items() if value is not None}
    kind = inside.pop("rope_type", inside.get("type", "default"))
    inside.pop("type", None)
    if kind == "dynamic":
        parse_rope_scaling(f"dynamic:{inside.get('factor', '')}")  # says why it is refused
    if kind not in _ROPE_KEYS:
        raise ExpllmError(f"{key}.rope_type is {kind!r}", f"known types: {', '.join(_ROPE_KEYS)}")
    theta = _number({"rope_theta": _ROPE_THETA, **values, **inside}, "rope_theta")
    inside.pop("rope_theta", None)
    if inside.pop("partial_rotary_factor", 1) != 1:
        raise ExpllmError(f"{key}.partial_rotary_factor is not 1", "only heads that turn as a whole are supported")
    if unknown := sorted(set(inside) - set(_ROPE_KEYS[kind])):
        raise ExpllmError(
            f"{key} of type {kind!r} has the unknown key {unknown[0]!r}", "remove it, if it means nothing"
        )
    if kind == "default":
        return theta, RopeScaling()
    longest = _whole(values, "max_position_embeddings")
    inside.setdefault("original_max_position_embeddings", longest)
    original = _whole(inside, "original_max_position_embeddings")
    if kind == "yarn":
        inside.setdefault("factor", longest / original)
    factor = _number(inside, "factor", inside=key)
    if kind == "linear":
        return theta, RopeScaling(kind, factor)
    if kind == "llama3":
        low, high = (_number(inside, name, inside=key) for name in ("low_freq_factor", "high_freq_factor"))
        return theta, RopeScaling(kind, factor, original, low, high)
    numbers = {name: _number(inside, name, inside=key) for name in inside if name != "truncate"}
    options = {name: numbers[name] for name in ("attention_factor", "beta_fast", "beta_slow") if name in numbers}
    if "attention_factor" not in options and numbers.get("mscale") and numbers.get("mscale_all_dim"):
        options["attention_factor"] = yarn_attention_factor(factor, numbers["mscale"], numbers["mscale_all_dim"])
    return theta, RopeScaling(kind, factor, original, truncate=bool(inside.get("truncate", True)), **options)


def _number(values: Mapping[str, Any], key: str, *, inside: str = "") -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        name = f"{inside}.{key}" if inside else key
        raise ExpllmError(f"{name} is {'missing' if value is None else repr(value)}", "it must be a number")
    return float(value)


def _whole(values: Mapping[str, Any], key: str) -> int:
    value = _number(values, key)
    if value < 1 or value != int(value):
        raise ExpllmError(f"{key} is {value:g}", "it must be a positive whole number")
    return int(value)
