"""One token at a time on CPUs: weights and cache laid out for a loop that memory bandwidth limits.

A step reads every weight once and computes next to nothing with it. Cutting one layer out of a stack copies it first,
and attention copies a cache that it cannot read as it lies; so weights and cache are kept per layer here, keys and
values with the heads before the slots, projections of the same input in one kernel, cut into a part per core because
XLA's CPU backend runs small products side by side rather than each on all cores.
SmolLM2-135M in float32, 4 rows, 512 slots, 2 cores: 32 -> 23 ms a token, of which 20 read the 538 MB of weights.
Accelerators gain nothing from it, and would compile longer.

Shape letters: those of `decoder`, and P parts of a kernel's columns.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from expllm_jax.models.decoder import Decoder, DecoderConfig, KVCache
from expllm_jax.models.layers import Linear, apply_rope, rms_norm, rope_tables
from expllm_jax.parallel.cpu_attention import MASKED_SCORE

_NARROWEST = 64  # columns of a part; narrower ones cost more to start than they save


class _Kernel(NamedTuple):
    """One or several linear layers of the same input: P parts of their columns, and the bias of all."""

    parts: tuple[jax.Array, ...]
    bias: jax.Array | None

    def __call__(self, x_BD: jax.Array) -> jax.Array:
        y = jnp.concatenate([x_BD @ part for part in self.parts], -1)
        return y if self.bias is None else y + self.bias.astype(y.dtype)


class _Layer(NamedTuple):
    norm1: jax.Array
    qkv: _Kernel
    o: _Kernel
    norm2: jax.Array
    gate_up: _Kernel
    down: _Kernel


class DecodingWeights(NamedTuple):
    """The decoder once more, adapters folded in and int8 kernels scaled back: as large as it is in full precision."""

    layers: tuple[_Layer, ...]
    norm: jax.Array
    head: tuple[jax.Array, ...]  # P parts (D, V / P)


class SlotCache(NamedTuple):
    """Keys and values per layer, as attention of one query reads them."""

    k: tuple[jax.Array, ...]  # L times (B, K, h, S)
    v: tuple[jax.Array, ...]  # L times (B, K, S, h)

    @classmethod
    def of(cls, cache: KVCache) -> SlotCache:
        """What prefilling left, laid out anew."""
        return cls(
            tuple(k_BSKh.transpose(0, 2, 3, 1) for k_BSKh in cache.k_LBSKh),
            tuple(v_BSKh.transpose(0, 2, 1, 3) for v_BSKh in cache.v_LBSKh),
        )


def decoding_weights(decoder: Decoder) -> DecodingWeights:
    """Lays the decoder's weights out; call it once, inside `jax.jit`, not once per batch of prompts."""
    cores = len(os.sched_getaffinity(0))
    blocks, depth = decoder.blocks, decoder.config.depth

    def kernels(*linears: Linear) -> list[_Kernel]:
        folded_LIO = [linear.folded() for linear in linears]
        biases_LO = [linear.bias for linear in linears]
        return [
            _Kernel(
                _parts(jnp.concatenate([kernel_LIO[layer] for kernel_LIO in folded_LIO], 1), cores),
                None if biases_LO[0] is None else jnp.concatenate([bias_LO[...][layer] for bias_LO in biases_LO]),
            )
            for layer in range(depth)
        ]

    attn, mlp = blocks.attn, blocks.mlp
    columns = (
        list(blocks.norm1.scale[...]),
        kernels(attn.q, attn.k, attn.v),
        kernels(attn.o),
        list(blocks.norm2.scale[...]),
        kernels(mlp.gate, mlp.up),
        kernels(mlp.down),
    )
    head_DV = decoder.embedding[...].T if decoder.lm_head is None else decoder.lm_head.folded()
    layers = tuple(_Layer(*parts) for parts in zip(*columns, strict=True))
    return DecodingWeights(layers, decoder.norm.scale[...], _parts(head_DV.astype(decoder.config.dtype), cores))


