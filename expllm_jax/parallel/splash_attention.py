"""Attention for TPUs that keeps no scores: JAX's splash kernel, over rows in which whole records stand side by side.

Shape letters as in `attention`: B batch, T tokens, H query heads, K key/value heads, G = H // K, h head width.
"""

from __future__ import annotations

import functools

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from expllm_jax.parallel.sharding import activation_spec

_LANES = 128  # T and h are multiples of it
_BLOCK = 512  # queries, and keys, that the kernel takes at a time, at most


def splash_fits(tokens: int, head_width: int) -> bool:
    """Whether the kernel takes rows of so many tokens and heads of this width."""
    return tokens % _LANES == 0 and head_width % _LANES == 0


def splash_attention(
    q_BTKGh: jax.Array, k_BSKh: jax.Array, v_BSKh: jax.Array, records_BT: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """Token t looks at key s if and only if s <= t and both are of the same record.

    Args:
      q_BTKGh: queries, scaled already.
      k_BSKh, v_BSKh: keys and values of the same T tokens.
      records_BT: int32, which record of its row a token is of.
      interpret: runs the kernel step by step, on any platform.

    Returns:
      o_BTKGh in the dtype of the queries.
    """
    B, T, K, G, h = q_BTKGh.shape
    local = functools.partial(_local, groups=G, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size > 1:  # a kernel is no operation that the compiler knows how to split
        heads = activation_spec("kv_heads_BSKh", (B, T, K, h))
        rows = activation_spec("residual_BTD", (B, T, K * G * h))
        queries = jax.sharding.PartitionSpec(*heads[:3], None, None)
        tokens = jax.sharding.PartitionSpec(*rows[:2])
        local = jax.shard_map(
            local, mesh=mesh, in_specs=(queries, heads, heads, tokens), out_specs=queries, check_vma=False
        )
    return local(q_BTKGh, k_BSKh, v_BSKh, records_BT)


def _local(
    q_BTKGh: jax.Array, k_BSKh: jax.Array, v_BSKh: jax.Array, records_BT: jax.Array, *, groups: int, interpret: bool
) -> jax.Array:
    T = q_BTKGh.shape[1]
    block = next(size for size in (_BLOCK, 384, 256, _LANES) if T % size == 0)
    sizes = kernels.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block, block_kv_dkv=block,
        block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip
    kernel = kernels.make_splash_mqa_single_device(
        masks.MultiHeadMask([masks.CausalMask((T, T))] * groups), block_sizes=sizes, interpret=interpret
    )
    over_heads = jax.vmap(kernel, in_axes=(0, 0, 0, None))
    o_BKGTh = jax.vmap(over_heads)(
        q_BTKGh.transpose(0, 2, 3, 1, 4), k_BSKh.transpose(0, 2, 1, 3), v_BSKh.transpose(0, 2, 1, 3),
        kernels.SegmentIds(records_BT, records_BT),
    )  # fmt: skip
    return o_BKGTh.transpose(0, 3, 1, 2, 4).astype(q_BTKGh.dtype)
