"""Checksums of the exact values of arrays, and a short name for those of a set of parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def params_fingerprint(params: Mapping[str, jax.Array]) -> str:
    """SHA-256 (hex) over paths, shapes, dtypes and a 32-bit checksum of every parameter's bits.

    The checksums are integer sums made on the devices where the parameters lie: the value does not depend on how they
    are sharded, and 7B parameters need not pass through the host. Every leaf has an item size of 1, 2 or 4 bytes.
    """
    sums = leaf_checksums(params)
    digest = hashlib.sha256()
    for path in sorted(params):
        leaf = params[path]
        digest.update(f"{path} {tuple(leaf.shape)} {leaf.dtype} {sums[path]:08x}\n".encode())
    return digest.hexdigest()


def leaf_checksums(leaves: Mapping[str, jax.Array]) -> dict[str, int]:
    """A 32-bit checksum of every leaf's bits, which any change of one element changes; see `params_fingerprint`.

    Waits for the leaves. With several processes it is called by all of them, and all get the same answer.
    """
    sums = jax.device_get(_checksums({path: jnp.asarray(leaf) for path, leaf in leaves.items()}))
    return {path: int(value) for path, value in sums.items()}


@jax.jit
def _checksums(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {path: _checksum(leaf) for path, leaf in params.items()}


def _checksum(x: jax.Array) -> jax.Array:
    """uint32 scalar: the sum, modulo 2³², of every element's bits mixed with its index."""
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = lax.bitcast_convert_type(x, _UNSIGNED[x.dtype.itemsize]).astype(jnp.uint32)
    # The flat index as a sum over axes: reshaping to one axis would gather a sharded array.
    index, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        index += lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= x.shape[axis]
    # MurmurHash3's finaliser: no change of one element can be undone by an equal and opposite change of another.
    mixed = bits ^ (index * jnp.uint32(0x9E3779B1))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)
