"""Hashed dropout: the rate, the scale, and that masks have nothing to do with each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expllm_jax.models.layers.dropout import dropout

SHAPE = (32, 64, 48)  # 98,304 elements


def kept(key: int, rate: float) -> np.ndarray:
    return np.asarray(dropout(jnp.ones(SHAPE), jax.random.key(key), rate)) > 0


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 0.9])
def test_rate_and_scale(rate):
    x = np.full(SHAPE, 3.0, np.float32)
    y = np.asarray(dropout(jnp.asarray(x), jax.random.key(7), rate))
    dropped = (y == 0).mean()
    assert abs(dropped - rate) <= 4 * np.sqrt(rate * (1 - rate) / y.size)  # four standard errors
    np.testing.assert_allclose(y[y > 0], 3.0 / (1 - rate), rtol=1e-6)


def test_same_key_same_mask():
    np.testing.assert_array_equal(kept(1, 0.5), kept(1, 0.5))


def test_masks_of_different_keys_are_independent():
    """Agreement of two fair masks is binomial; so is that of neighbours within one, along every axis."""
    masks = [kept(key, 0.5) for key in range(12)]
    keys = jax.random.split(jax.random.key(0), 8)  # as the layers of a model get them
    masks += [np.asarray(dropout(jnp.ones(SHAPE), key, 0.5)) > 0 for key in keys]
    bound = 5 * 0.5 / np.sqrt(masks[0].size)
    for i, a in enumerate(masks):
        for b in masks[i + 1 :]:
            assert abs((a == b).mean() - 0.5) < bound
        for axis in range(3):
            same = (a == np.roll(a, 1, axis)).mean()
            assert abs(same - 0.5) < bound


def test_how_many_are_dropped_varies_as_coins_do():
    """Counts per row of 48 over many rows have the binomial variance: neither too even nor clustered."""
    counts = (~kept(3, 0.25)).reshape(-1, SHAPE[-1]).sum(1)
    expected = SHAPE[-1] * 0.25 * 0.75
    assert abs(counts.var() / expected - 1) < 5 * np.sqrt(2 / len(counts))
