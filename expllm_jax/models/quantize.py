"""A frozen decoder in eight bits: the kernels of its layers as int8, with one float32 scale per output channel.

Symmetric, by the largest magnitude: scale = max |column| / 127, and kernel = round(column / scale). A layer computes
(x @ kernel) * scale, so nothing but the kernel's storage changes: a quarter of float32's memory, half of bfloat16's.
Embedding, norms, biases and output head stay as they are, and so do adapters, which train beside an int8 kernel as
beside any other; the kernel itself cannot train. On SmolLM2-135M the predictions move by 0.006 nats of KL divergence a
token, the loss by 0.1%, and the gradient of adapters by a tenth (launch/bench/int8_base.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from expllm_jax.errors import ExpllmError

if TYPE_CHECKING:
    from expllm_jax.models.decoder import DecoderConfig

_LAYERS = ("attn/q", "attn/k", "attn/v", "attn/o", "mlp/gate", "mlp/up", "mlp/down")


def to_int8(kernel: jax.Array | np.ndarray) -> tuple[jax.Array | np.ndarray, jax.Array | np.ndarray]:
    """A kernel (..., inputs, outputs) -> (int8 of its shape, float32 scale (..., outputs)).

    The error of an entry is at most half its column's scale. NumPy arrays stay NumPy arrays, on the host.
    """
    xp = jnp if isinstance(kernel, jax.Array) else np
    kernel = kernel.astype(np.float32)
    # A column of zeros has no scale of its own; the smallest normal number keeps it zeros.
    scale = xp.maximum(xp.abs(kernel).max(-2) / 127, np.finfo(np.float32).tiny)
    return xp.round(kernel / scale[..., None, :]).astype(np.int8), scale


def from_int8(kernel: jax.Array | np.ndarray, scale: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """The kernel (..., inputs, outputs) that `to_int8` rounded, in float32."""
    return kernel.astype(np.float32) * scale[..., None, :]


def quantize_int8(
    params: Mapping[str, jax.Array], config: DecoderConfig, prefix: str = ""
) -> tuple[DecoderConfig, dict[str, jax.Array]]:
    """The same decoder with an int8 base.

    Args:
      params: parameters of `Decoder(config)`, with or without adapters, among others perhaps.
      config: its configuration.
      prefix: what the decoder's paths begin with, "decoder/" in those of ExpLLM.

    Returns:
      (configuration with base "int8", all parameters, sorted by path).

    Raises:
      ExpllmError: it is int8 already, or a kernel is missing or holds infinities or NaN.
    """
    if config.base != "full":
        raise ExpllmError(f"the decoder's base is {config.base!r} already", "quantise full kernels only")
    result = dict(params)
    for layer in _LAYERS:
        path = f"{prefix}blocks/{layer}/kernel"
        if path not in params:
            raise ExpllmError(f"there is no kernel {path}", "give a decoder's parameters, and the prefix of its paths")
        if not np.isfinite(float(abs(params[path]).max())):
            raise ExpllmError(f"{path} holds infinities or NaN", "quantise weights that are numbers")
        result[path], result[f"{path}_scale"] = to_int8(params[path])
    return dataclasses.replace(config, base="int8"), {path: result[path] for path in sorted(result)}


def dequantize_int8(
    params: Mapping[str, jax.Array], config: DecoderConfig, prefix: str = ""
) -> tuple[DecoderConfig, dict[str, jax.Array]]:
    """The same function with full kernels, in the configuration's param_dtype; the inverse but for the rounding.

    Arguments and returns are those of `quantize_int8`, with the bases exchanged.

    Raises:
      ExpllmError: the base is not int8, or a kernel or scale is missing.
    """
    if config.base != "int8":
        raise ExpllmError(f"the decoder's base is {config.base!r}, not 'int8'", "its kernels are full already")
    result = dict(params)
    for layer in _LAYERS:
        path = f"{prefix}blocks/{layer}/kernel"
        if missing := [name for name in (path, f"{path}_scale") if name not in params]:
            raise ExpllmError(
                f"there is no {' and no '.join(missing)}", "give a decoder's parameters, and the prefix of its paths"
            )
        scale = result.pop(f"{path}_scale")
        result[path] = from_int8(params[path], scale).astype(config.param_dtype)
    return dataclasses.replace(config, base="full"), result
