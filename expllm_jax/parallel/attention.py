"""Attention behind one function: callers give heads and a mask, the platform chooses how it is computed.

Shape letters: B batch, T query tokens, S key tokens, H query heads, K key/value heads, G = H // K, h head width.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from expllm_jax.errors import ExpllmError
from expllm_jax.parallel.cpu_attention import MASKED_SCORE, attend_rows
from expllm_jax.parallel.cudnn_attention import cudnn_attention, cudnn_fits
from expllm_jax.parallel.sharding import activation_spec, automatic
from expllm_jax.parallel.splash_attention import splash_attention, splash_fits

# How it is computed: by the platform's own kernel where that fits, or by plain products, to compare with.
ATTENTION = ("platform", "dense")

Operands = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]


def attention(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    mask_BTS: jax.Array | None = None,
    *,
    causal: bool = False,
    records_BT: jax.Array | None = None,
    kernel: str = "platform",
) -> jax.Array:
    """Scaled dot-product attention with grouped key/value heads; scores and softmax in float32.

    Args:
      q_BTHh: queries. Query head i reads key/value head i // (H // K), as in LLaMA checkpoints.
      k_BSKh: keys; K must divide H. They are never repeated in memory.
      v_BSKh: values.
      mask_BTS: True where query t may look at key s; None: everywhere. A query with no True gets a finite
        mean of some values.
      causal: additionally hide keys s > t (needs T == S).
      records_BT: which record of its row every token is of, if the mask says no more than that a token sees those
        before it in its own record. On a TPU the scores are then never written down (see `splash_attention`), as long
        as T and h are multiples of 128.
      kernel: of ATTENTION. "platform" is splash attention on a TPU (with `records_BT`), cuDNN on an NVIDIA GPU (in
        half precision), blocks that stay in the cache on a CPU, and plain products where none of these fits.

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
    if causal and T != S:
        raise ExpllmError(f"causal attention over {T} queries and {S} keys", "give an explicit mask_BTS instead")
    if mask_BTS is not None:
        mask_BTS = jnp.broadcast_to(mask_BTS, (B, T, S))
    if causal:
        triangle_BTS = jnp.tril(jnp.ones((1, T, S), bool))
        mask_BTS = jnp.broadcast_to(triangle_BTS, (B, T, S)) if mask_BTS is None else mask_BTS & triangle_BTS
    # The kernels lay themselves out (shard_map); of the rest, explicit axes would need every product's layout said.
    attend = automatic(
        functools.partial(_by_platform, causal=causal, kernel=kernel), activation_spec("heads_BTHh", q_BTHh.shape)
    )
    return attend(q_BTHh, k_BSKh, v_BSKh, mask_BTS, records_BT)


def _by_platform(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    mask_BTS: jax.Array | None,
    records_BT: jax.Array | None,
    *,
    causal: bool,
    kernel: str,
) -> jax.Array:
    B, T, H, h = q_BTHh.shape
    K = k_BSKh.shape[2]
    q_BTKGh = (q_BTHh * h**-0.5).reshape(B, T, K, H // K, h)
    operands = (q_BTKGh, k_BSKh, v_BSKh, mask_BTS)
    if kernel == "dense":
        return _attend(operands).reshape(B, T, H, h)
    platforms = {"cpu": functools.partial(_attend_on_cpu, causal=causal), "default": _attend}
    if records_BT is not None and splash_fits(T, h):
        platforms["tpu"] = lambda operands: splash_attention(*operands[:3], records_BT)
    if cudnn_fits(q_BTKGh, k_BSKh):
        platforms["cuda"] = lambda operands: cudnn_attention(*operands, causal=causal)
    o_BTKGh = lax.platform_dependent(operands, **platforms)
    return o_BTKGh.reshape(B, T, H, h)


def _attend(operands: Operands) -> jax.Array:
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


def _attend_on_cpu(operands: Operands, *, causal: bool) -> jax.Array:
    """Row by row, but for one query (its scores are small), and over several devices (walking along a sharded axis
    would gather it)."""
    if operands[0].shape[1] == 1 or jax.sharding.get_abstract_mesh().size > 1:
        return _attend(operands)
    return attend_rows(*operands, causal=causal)
