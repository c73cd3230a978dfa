"""LLaMA decoder: grouped-query attention, rotary positions, SwiGLU; with a key/value cache of fixed size.

Shape letters: B rows, T tokens, S cache slots (or keys), D width, H query heads, K key/value heads, h head width, F
MLP width, V vocabulary, L layers.
Source: Touvron et al., "LLaMA 2" (2023); parameter layout follows Hugging Face's `LlamaForCausalLM` (rotate-half).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from expllm_jax.errors import ExpllmError
from expllm_jax.models.layers import REMAT_POLICIES, Linear, RMSNorm, apply_rope, rope_tables, run_layers, unroll_count
from expllm_jax.models.layers.cross_entropy import TokenLosses, head_cross_entropy
from expllm_jax.models.layers.linear import BASES, INIT_STD
from expllm_jax.models.layers.rope import parse_rope_scaling
from expllm_jax.models.lora import LoRAConfig
from expllm_jax.parallel import ATTENTION, activation_spec, attention, automatic, constrain, gathered, lookup, reshaped


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape of a LLaMA-architecture decoder. Published sizes are in `decoder_sizes`.

    A sliding window is never computed: rows of at most `sliding_window` tokens do not feel it, so that a longer
    `max_length` is refused. That keeps the mask a matter of the callers alone, and costs nothing.
    """

    vocab: int  # V
    width: int  # D
    depth: int  # L
    heads: int  # H
    kv_heads: int  # K, divides H
    head_dim: int  # h, even
    mlp_width: int  # F
    rope_theta: float = 10000.0  # base of the rotary frequencies
    rope_scaling: str = ""  # "", "linear:4", "llama3:8,1,4,8192" or "yarn:4,32768"; see layers/rope.py
    sliding_window: int = 0  # a token sees itself and at most this many - 1 before it (Mistral-7B-v0.1); 0: all
    norm_eps: float = 1e-5  # of every RMSNorm
    tied: bool = False  # the output head is the embedding
    qkv_bias: bool = False  # bias on q, k and v
    # Standard deviation of fresh kernels; 0: 1 / sqrt(inputs), which a narrow decoder from scratch learns faster with.
    init_std: float = INIT_STD
    max_length: int = 2048  # tokens of the longest row it is meant for; at most sliding_window, if there is one
    unroll: int = 1  # layers in one step of the loop over them; 0: all, without a loop; same parameters
    remat: str = "none"  # what the backward pass computes again: none, full, dots, offload; see layers/loop.py
    attention: str = "platform"  # "platform": the accelerator's own kernel where it fits; "dense": plain products
    dtype: str = "float32"  # compute dtype
    param_dtype: str = "float32"  # dtype the parameters are stored in; adapters are always float32
    base: str = "full"  # "int8": kernels of the layers are frozen 8-bit numbers, one scale per output; see quantize.py

    def __post_init__(self) -> None:
        object.__setattr__(self, "unroll", unroll_count(self.unroll))
        for name in ("vocab", "width", "depth", "heads", "kv_heads", "head_dim", "mlp_width", "max_length"):
            if getattr(self, name) < 1:
                raise ExpllmError(f"decoder {name} is {getattr(self, name)}", "give a positive number")
        if self.heads % self.kv_heads:
            raise ExpllmError(f"decoder: {self.kv_heads} kv_heads do not divide {self.heads} heads", "change either")
        if not 0 <= self.init_std <= 1:
            raise ExpllmError(f"decoder init_std is {self.init_std}", "give 0 (1 / sqrt(inputs)) to 1")
        if self.head_dim % 2:
            raise ExpllmError(f"decoder head_dim {self.head_dim} is odd", "rotary positions need an even head_dim")
        if self.remat not in REMAT_POLICIES:
            raise ExpllmError(f"decoder remat is {self.remat!r}", f"choose from {', '.join(REMAT_POLICIES)}")
        if self.attention not in ATTENTION:
            raise ExpllmError(f"decoder attention is {self.attention!r}", f"choose from {', '.join(ATTENTION)}")
        if self.base not in BASES:
            raise ExpllmError(f"decoder base is {self.base!r}", f"choose from {', '.join(BASES)}")
        if not self.rope_theta > 1:
            raise ExpllmError(f"decoder rope_theta is {self.rope_theta}", "give a number above 1, such as 10000")
        if self.sliding_window < 0:
            raise ExpllmError(f"decoder sliding_window is {self.sliding_window}", "give 0 (none) or a positive number")
        if 0 < self.sliding_window < self.max_length:
            raise ExpllmError(
                f"decoder max_length {self.max_length} is above its sliding_window {self.sliding_window}, and a window "
                "that cuts is not computed",
                f"set max_length={self.sliding_window} or less, where the window changes nothing",
            )
        parse_rope_scaling(self.rope_scaling)

    def build(self, rngs: nnx.Rngs) -> Decoder:
        """The module with freshly drawn parameters."""
        return Decoder(self, rngs=rngs)


