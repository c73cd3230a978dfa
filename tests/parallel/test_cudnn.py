"""What cuDNN is asked to compute on a GPU, and that only GPUs ask it. The kernel itself needs a GPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from expllm_jax.parallel import attention, cudnn_attention
from expllm_jax.parallel.cudnn_attention import cudnn_fits

T = 16


@pytest.fixture
def cudnn(monkeypatch):
    """JAX believes that cuDNN is installed: its kernel can then be traced and lowered, though not run."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91100)
    cudnn_attention._installed.cache_clear()
    yield
    cudnn_attention._installed.cache_clear()


def lowered(platform, dtype=jnp.bfloat16, h=64, kernel="platform"):
    """The program of an attention's gradient for that platform."""
    q, k = (jax.ShapeDtypeStruct((2, T, heads, h), dtype) for heads in (4, 2))
    mask = jax.ShapeDtypeStruct((2, T, T), jnp.bool_)

    def loss(q, k, v, mask):
        return attention(q, k, v, mask, causal=True, kernel=kernel).astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, k, k, mask)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_the_kernel_is_in_programs_for_gpus_alone(cudnn):
    assert "__cudnn$fmhaScaleBiasSoftmax" in lowered("cuda")
    assert "__cudnn$fmhaScaleBiasSoftmaxBackward" in lowered("cuda")
    assert "cudnn" not in lowered("cpu") and "cudnn" not in lowered("tpu")


def test_operands_that_it_does_not_take_are_computed_plainly(cudnn):
    assert "cudnn" not in lowered("cuda", dtype=jnp.float32)
    assert "cudnn" not in lowered("cuda", h=256)
    assert "cudnn" not in lowered("cuda", kernel="dense")


def test_without_its_libraries_a_program_for_gpus_is_the_plain_one():
    assert "cudnn" not in lowered("cuda")


def test_lengths_that_it_takes(cudnn):
    def fits(T, S):
        return cudnn_fits(jnp.zeros((1, T, 2, 1, 64), jnp.bfloat16), jnp.zeros((1, S, 2, 64), jnp.bfloat16))

    assert fits(16, 32)
    assert not fits(1, 32) and not fits(16, 33) and not fits(257, 257)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_what_it_is_given_is_our_attention(causal, groups):
    """By XLA's implementation of the same function, in float32: scale, mask, and which head reads which."""
    rng = np.random.default_rng(0)
    K, h = 2, 8
    q, k, v = (jnp.asarray(rng.normal(size=(2, T, heads, h)), jnp.float32) for heads in (K * groups, K, K))
    mask = jnp.asarray(rng.random((2, T, T)) < 0.6).at[:, :, 0].set(True)
    if causal:
        mask &= jnp.tril(jnp.ones((T, T), bool))
    scaled = (q * h**-0.5).reshape(2, T, K, groups, h)
    found = cudnn_attention.cudnn_attention(scaled, k, v, mask, causal=causal, implementation="xla")
    expected = attention(q, k, v, mask, causal=causal, kernel="dense")
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-6)
