"""DINOv2 vision tower: pictures in, patch tokens out.

Shape letters: B pictures, H W pixels, C 3 colours, N patch tokens, T = 1 + registers + N tokens, D width, A heads,
h = D // A, L blocks.
Source: Oquab et al., "DINOv2" (2023); Darcet et al., "Vision Transformers Need Registers" (2023).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from expllm_jax.errors import ExpllmError
from expllm_jax.models.layers import REMAT_POLICIES, LayerNorm, Linear, bicubic_matrix, gelu, run_layers
from expllm_jax.models.layers.linear import INIT_STD
from expllm_jax.models.lora import LoRAConfig
from expllm_jax.parallel import attention, constrain

# How the position table is fitted to another grid, always bicubic: "size" as Hugging Face's Dinov2Model; "scale_0.1" as
# Meta's code, which asks for a grid of size + 0.1; "antialias" as both do it for towers with registers.
RESIZES = ("size", "scale_0.1", "antialias")


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Shape of a DINOv2 tower. Sizes: `vit_s14`, `vit_b14`, `vit_l14`."""

    width: int  # D, divisible by heads
    depth: int  # L, blocks
    heads: int  # A, attention heads
    mlp_ratio: float = 4.0  # hidden width of the MLP / D
    patch: int = 14  # pixels of a patch's side
    native_grid: int = 37  # patches per side of the stored position table (518 px / 14)
    layer_norm_eps: float = 1e-6  # of every LayerNorm
    registers: int = 0  # extra tokens without a position; 4 in the `_reg` checkpoints
    layer_scale: bool = True  # learned per-channel factor on both residual branches
    resize: str = "size"  # how the position table is fitted to another grid: size, scale_0.1, antialias (see RESIZES)
    unroll: bool = False  # unroll the blocks instead of scanning them; same parameters
    remat: str = "none"  # what the backward pass computes again: none, full, dots
    dtype: str = "float32"  # compute dtype
    param_dtype: str = "float32"  # dtype the parameters are stored in; adapters are always float32

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "patch", "native_grid"):
            if getattr(self, name) < 1:
                raise ExpllmError(f"vision {name} is {getattr(self, name)}", "give a positive number")
        if self.width % self.heads:
            raise ExpllmError(f"vision width {self.width} is not divisible by {self.heads} heads", "change either")
        if self.registers < 0:
            raise ExpllmError(f"vision registers is {self.registers}", "give 0 or a positive number")
        if self.mlp_width < 1:
            raise ExpllmError(f"vision mlp_ratio is {self.mlp_ratio}", "give a positive ratio; DINOv2's is 4")
        if self.resize not in RESIZES:
            raise ExpllmError(f"vision resize is {self.resize!r}", f"choose from {', '.join(RESIZES)}")
        if self.remat not in REMAT_POLICIES:
            raise ExpllmError(f"vision remat is {self.remat!r}", f"choose from {', '.join(REMAT_POLICIES)}")

    @property
    def mlp_width(self) -> int:
        """Hidden width of the MLP."""
        return int(self.width * self.mlp_ratio)

    def build(self, rngs: nnx.Rngs) -> ViT:
        """The module with freshly drawn parameters."""
        return ViT(self, rngs=rngs)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches (down, across) of a picture of `height` x `width` pixels; raises ExpllmError if they do not fit."""
        if height % self.patch or width % self.patch or not height or not width:
            raise ExpllmError(
                f"a picture of {height} x {width} pixels does not divide into {self.patch}-pixel patches",
                f"resize it to multiples of {self.patch}, such as {16 * self.patch} x {16 * self.patch}",
            )
        return height // self.patch, width // self.patch


class Attention(nnx.Module):
    """Self-attention of all tokens with all tokens."""

    def __init__(self, config: ViTConfig, lora: LoRAConfig, *, stack: tuple[int, ...], rngs: nnx.Rngs):
        self.heads = config.heads

        def linear(name: str) -> Linear:
            return Linear(
                config.width,
                config.width,
                rngs=rngs,
                stack=stack,
                lora=lora.on(name),
                dtype=config.dtype,
                param_dtype=config.param_dtype,
            )

        self.q, self.k, self.v, self.o = (linear(name) for name in "qkvo")

    def __call__(self, x_BTD: jax.Array, keys: jax.Array | None) -> jax.Array:
        B, T, D = x_BTD.shape
        key = (lambda i: keys[i]) if keys is not None else lambda i: None
        q, k, v = (
            constrain(linear(x_BTD, key(i)).reshape(B, T, self.heads, D // self.heads), "heads_BTHh")
            for i, linear in enumerate((self.q, self.k, self.v))
        )
        return self.o(attention(q, k, v).reshape(B, T, D), key(3))


class MLP(nnx.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, config: ViTConfig, lora: LoRAConfig, *, stack: tuple[int, ...], rngs: nnx.Rngs):
        common = {"rngs": rngs, "stack": stack, "dtype": config.dtype, "param_dtype": config.param_dtype}
        self.fc1 = Linear(config.width, config.mlp_width, lora=lora.on("fc1"), **common)
        self.fc2 = Linear(config.mlp_width, config.width, lora=lora.on("fc2"), **common)

    def __call__(self, x_BTD: jax.Array, keys: jax.Array | None) -> jax.Array:
        hidden_BTF = gelu(constrain(self.fc1(x_BTD, None if keys is None else keys[4]), "mlp_BTF"))
        return self.fc2(hidden_BTF, None if keys is None else keys[5])


class Block(nnx.Module):
    """Pre-norm transformer block with LayerScale; `stack` makes one module hold all L of them."""

    def __init__(self, config: ViTConfig, lora: LoRAConfig, *, stack: tuple[int, ...], rngs: nnx.Rngs):
        norm = {"eps": config.layer_norm_eps, "stack": stack, "param_dtype": config.param_dtype}
        self.norm1 = LayerNorm(config.width, **norm)
        self.attn = Attention(config, lora, stack=stack, rngs=rngs)
        self.norm2 = LayerNorm(config.width, **norm)
        self.mlp = MLP(config, lora, stack=stack, rngs=rngs)
        if config.layer_scale:
            self.scale1 = nnx.Param(jnp.ones((*stack, config.width), config.param_dtype))
            self.scale2 = nnx.Param(jnp.ones((*stack, config.width), config.param_dtype))
        else:
            self.scale1 = self.scale2 = None

    def __call__(self, x_BTD: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        keys = None if dropout_key is None else jax.random.split(dropout_key, 6)
        x_BTD = x_BTD + _scaled(self.attn(self.norm1(x_BTD), keys), self.scale1)
        return constrain(x_BTD + _scaled(self.mlp(self.norm2(x_BTD), keys), self.scale2), "residual_BTD")


def _scaled(x: jax.Array, scale: nnx.Param | None) -> jax.Array:
    return x if scale is None else x * scale[...].astype(x.dtype)


class ViT(nnx.Module):
    """The tower. Drop path is left out: at the reference's batch of one picture per device it was the identity."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs, lora: LoRAConfig | None = None):
        self.config = config
        D, dtype = config.width, config.param_dtype

        def normal(*shape: int) -> nnx.Param:
            return nnx.Param((INIT_STD * jax.random.normal(rngs.params(), shape, jnp.float32)).astype(dtype))

        self.patch_embed = Linear(
            config.patch * config.patch * 3, D, rngs=rngs, dtype=config.dtype, param_dtype=config.param_dtype
        )
        self.cls_token = normal(1, D)
        self.position_embedding = normal(1 + config.native_grid**2, D)  # row 0 is the CLS token's
        self.register_tokens = normal(config.registers, D) if config.registers else None
        self.blocks = Block(config, lora or LoRAConfig(), stack=(config.depth,), rngs=rngs)
        self.norm = LayerNorm(D, eps=config.layer_norm_eps, param_dtype=dtype)

    def __call__(
        self,
        pixels_BHWC: jax.Array,
        *,
        layers: tuple[int, ...] | None = None,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Pictures to patch tokens.

        Args:
          pixels_BHWC: float32, already normalised, sides divisible by the patch.
          layers: None: the last block's output. Otherwise ascending block numbers from 0 (negative: from the end);
            the final norm is applied to the output of each, and they are concatenated on the last axis. Later blocks
            are not run.
          dropout_key: turns adapter dropout on.

        Returns:
          patch tokens (B, N, D * max(1, len(layers))) in the compute dtype, row by row from the top left; CLS and
          register tokens are dropped.

        Raises:
          ExpllmError: the sides do not divide, or `layers` names no block.
        """
        depth = self.config.depth
        wanted = self._block_numbers(layers)
        keys_L = None if dropout_key is None else jax.random.split(dropout_key, depth)
        x_BTD = self._embed(pixels_BHWC)
        outputs, done = [], 0
        for last in wanted:
            part = jax.tree.map(lambda leaf, a=done, b=last + 1: leaf[a:b], (self.blocks, keys_L))
            x_BTD = run_layers(
                lambda x, layer: layer[0](x, layer[1]),
                x_BTD,
                (self.blocks, keys_L) if last + 1 - done == depth else part,
                depth=last + 1 - done,
                unroll=self.config.unroll,
                remat=self.config.remat,
            )
            outputs.append(self.norm(x_BTD)[:, 1 + self.config.registers :])
            done = last + 1
        return constrain(jnp.concatenate(outputs, -1) if len(outputs) > 1 else outputs[0], "features_BND")

    def _block_numbers(self, layers: tuple[int, ...] | None) -> list[int]:
        depth = self.config.depth
        if not layers:
            return [depth - 1]
        numbers = [layer + depth if layer < 0 else layer for layer in layers]
        if not all(0 <= number < depth for number in numbers) or sorted(set(numbers)) != numbers:
            raise ExpllmError(
                f"layers {tuple(layers)} are not ascending block numbers of a tower of {depth} blocks",
                f"use numbers from 0 to {depth - 1} (or -{depth} to -1), each once, in ascending order",
            )
        return numbers

    def _embed(self, pixels_BHWC: jax.Array) -> jax.Array:
        """Patches, their positions, and the tokens that go before them: (B, T, D)."""
        B, height, width, _ = pixels_BHWC.shape
        down, across = self.config.grid(height, width)
        p, D, dtype = self.config.patch, self.config.width, self.config.dtype
        patches = pixels_BHWC.reshape(B, down, p, across, p, 3).transpose(0, 1, 3, 2, 4, 5)
        x_BND = self.patch_embed(patches.reshape(B, down * across, p * p * 3))
        position_TD = self.position_embedding[...].astype(jnp.float32)
        x_BND = x_BND + fitted_positions(self.config, position_TD[1:], down, across).astype(dtype)
        before = [(self.cls_token[...].astype(jnp.float32) + position_TD[:1]).astype(dtype)]
        if self.register_tokens is not None:
            before.append(self.register_tokens[...].astype(dtype))
        before_BRD = jnp.broadcast_to(jnp.concatenate(before), (B, 1 + self.config.registers, D))
        return constrain(jnp.concatenate([before_BRD, x_BND], 1), "residual_BTD")


def fitted_positions(config: ViTConfig, table_ND: jax.Array, down: int, across: int) -> jax.Array:
    """The stored square position table of the patches, resized to a grid of down x across by the tower's convention.

    (native_grid^2, D) float32 -> (down * across, D) float32; the table itself where the grid is the stored one.
    """
    native = config.native_grid
    if (down, across) == (native, native):
        return table_ND
    # Meta added 0.1 so that rounding never loses a row; it moves every sample a little.
    extra = 0.1 if config.resize == "scale_0.1" else 0.0
    rows, columns = (
        bicubic_matrix(native, size, (size + extra) / native, antialias=config.resize == "antialias")
        for size in (down, across)
    )
    table_HWD = table_ND.reshape(native, native, -1)
    resized = jnp.einsum("yh,hwd,xw->yxd", rows, table_HWD, columns, precision="highest")
    return resized.reshape(down * across, -1)


def vit_s14(**changes: object) -> ViTConfig:
    """DINOv2 ViT-S/14: 22,056,192 parameters."""
    return dataclasses.replace(ViTConfig(width=384, depth=12, heads=6), **changes)


def vit_b14(**changes: object) -> ViTConfig:
    """DINOv2 ViT-B/14: 86,579,712 parameters."""
    return dataclasses.replace(ViTConfig(width=768, depth=12, heads=12), **changes)


def vit_l14(**changes: object) -> ViTConfig:
    """DINOv2 ViT-L/14, the paper's tower: 304,367,616 parameters."""
    return dataclasses.replace(ViTConfig(width=1024, depth=24, heads=16), **changes)