class KVCache(NamedTuple):
    """Keys (rotated already) and values of every layer, in a fixed number of slots."""

    k_LBSKh: jax.Array
    v_LBSKh: jax.Array

    @classmethod
    def zeros(cls, config: DecoderConfig, batch: int, slots: int) -> KVCache:
        """An empty cache for `batch` rows of up to `slots` tokens, in the compute dtype."""
        shape = (config.depth, batch, slots, config.kv_heads, config.head_dim)
        return cls(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))

    def updated(self, layer: jax.Array | int, index: jax.Array | int, k_BTKh: jax.Array, v_BTKh: jax.Array) -> KVCache:
        """With T new tokens of one layer written to slots index .. index + T - 1."""
        start = (layer, 0, index, 0, 0)
        return KVCache(
            lax.dynamic_update_slice(self.k_LBSKh, k_BTKh[None].astype(self.k_LBSKh.dtype), start),
            lax.dynamic_update_slice(self.v_LBSKh, v_BTKh[None].astype(self.v_LBSKh.dtype), start),
        )

    def layer(self, layer: jax.Array | int) -> tuple[jax.Array, jax.Array]:
        """(k_BSKh, v_BSKh) of one layer."""
        return (
            lax.dynamic_index_in_dim(self.k_LBSKh, layer, keepdims=False),
            lax.dynamic_index_in_dim(self.v_LBSKh, layer, keepdims=False),
        )


class _Step(NamedTuple):
    """What every layer of one call shares."""

    rope: tuple[jax.Array, jax.Array]
    mask_BTS: jax.Array | None
    records_BT: jax.Array | None
    cache_index: jax.Array | int | None


