"""Attention for NVIDIA GPUs: cuDNN's fused kernel, as far as it takes the operands.

Shape letters as in `attention`: B batch, T query tokens, S key tokens, K key/value heads, G query heads per key/value
head, h head width.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

_DTYPES = ("bfloat16", "float16")
_WIDEST_HEAD = 128  # Ampere's; Hopper's kernels take 256


def cudnn_fits(q_BTKGh: jax.Array, k_BSKh: jax.Array) -> bool:
    """Whether the kernel takes operands of this shape and dtype, and its libraries are installed.

    One query (decoding) is left to the plain product, which is bound by reading the keys anyway; odd lengths have no
    gradient in cuDNN.
    """
    T, h, S = q_BTKGh.shape[1], q_BTKGh.shape[-1], k_BSKh.shape[1]
    narrow = q_BTKGh.dtype == k_BSKh.dtype and q_BTKGh.dtype.name in _DTYPES
    return narrow and h <= _WIDEST_HEAD and h % 8 == 0 and T > 1 and T % 2 == 0 and S % 2 == 0 and _installed()


def cudnn_attention(
    q_BTKGh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    mask_BTS: jax.Array | None,
    *,
    causal: bool,
    implementation: str = "cudnn",
) -> jax.Array:
    """o_BTKGh in the dtype of the queries.

    Args:
      q_BTKGh: queries, scaled already.
      k_BSKh, v_BSKh: keys and values.
      mask_BTS: True where query t may look at key s; None: everywhere.
      causal: promises that no query may see a later key, masked or not, so that the kernel leaves those blocks out.
      implementation: of `jax.nn.dot_product_attention`; the tests ask for "xla", which runs everywhere.
    """
    B, T, K, G, h = q_BTKGh.shape
    o_BTHh = jax.nn.dot_product_attention(
        q_BTKGh.reshape(B, T, K * G, h),  # query head i reads key/value head i // G, in cuDNN as here
        k_BSKh,
        v_BSKh,
        mask=None if mask_BTS is None else mask_BTS[:, None],  # becomes a bias of 0 and a large negative number
        scale=1.0,
        is_causal=causal,
        implementation=implementation,
    )
    return o_BTHh.reshape(B, T, K, G, h)


@functools.cache
def _installed() -> bool:
    """Whether JAX finds cuDNN: already tracing its kernel asks for the version, also where nothing of it will run."""
    x = jax.ShapeDtypeStruct((1, 2, 1, 8), jnp.bfloat16)
    try:
        jax.eval_shape(functools.partial(jax.nn.dot_product_attention, implementation="cudnn"), x, x, x)
    except RuntimeError:
        return False
    return True
