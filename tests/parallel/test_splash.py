"""The TPU's attention kernel, interpreted on the CPU, against a direct computation; and when it may be used."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.models import SEGMENTS, attention_mask
from expllm_jax.parallel import attention, make_mesh, splash_attention, splash_fits

T, h = 256, 128


def case(seed: int, B: int, K: int, G: int):
    rng = np.random.default_rng(seed)
    q, k, v = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((B, T, K, G, h), (B, T, K, h), (B, T, K, h)))
    records = np.zeros((B, T), np.int32)
    for row in records:
        ends = np.sort(rng.choice(np.arange(1, T), 3, replace=False))
        row[: ends[0]], row[ends[0] : ends[1]], row[ends[1] : ends[2]] = 1, 2, 3  # the rest is padding
    return q * h**-0.5, k, v, jnp.asarray(records)


def direct(q, k, v, records):
    """Softmax over the keys that a query sees, nothing clever, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    seen = (np.asarray(records)[:, :, None] == np.asarray(records)[:, None]) & np.tril(np.ones((T, T), bool))
    scores = np.where(seen[:, None, None], np.einsum("btkgh,bskh->bkgts", q, k), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bkgts,bskh->btkgh", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize(("K", "G"), [(2, 1), (1, 3)])
def test_agrees_with_numpy(K, G):
    q, k, v, records = case(0, 2, K, G)
    out = splash_attention(q, k, v, records, interpret=True)
    np.testing.assert_allclose(out, direct(q, k, v, records), atol=2e-6)


def test_gradients_are_those_of_the_dense_computation():
    q, k, v, records = case(1, 1, 1, 2)
    mask = (records[:, :, None] == records[:, None]) & jnp.tril(jnp.ones((T, T), bool))
    weights = jnp.asarray(np.random.default_rng(2).normal(size=q.shape), jnp.float32)

    def splash(q, k, v):
        return jnp.sum(weights * splash_attention(q, k, v, records, interpret=True))

    def dense(q, k, v):
        flat = (q * h**0.5).reshape(1, T, 2, h)  # `attention` scales its queries itself
        return jnp.sum(weights * attention(flat, k, v, mask).reshape(q.shape))

    for mine, theirs in zip(jax.grad(splash, (0, 1, 2))(q, k, v), jax.grad(dense, (0, 1, 2))(q, k, v), strict=True):
        assert np.linalg.norm(mine - theirs) <= 1e-5 * np.linalg.norm(theirs)


def test_a_mesh_of_one_device_changes_nothing():
    q, k, v, records = case(3, 1, 1, 1)
    with jax.set_mesh(make_mesh()):
        out = splash_attention(q, k, v, records, interpret=True)
    np.testing.assert_allclose(out, direct(q, k, v, records), atol=2e-6)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=4), st.integers(0, 3))
def test_in_chained_rows_records_say_all_that_the_mask_says(lengths, padding):
    """A chain is a prefix (segment 1) and what follows it (segment 2), record by record."""
    segments = [
        number * SEGMENTS + segment
        for number, (prefix, rest) in enumerate(lengths)
        for segment in [1] * prefix + [2] * rest
    ] + [0] * padding
    mask = np.asarray(attention_mask(np.array([segments])))[0]
    records = (np.array(segments) + SEGMENTS - 1) // SEGMENTS
    used = records > 0
    same = (records[:, None] == records[None]) & np.tril(np.ones_like(mask))
    np.testing.assert_array_equal(mask[used][:, used], same[used][:, used])
    assert not mask[used][:, ~used].any()


def test_what_the_kernel_takes():
    assert splash_fits(2048, 128) and splash_fits(128, 256)
    assert not splash_fits(2040, 128) and not splash_fits(2048, 64)


def test_the_kernel_is_in_a_program_for_tpus_and_the_scores_are_not():
    def program(records):
        f = jax.jit(lambda q, k, v: attention(q, k, v, causal=True, records_BT=records))
        x = jax.ShapeDtypeStruct((1, T, 2, h), jnp.float32)
        return f.trace(x, x, x).lower(lowering_platforms=("tpu",)).as_text()

    with_records = program(jnp.ones((1, T), jnp.int32))
    assert "tpu_custom_call" in with_records and f"{T}x{T}xf32" not in with_records
    without = program(None)
    assert "tpu_custom_call" not in without and f"{T}x{T}xf32" in without
