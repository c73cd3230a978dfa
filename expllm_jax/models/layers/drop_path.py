"""Stochastic depth (Huang et al., 2016) with the two rules of DINOv2's code."""

from __future__ import annotations

import jax
import jax.numpy as jnp

SUBSET_ABOVE = 0.1  # the rate from which DINOv2 computes a branch for a subset of the pictures only


def branch_factors(key: jax.Array, batch: int, rate: float) -> jax.Array:
    """What the output of a residual branch is multiplied by, for every picture: 0 where it skips the branch.

    The expectation is 1 for every picture.

    rate > 0.1: exactly kept = max(int(batch * (1 - rate)), 1) pictures, drawn anew at every branch, take it, with the
    factor batch / kept. Two pictures at a rate of 0.4 give kept 1 and factor 2, eight give kept 4; a single picture is
    never dropped.
    0 < rate <= 0.1: every picture takes it with probability 1 - rate, independently, with the factor 1 / (1 - rate).

    `batch` is that of the whole program, over all devices, where DINOv2's code sees that of one device: with one
    picture per device nothing is ever dropped there. Pictures that skip are computed and then multiplied by 0, which
    costs time but keeps every shape static and every picture on its device.

    Returns:
      factors_B float32.
    """
    if rate > SUBSET_ABOVE:
        kept = max(int(batch * (1 - rate)), 1)
        return jnp.where(jax.random.permutation(key, batch) < kept, batch / kept, 0.0)
    return jnp.where(jax.random.bernoulli(key, 1 - rate, (batch,)), 1 / (1 - rate), 0.0)
