"""Attention behind one function: callers give heads and a mask, the platform chooses how it is computed.

Shape letters: B batch, T query tokens, S key tokens, H query heads, K key/value heads, G = H // K, h head width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from expllm_jax.errors import ExpllmError

# A finite "minus infinity": a row that may look at nothing (padding) then gets a uniform, finite answer instead of NaN,
# and its gradient is finite as well.
MASKED_SCORE = -1e30


def attention(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    mask_BTS: jax.Array | None = None,
    *,
    causal: bool = False,
) -> jax.Array:
    """Scaled dot-product attention with grouped key/value heads; scores and softmax in float32.

    Args:
      q_BTHh: queries. Query head i reads key/value head i // (H // K), as in LLaMA checkpoints.
      k_BSKh: keys; K must divide H. They are never repeated in memory.
      v_BSKh: values.
      mask_BTS: True where query t may look at key s; None: everywhere. A row with no True gets the mean of all values.
      causal: additionally hide keys s > t (needs T == S).

    Returns:
      o_BTHh in the dtype of the queries.
    """
    B, T, H, h = q_BTHh.shape
    S, K = k_BSKh.shape[1:3]
    if H % K or k_BSKh.shape != v_BSKh.shape or k_BSKh.shape[0] != B or k_BSKh.shape[3] != h:
        raise ExpllmError(
            f"attention shapes do not fit: q {q_BTHh.shape}, k {k_BSKh.shape}, v {v_BSKh.shape}",
            "k and v have the same shape (B, S, K, h), and the K key/value heads divide the H query heads",
        )
    if causal:
        if T != S:
            raise ExpllmError(f"causal attention over {T} queries and {S} keys", "give an explicit mask_BTS instead")
        triangle_BTS = jnp.tril(jnp.ones((1, T, S), bool))
        mask_BTS = triangle_BTS if mask_BTS is None else mask_BTS & triangle_BTS
    if mask_BTS is not None:
        mask_BTS = jnp.broadcast_to(mask_BTS, (B, T, S))
    q_BTKGh = (q_BTHh * h**-0.5).reshape(B, T, K, H // K, h)
    operands = (q_BTKGh, k_BSKh, v_BSKh, mask_BTS)
    o_BTKGh = lax.platform_dependent(operands, cpu=_attend_on_cpu, default=_attend)
    return o_BTKGh.reshape(B, T, H, h)


def _attend(operands: tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]) -> jax.Array:
    """q_BTKGh (already scaled), k, v, mask -> o_BTKGh."""
    q_BTKGh, k_BSKh, v_BSKh, mask_BTS = operands
    s_BKGTS = jnp.einsum("btkgh,bskh->bkgts", q_BTKGh, k_BSKh, preferred_element_type=jnp.float32)
    if mask_BTS is not None:
        s_BKGTS = jnp.where(mask_BTS[:, None, None], s_BKGTS, MASKED_SCORE)
    # The subtracted maximum cancels, so no gradient needs to flow through it.
    e_BKGTS = jnp.exp(s_BKGTS - lax.stop_gradient(s_BKGTS.max(-1, keepdims=True)))
    # Dividing the output (h wide) instead of the weights (S wide) saves a pass over the largest array.
    o_BKGTh = jnp.einsum("bkgts,bskh->bkgth", e_BKGTS.astype(v_BSKh.dtype), v_BSKh, preferred_element_type=jnp.float32)
    o_BKGTh = o_BKGTh / e_BKGTS.sum(-1, keepdims=True)
    return o_BKGTh.transpose(0, 3, 1, 2, 4).astype(q_BTKGh.dtype)


def _attend_on_cpu(operands: tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]) -> jax.Array:
    """One row of the batch at a time, so that its scores stay in the cache: twice as fast at 16 x 257 tokens.

    Not for one query (the scores are small), nor over several devices (walking along a sharded axis would gather it).
    """
    B, T = operands[0].shape[:2]
    if B == 1 or T == 1 or jax.sharding.get_abstract_mesh().size > 1:
        return _attend(operands)
    return lax.map(lambda row: _attend(jax.tree.map(lambda x: x[None], row))[0], operands)