def _parts(kernel_IO: jax.Array, cores: int) -> tuple[jax.Array, ...]:
    outputs = kernel_IO.shape[1]
    edges = np.linspace(0, outputs, max(1, min(cores, outputs // _NARROWEST)) + 1).round().astype(int)
    return tuple(kernel_IO[:, first:end] for first, end in zip(edges[:-1], edges[1:], strict=True))


def decode_token(
    config: DecoderConfig,
    weights: DecodingWeights,
    x_BD: jax.Array,
    position_B: jax.Array,
    mask_BS: jax.Array,
    cache: SlotCache,
    slot: jax.Array,
) -> tuple[jax.Array, SlotCache]:
    """One more token of every row.

    Args:
      config: the decoder's.
      weights: of `decoding_weights`.
      x_BD: its embedding.
      position_B: its rotary position.
      mask_BS: which slots the row's token may look at, its own among them.
      cache: keys and values of the tokens before.
      slot: where this one's go, the same for all rows.

    Returns:
      (float32 scores of the token after it (B, V), the cache with this one in it).
    """
    tables = rope_tables(position_B[:, None], config.head_dim, config.rope_theta, config.rope_scaling)
    x_BD, k, v = x_BD.astype(config.dtype), [], []
    for layer, k_BKhS, v_BKSh in zip(weights.layers, cache.k, cache.v, strict=True):
        attended_BD, k_BKhS, v_BKSh = _attend(
            config, layer.qkv(rms_norm(x_BD, layer.norm1, config.norm_eps)), tables, mask_BS, k_BKhS, v_BKSh, slot
        )
        x_BD = x_BD + layer.o(attended_BD)
        gate_BF, up_BF = jnp.split(layer.gate_up(rms_norm(x_BD, layer.norm2, config.norm_eps)), 2, -1)
        x_BD = x_BD + layer.down(jax.nn.silu(gate_BF) * up_BF)
        k.append(k_BKhS)
        v.append(v_BKSh)
    h_BD = rms_norm(x_BD, weights.norm, config.norm_eps)
    scores = [jnp.matmul(h_BD, part_DV, preferred_element_type=jnp.float32) for part_DV in weights.head]
    return jnp.concatenate(scores, -1), SlotCache(tuple(k), tuple(v))


def _attend(
    config: DecoderConfig,
    qkv_BO: jax.Array,
    tables: tuple[jax.Array, jax.Array],
    mask_BS: jax.Array,
    k_BKhS: jax.Array,
    v_BKSh: jax.Array,
    slot: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(attention's output (B, H * h), and the layer's cache with this token's key and value)."""
    B, H, K, h = qkv_BO.shape[0], config.heads, config.kv_heads, config.head_dim
    q_BHh, k_BKh, v_BKh = jnp.split(qkv_BO.reshape(B, H + 2 * K, h), [H, H + K], 1)
    q_BHh, k_BKh = (apply_rope(x[:, None], tables)[:, 0] for x in (q_BHh, k_BKh))
    k_BKhS = lax.dynamic_update_slice_in_dim(k_BKhS, k_BKh[..., None].astype(k_BKhS.dtype), slot, 3)
    v_BKSh = lax.dynamic_update_slice_in_dim(v_BKSh, v_BKh[:, :, None].astype(v_BKSh.dtype), slot, 2)
    q_BKGh = (q_BHh * h**-0.5).reshape(B, K, H // K, h)
    s_BKGS = jnp.einsum("bkgh,bkhs->bkgs", q_BKGh, k_BKhS, preferred_element_type=jnp.float32)
    s_BKGS = jnp.where(mask_BS[:, None, None], s_BKGS, MASKED_SCORE)
    e_BKGS = jnp.exp(s_BKGS - s_BKGS.max(-1, keepdims=True))
    o_BKGh = jnp.einsum("bkgs,bksh->bkgh", e_BKGS.astype(v_BKSh.dtype), v_BKSh, preferred_element_type=jnp.float32)
    o_BKGh = o_BKGh / e_BKGS.sum(-1, keepdims=True)
    return o_BKGh.reshape(B, H * h).astype(qkv_BO.dtype), k_BKhS, v_BKSh
