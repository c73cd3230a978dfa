"""The chunked cross-entropy against optax on all scores at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from expllm_jax.models.layers import cross_entropy
from expllm_jax.models.layers.cross_entropy import head_cross_entropy

N, E = 13, 8


def case(vocabulary, seed=0):
    rng = np.random.default_rng(seed)
    h, weight = (rng.normal(size=shape).astype(np.float32) for shape in ((N, E), (vocabulary, E)))
    return h, weight, rng.integers(0, vocabulary, N).astype(np.int32), rng.random(N).astype(np.float32)


@pytest.mark.parametrize(("vocabulary", "chunk"), [(40, 4096), (40, 10), (41, 10), (7, 3), (64, 1)])
def test_losses_and_both_gradients(vocabulary, chunk, monkeypatch):
    monkeypatch.setattr(cross_entropy, "_CHUNK", chunk)
    h, weight, targets, scale = case(vocabulary)
    targets[:2] = 0, vocabulary - 1

    def ours(h, weight):
        return (scale * head_cross_entropy(h, weight, targets).nll).sum()

    def plain(h, weight):
        return (scale * optax.softmax_cross_entropy_with_integer_labels(h @ weight.T, targets)).sum()

    value, gradients = jax.jit(jax.value_and_grad(ours, argnums=(0, 1)))(h, weight)
    expected, expected_gradients = jax.value_and_grad(plain, argnums=(0, 1))(h, weight)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(ours(h, weight), expected, rtol=1e-5)  # the path without a derivative
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, other, atol=3e-6)
    frozen = jax.jit(jax.grad(ours))(h, weight)  # without the head's gradient
    np.testing.assert_allclose(frozen, expected_gradients[0], atol=3e-6)


def test_correct_is_the_most_probable_token(monkeypatch):
    monkeypatch.setattr(cross_entropy, "_CHUNK", 7)
    h, weight, targets, _ = case(20)
    best = (h @ weight.T).argmax(1).astype(np.int32)
    targets[::2] = best[::2]
    np.testing.assert_array_equal(head_cross_entropy(h, weight, targets).correct, targets == best)


@pytest.mark.parametrize("target", [-1, 40])
def test_a_target_outside_the_vocabulary_is_nan(target):
    h, weight, targets, _ = case(40)
    targets[3] = target
    nll = np.asarray(head_cross_entropy(h, weight, targets).nll)
    assert np.isnan(nll[3]) and np.isfinite(np.delete(nll, 3)).all()


def test_a_loss_that_nobody_asks_for_spoils_no_gradient():
    """Padding may have any target; only its weight says that it does not count."""
    h, weight, targets, scale = case(40)
    targets[3], scale[3] = 40, 0.0
    kept = np.arange(N) != 3

    def loss(h, weight):
        return jnp.sum(jnp.where(scale > 0, scale * head_cross_entropy(h, weight, targets).nll, 0.0))

    def without(h, weight):
        nll = optax.softmax_cross_entropy_with_integer_labels(h[kept] @ weight.T, targets[kept])
        return (scale[kept] * nll).sum()

    for gradient, other in zip(*(jax.grad(f, argnums=(0, 1))(h, weight) for f in (loss, without)), strict=True):
        np.testing.assert_allclose(gradient, other, atol=3e-6)


def test_huge_scores_do_not_overflow():
    h, weight, targets, _ = case(40)
    nll = head_cross_entropy(h * 1e3, weight * 1e2, targets).nll
    expected = optax.softmax_cross_entropy_with_integer_labels(h * 1e3 @ (weight * 1e2).T, targets)
    np.testing.assert_allclose(nll, expected, rtol=1e-5)


def test_a_frozen_head_gets_no_gradient_pass():
    """Its scores are made once; only a head that trains makes them again."""
    h, weight, targets, _ = case(40)

    def loss(h, weight):
        return head_cross_entropy(h, weight, targets).nll.sum()

    def products(argnums):
        return str(jax.make_jaxpr(jax.grad(loss, argnums=argnums))(h, weight)).count("dot_general")

    assert products(0) == 2  # scores, and the gradient by the states
    assert products((0, 1)) == 4


def test_bfloat16():
    h, weight, targets, scale = case(40)
    h16, weight16 = jnp.asarray(h, jnp.bfloat16), jnp.asarray(weight, jnp.bfloat16)
    losses = head_cross_entropy(h16, weight16, targets)
    assert losses.nll.dtype == jnp.float32
    gradient = jax.grad(lambda h: (scale * head_cross_entropy(h, weight16, targets).nll).sum())(h16)
    expected = jax.grad(
        lambda h: (scale * optax.softmax_cross_entropy_with_integer_labels(h @ weight.T, targets)).sum()
    )(h)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(gradient, np.float32), expected, atol=0.03)
