"""Activations of plain MLPs, by name."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def gelu(x: jax.Array) -> jax.Array:
    """x * Phi(x) with the error function, not its tanh approximation.

    Written with `erf` instead of `jax.nn.gelu`'s `erfc`, which is half as fast on CPU; they differ only in the
    rounding of values that are negligible (x < -5).
    """
    return 0.5 * x * (1.0 + lax.erf(x * jnp.asarray(2**-0.5, x.dtype)))


def gelu_tanh(x: jax.Array) -> jax.Array:
    """The tanh approximation of `gelu`, off by at most 0.0005; SigLIP was trained with it."""
    return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x * sigmoid(1.702 x), an approximation of `gelu` that is off by up to 0.02; CLIP was trained with it."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
}