class Attention(nnx.Module):
    """Grouped-query self-attention with rotary positions."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, *, stack: tuple[int, ...], rngs: nnx.Rngs):
        self.config = config
        D, h = config.width, config.head_dim

        def linear(name: str, inputs: int, outputs: int, bias: bool) -> Linear:
            return Linear(
                inputs,
                outputs,
                rngs=rngs,
                bias=bias,
                stack=stack,
                lora=lora.on(name),
                dtype=config.dtype,
                param_dtype=config.param_dtype,
                init_std=config.init_std,
                base=config.base,
                path=f"blocks/attn/{name}",
            )

        self.q = linear("q", D, config.heads * h, config.qkv_bias)
        self.k = linear("k", D, config.kv_heads * h, config.qkv_bias)
        self.v = linear("v", D, config.kv_heads * h, config.qkv_bias)
        self.o = linear("o", config.heads * h, D, False)

    def __call__(
        self, x_BTD: jax.Array, step: _Step, cache: KVCache | None, layer: jax.Array, keys: jax.Array | None
    ) -> tuple[jax.Array, KVCache | None]:
        B, T, _ = x_BTD.shape
        heads, kv_heads, h = self.config.heads, self.config.kv_heads, self.config.head_dim
        key = (lambda i: None) if keys is None else lambda i: keys[i]
        wide_BTD = x_BTD.astype(jnp.float32)
        q = reshaped(self.q(x_BTD, key(0), wide_BTD), (B, T, heads, h), "heads_BTHh")
        k = reshaped(self.k(x_BTD, key(1), wide_BTD), (B, T, kv_heads, h), "kv_heads_BSKh")
        v = reshaped(self.v(x_BTD, key(2), wide_BTD), (B, T, kv_heads, h), "kv_heads_BSKh")
        q, k = apply_rope(q, step.rope), apply_rope(k, step.rope)
        mask_BTS, alone = step.mask_BTS, cache is None
        if cache is not None:
            cache = cache.updated(layer, step.cache_index, k, v)
            # The first tokens have only each other to look at, not the slots behind them.
            alone = isinstance(step.cache_index, int) and step.cache_index == 0
            if not alone:
                k, v = cache.layer(layer)
            elif mask_BTS is not None:
                mask_BTS = mask_BTS[:, :, :T]
        o_BTHh = attention(q, k, v, mask_BTS, causal=alone, records_BT=step.records_BT, kernel=self.config.attention)
        return self.o(o_BTHh.reshape(B, T, heads * h), key(3)), cache


class MLP(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, *, stack: tuple[int, ...], rngs: nnx.Rngs):
        common = {
            "rngs": rngs,
            "bias": False,
            "stack": stack,
            "dtype": config.dtype,
            "param_dtype": config.param_dtype,
            "init_std": config.init_std,
            "base": config.base,
        }
        self.gate = Linear(config.width, config.mlp_width, lora=lora.on("gate"), path="blocks/mlp/gate", **common)
        self.up = Linear(config.width, config.mlp_width, lora=lora.on("up"), path="blocks/mlp/up", **common)
        self.down = Linear(config.mlp_width, config.width, lora=lora.on("down"), path="blocks/mlp/down", **common)

    def __call__(self, x_BTD: jax.Array, keys: jax.Array | None) -> jax.Array:
        key = (lambda i: None) if keys is None else lambda i: keys[i]
        wide_BTD = x_BTD.astype(jnp.float32)
        hidden_BTF = jax.nn.silu(self.gate(x_BTD, key(4), wide_BTD)) * self.up(x_BTD, key(5), wide_BTD)
        return self.down(constrain(hidden_BTF, "mlp_BTF"), key(6))


class Block(nnx.Module):
    """Pre-norm transformer layer; `stack` makes one module hold all L of them."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, *, stack: tuple[int, ...], rngs: nnx.Rngs):
        norm = {"eps": config.norm_eps, "stack": stack, "param_dtype": config.param_dtype}
        self.norm1 = RMSNorm(config.width, **norm)
        self.attn = Attention(config, lora, stack=stack, rngs=rngs)
        self.norm2 = RMSNorm(config.width, **norm)
        self.mlp = MLP(config, lora, stack=stack, rngs=rngs)

    def __call__(
        self, x_BTD: jax.Array, step: _Step, cache: KVCache | None, layer: jax.Array, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, KVCache | None]:
        keys = None if dropout_key is None else jax.random.split(dropout_key, 7)
        attended, cache = self.attn(self.norm1(x_BTD), step, cache, layer, keys)
        x_BTD = x_BTD + attended
        return constrain(x_BTD + self.mlp(self.norm2(x_BTD), keys), "residual_BTD"), cache


