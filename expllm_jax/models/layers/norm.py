"""LayerNorm and RMSNorm; statistics in float32 whatever the compute dtype is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax


class LayerNorm(nnx.Module):
    """(x - mean) / sqrt(variance + eps) * scale + bias over the last axis."""

    def __init__(self, width: int, *, eps: float, stack: tuple[int, ...] = (), param_dtype: str = "float32"):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((*stack, width), param_dtype))
        self.bias = nnx.Param(jnp.zeros((*stack, width), param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        centred = x32 - x32.mean(-1, keepdims=True)
        y = centred * lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + self.eps)
        return (y * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)).astype(x.dtype)


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + eps) * scale over the last axis."""

    def __init__(self, width: int, *, eps: float, stack: tuple[int, ...] = (), param_dtype: str = "float32"):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((*stack, width), param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        return rms_norm(x, self.scale[...], self.eps)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """What RMSNorm computes, for a scale that lies elsewhere."""
    x32 = x.astype(jnp.float32)
    y = x32 * lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + eps)
    return (y * scale.astype(jnp.float32)).astype(x.dtype)
