"""Attention for CPUs: row by row in blocks that stay in the cache, with a backward pass that keeps no scores.

Shape letters: T query tokens, S key tokens, K key/value heads, G query heads per key/value head, h head width; a block
of queries is [K, G * W, h], W of the T queries for all G heads.
Source: Dao et al., "FlashAttention" (2022), for computing the scores again in the backward pass from their log-sum.

At 4 rows x 448 tokens x 9 heads this takes 18 ms forwards and backwards where differentiating plain attention takes 63:
XLA's CPU backend spends the difference on writing, reading and transposing scores.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

# A finite "minus infinity": a row that may look at nothing (padding) then gets a uniform, finite answer instead of NaN,
# and its gradient is finite as well.
MASKED_SCORE = -1e30

# Under this name rematerialisation may keep what the backward pass needs, instead of running attention again.
SAVED = "attention"

# Causal attention skips keys that a whole block of queries may not see; narrower blocks skip more and start more often.
_CAUSAL_BLOCK = 112

Rows = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]


def attend_rows(
    q_BTKGh: jax.Array, k_BSKh: jax.Array, v_BSKh: jax.Array, mask_BTS: jax.Array | None, *, causal: bool
) -> jax.Array:
    """o_BTKGh; queries are scaled already. `causal` promises that no query may see a later key, masked or not."""
    B, T, K, G, h = q_BTKGh.shape
    rows = (
        q_BTKGh.transpose(0, 2, 3, 1, 4),
        k_BSKh.transpose(0, 2, 1, 3),
        v_BSKh.transpose(0, 2, 1, 3),
        mask_BTS,
    )
    return _causal(rows).transpose(0, 3, 1, 2, 4) if causal else _full(rows).transpose(0, 3, 1, 2, 4)


def _blocks(tokens: int, causal: bool) -> list[tuple[int, int]]:
    """(first, end) of every block of queries."""
    count = max(1, round(tokens / _CAUSAL_BLOCK)) if causal else 1
    edges = [tokens * block // count for block in range(count + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def _forward_row(row: Rows, causal: bool) -> tuple[jax.Array, jax.Array]:
    """One row: q_KGTh, k_KSh, v_KSh, mask_TS -> (o_KGTh, log-sum of exponentiated scores KGT)."""
    q_KGTh, k_KSh, v_KSh, mask_TS = row
    K, G, T, h = q_KGTh.shape
    outputs, logsums = [], []
    for first, end in _blocks(T, causal):
        keys = end if causal else k_KSh.shape[1]
        s_KRS = _scores(
            q_KGTh[:, :, first:end], k_KSh[:, :keys], None if mask_TS is None else mask_TS[first:end, :keys]
        )
        top_KR = s_KRS.max(-1)
        e_KRS = jnp.exp(s_KRS - top_KR[..., None])
        sum_KR = e_KRS.sum(-1)
        # Dividing the output (h wide) instead of the weights (S wide) saves a pass over the largest array.
        o_KRh = _product("krs,ksh->krh", e_KRS.astype(v_KSh.dtype), v_KSh[:, :keys]) / sum_KR[..., None]
        outputs.append(o_KRh.reshape(K, G, end - first, h))
        logsums.append((top_KR + jnp.log(sum_KR)).reshape(K, G, end - first))
    return jnp.concatenate(outputs, 2).astype(q_KGTh.dtype), jnp.concatenate(logsums, 2)


def _backward_row(
    row: Rows, o_KGTh: jax.Array, logsum_KGT: jax.Array, do_KGTh: jax.Array, causal: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of one row by q, k and v, from that by the output."""
    q_KGTh, k_KSh, v_KSh, mask_TS = row
    K, G, T, h = q_KGTh.shape
    # sum over keys of weight * gradient by weight, which the derivative of softmax subtracts
    delta_KGT = jnp.sum(do_KGTh.astype(jnp.float32) * o_KGTh.astype(jnp.float32), -1)
    dq, dk_KSh, dv_KSh = [], jnp.zeros(k_KSh.shape, jnp.float32), jnp.zeros(v_KSh.shape, jnp.float32)
    for first, end in _blocks(T, causal):
        keys = end if causal else k_KSh.shape[1]
        q, do = q_KGTh[:, :, first:end], do_KGTh[:, :, first:end].reshape(K, -1, h)
        logsum_KR, delta_KR = (x[:, :, first:end].reshape(K, -1, 1) for x in (logsum_KGT, delta_KGT))
        s_KRS = _scores(q, k_KSh[:, :keys], None if mask_TS is None else mask_TS[first:end, :keys])
        p_KRS = jnp.exp(s_KRS - logsum_KR)
        ds_KRS = (p_KRS * (_product("krh,ksh->krs", do, v_KSh[:, :keys]) - delta_KR)).astype(q.dtype)
        dq.append(_product("krs,ksh->krh", ds_KRS, k_KSh[:, :keys]).reshape(q.shape))
        dk_KSh = dk_KSh.at[:, :keys].add(_product("krs,krh->ksh", ds_KRS, q.reshape(K, -1, h)))
        dv_KSh = dv_KSh.at[:, :keys].add(_product("krs,krh->ksh", p_KRS.astype(do.dtype), do))
    dq_KGTh = jnp.concatenate(dq, 2)
    return dq_KGTh.astype(q_KGTh.dtype), dk_KSh.astype(k_KSh.dtype), dv_KSh.astype(v_KSh.dtype)


def _scores(q_KGWh: jax.Array, k_KSh: jax.Array, mask_WS: jax.Array | None) -> jax.Array:
    """Masked scores [K, G * W, S] in float32."""
    K, G, W, h = q_KGWh.shape
    s_KRS = _product("krh,ksh->krs", q_KGWh.reshape(K, G * W, h), k_KSh)
    if mask_WS is None:
        return s_KRS
    s_KGWS = s_KRS.reshape(K, G, W, -1)
    return jnp.where(mask_WS, s_KGWS, MASKED_SCORE).reshape(s_KRS.shape)


def _product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


def _attend(causal: bool) -> Callable[[Rows], jax.Array]:
    """q_BKGTh, k_BKSh, v_BKSh, mask_BTS -> o_BKGTh, with its own derivative."""

    @jax.custom_vjp
    def attend(rows: Rows) -> jax.Array:
        return lax.map(lambda row: _forward_row(row, causal)[0], rows)

    def forward(rows: Rows) -> tuple[jax.Array, tuple[Rows, jax.Array, jax.Array]]:
        o_BKGTh, logsum_BKGT = lax.map(lambda row: _forward_row(row, causal), rows)
        o_BKGTh, logsum_BKGT = checkpoint_name(o_BKGTh, SAVED), checkpoint_name(logsum_BKGT, SAVED)
        return o_BKGTh, (rows, o_BKGTh, logsum_BKGT)

    def backward(
        saved: tuple[Rows, jax.Array, jax.Array], do_BKGTh: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array, None]]:
        rows, o_BKGTh, logsum_BKGT = saved
        gradients = lax.map(lambda part: _backward_row(*part, causal), (rows, o_BKGTh, logsum_BKGT, do_BKGTh))
        return ((*gradients, None),)

    attend.defvjp(forward, backward)
    return attend


_full, _causal = _attend(causal=False), _attend(causal=True)