class Decoder(nnx.Module):
    """Embedding, layers, final norm and output head; `embed`, `__call__` and `logits` are the three parts."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, lora: LoRAConfig | None = None):
        self.config = config
        table = INIT_STD * jax.random.normal(rngs.params(), (config.vocab, config.width), jnp.float32)
        self.embedding = nnx.Param(table.astype(config.param_dtype))
        self.blocks = Block(config, lora or LoRAConfig(), stack=(config.depth,), rngs=rngs)
        self.norm = RMSNorm(config.width, eps=config.norm_eps, param_dtype=config.param_dtype)
        if config.tied:
            self.lm_head = None
        else:
            self.lm_head = Linear(
                config.width, config.vocab, rngs=rngs, bias=False, dtype=config.dtype, param_dtype=config.param_dtype
            )

    def embed(self, tokens_BT: jax.Array) -> jax.Array:
        """(B, T) token ids -> (B, T, D). An id outside the vocabulary gives NaN, which no loss survives unseen."""
        return lookup(self.embedding[...], tokens_BT).astype(self.config.dtype)

    def __call__(
        self,
        x_BTD: jax.Array,
        positions_BT: jax.Array,
        mask_BTS: jax.Array | None,
        cache: KVCache | None = None,
        cache_index: jax.Array | int | None = None,
        *,
        records_BT: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache | None]:
        """Runs the layers.

        Args:
          x_BTD: embedded tokens.
          positions_BT: rotary position of each token; they need not ascend.
          mask_BTS: True where token t may look at key s; never at a later one of the row, whatever it says. Without a
            cache S = T; with one, S is its number of slots, and the mask must hide those not yet written. None: all
            those before are seen.
          cache: keys and values so far.
          cache_index: the slot of the first of these T tokens; index + T must not pass the last slot (a traced index
            cannot be checked; XLA would move it back and overwrite).
          records_BT: without a cache, the records that `mask_BTS` keeps apart, if it does no more than that; see
            `parallel.attention`.
          dropout_key: turns adapter dropout on.

        Returns:
          (h_BTD after the final norm, the cache with these tokens in it, or None).
        """
        if (cache is None) != (cache_index is None):
            raise ExpllmError("cache and cache_index go together", "give both or neither")
        depth, config = self.config.depth, self.config
        rope = rope_tables(positions_BT, config.head_dim, config.rope_theta, config.rope_scaling)
        step = _Step(rope, mask_BTS, records_BT if cache is None else None, cache_index)
        keys_L = None if dropout_key is None else jax.random.split(dropout_key, depth)

        def layer(
            carry: tuple[jax.Array, KVCache | None], part: tuple[Block, jax.Array, jax.Array | None]
        ) -> tuple[jax.Array, KVCache | None]:
            block, number, key = part
            return block(carry[0], step, carry[1], number, key)

        carry = (constrain(x_BTD.astype(config.dtype), "residual_BTD"), cache)
        parts = (self.blocks, jnp.arange(depth), keys_L)
        carry = run_layers(layer, carry, parts, depth=depth, unroll=config.unroll, remat=config.remat)
        return self.norm(carry[0]), carry[1]

    def token_losses(self, h_BSD: jax.Array, targets_BS: jax.Array) -> TokenLosses:
        """Cross-entropy of the head's scores of final-normed states against token ids, float32 (B, S) each."""
        B, S, D = h_BSD.shape
        table_VD = gathered(self.embedding[...] if self.lm_head is None else self.lm_head.kernel[...].T)

        def losses(h_BSD: jax.Array, table_VD: jax.Array, targets_BS: jax.Array) -> TokenLosses:
            found = head_cross_entropy(h_BSD.reshape(B * S, D), table_VD, targets_BS.reshape(B * S))
            return TokenLosses(*(x_N.reshape(B, S) for x_N in found))

        return automatic(losses, activation_spec("tokens_BT", (B, S)))(h_BSD, table_VD, targets_BS)

    def logits(self, h_BTD: jax.Array) -> jax.Array:
        """(..., D) final-normed states -> (..., V) float32 scores."""
        if self.lm_head is None:
            table = gathered(self.embedding[...].astype(self.config.dtype))
            logits = jnp.einsum("...d,vd->...v", h_BTD, table, preferred_element_type=jnp.float32)
        else:
            logits = self.lm_head(h_BTD).astype(jnp.float32)
        return constrain(logits, "logits_BTV") if logits.ndim == 3 else logits
