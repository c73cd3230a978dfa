"""Attention against a direct computation in NumPy, one head and one query at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.errors import ExpllmError
from expllm_jax.models.layers import REMAT_POLICIES
from expllm_jax.parallel import attention, cpu_attention, make_mesh


def reference(q, k, v, mask):
    """Float64, with loops, and the key/value head of query head i spelled out."""
    B, T, H, h = q.shape
    group = H // k.shape[2]
    out = np.zeros(q.shape)
    for b in range(B):
        for i in range(H):
            for t in range(T):
                scores = k[b, :, i // group].astype(np.float64) @ q[b, t, i] / np.sqrt(h)
                seen = mask[b, t] if mask[b, t].any() else np.ones_like(mask[b, t])
                weights = np.where(seen, np.exp(np.minimum(scores - scores[seen].max(), 0.0)), 0.0)
                if not mask[b, t].any():
                    weights = np.ones_like(scores)
                out[b, t, i] = weights @ v[b, :, i // group] / weights.sum()
    return out


run = jax.jit(attention, static_argnames="causal")


def random_case(seed, B, T, S, H, K, h=4):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=shape).astype(np.float32) for shape in ((B, T, H, h), (B, S, K, h), (B, S, K, h)))
    return q, k, v, rng.random((B, T, S)) < 0.6


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 99), st.sampled_from([(1, 1, 5), (2, 5, 5), (3, 4, 7)]), st.sampled_from([(4, 4), (6, 2), (3, 1)])
)
def test_agrees_with_numpy(seed, lengths, heads):
    q, k, v, mask = random_case(seed, *lengths, *heads)
    np.testing.assert_allclose(run(q, k, v, mask), reference(q, k, v, mask), atol=2e-6)


def test_row_without_any_key_is_the_mean_and_has_a_finite_gradient():
    q, k, v, mask = random_case(0, 2, 3, 3, 2, 1)
    mask[1, 2] = False
    out = run(q, k, v, mask)
    np.testing.assert_allclose(out[1, 2], np.broadcast_to(v[1].mean(0), (2, 4)), rtol=1e-5)
    gradient = jax.grad(lambda q: attention(q, k, v, mask).sum())(q)
    assert np.isfinite(gradient).all()


def test_causal_is_the_lower_triangle():
    q, k, v, _ = random_case(1, 2, 6, 6, 4, 2)
    triangle = np.broadcast_to(np.tril(np.ones((6, 6), bool)), (2, 6, 6))
    np.testing.assert_allclose(run(q, k, v, causal=True), reference(q, k, v, triangle), atol=2e-6)


def test_large_scores_do_not_overflow():
    q, k, v, mask = random_case(2, 2, 4, 4, 2, 2)
    mask[:, :, 0] = True
    np.testing.assert_allclose(run(q * 1e3, k, v, mask), reference(q * 1e3, k, v, mask), atol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
def test_gradient_of_the_cpu_kernel_is_that_of_plain_attention(causal, heads, monkeypatch):
    """The kernel computes its scores again in blocks; plain attention, which other platforms run, is differentiated by
    JAX. Blocks of 3 queries, so that several of different sizes occur."""
    monkeypatch.setattr(cpu_attention, "_CAUSAL_BLOCK", 3)
    q, k, v, mask = random_case(3, 3, 11, 11, *heads)
    mask[:, :, 0] = True

    def loss(attend):
        def value(q, k, v):
            return jnp.sin(attend(q, k, v) * 3).sum()

        return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2)))(q, k, v)

    def plain(q, k, v):
        seen = mask & np.tril(np.ones((11, 11), bool)) if causal else mask
        k, v = (jnp.repeat(x, heads[0] // heads[1], 2) for x in (k, v))
        return jax.nn.dot_product_attention(q, k, v, mask=jnp.asarray(seen)[:, None], implementation="xla")

    value, gradients = loss(lambda q, k, v: attention(q, k, v, mask, causal=causal))
    expected, expected_gradients = loss(plain)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, other, atol=2e-5)


def test_rematerialisation_does_not_run_the_kernel_again():
    q, k, v, mask = random_case(4, 2, 5, 5, 2, 2)

    def loss(q, policy):
        return jax.checkpoint(lambda q: attention(q, k, v, mask), policy=policy)(q).sum()

    def exponentials(policy):
        return str(jax.make_jaxpr(jax.grad(lambda q: loss(q, policy)))(q)).count("exp ")

    assert exponentials(REMAT_POLICIES["dots"]) < exponentials(REMAT_POLICIES["full"])


def test_bfloat16_stays_bfloat16_and_close():
    q, k, v, mask = random_case(4, 2, 5, 5, 4, 2)
    out = run(*(jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)), mask)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float32), reference(q, k, v, mask), atol=0.05)


def test_under_a_mesh_of_one_device():
    q, k, v, mask = random_case(5, 2, 5, 5, 4, 2)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        out = jax.jit(attention)(q, k, v, mask)
    np.testing.assert_allclose(out, reference(q, k, v, mask), atol=2e-6)


def test_shapes_that_do_not_fit_are_refused():
    q, k, v, _ = random_case(6, 1, 2, 2, 3, 2)
    with pytest.raises(ExpllmError, match="do not fit"):
        attention(q, k, v)
    q, k, v, _ = random_case(6, 1, 2, 3, 2, 2)
    with pytest.raises(ExpllmError, match="causal"):
        attention(q, k, v, causal=True)
