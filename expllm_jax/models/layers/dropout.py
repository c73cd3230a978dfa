"""Dropout whose mask costs next to nothing: a hash of (key, position) instead of a stream of random numbers."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from expllm_jax.parallel import explicit_layout


def dropout(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """x / (1 - rate), but 0 where an element is dropped, each with probability `rate`; 0 <= rate < 1.

    The mask is a function of the key and the element's index alone, so it is the same however the array is laid out
    over devices. Threefry would draw it in twenty passes over the array (a tenth of a training step on CPUs); a
    multiplicative hash fuses into the multiplication that applies it, and is computed again in the backward pass for
    free. The finaliser is Wellons' "lowbias32" (public domain, 2018), which every single flipped input bit changes half
    of the output bits of; the key's two words enter before and between two rounds of it.
    """
    words = jax.random.key_data(key).astype(jnp.uint32).reshape(-1)
    layout = explicit_layout(x)
    index = jnp.zeros(x.shape, jnp.uint32, out_sharding=layout)
    for axis, stride in enumerate(math.prod(x.shape[axis + 1 :]) for axis in range(x.ndim)):
        along = lax.broadcasted_iota(jnp.uint32, x.shape, axis, out_sharding=layout)
        index += along * jnp.uint32(stride % 2**32)
    bits = _mixed(_mixed(index + words[0]) ^ words[-1])
    keep = 1.0 - rate
    kept = bits >= jnp.uint32(round(rate * 2**32))
    return jnp.where(kept, x * jnp.asarray(1.0 / keep, x.dtype), jnp.zeros((), x.dtype))


def _mixed(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
