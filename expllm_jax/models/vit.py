"""Vision towers: pictures in, patch tokens out. One module for DINOv2, CLIP and SigLIP; sizes are in `vit_sizes`.

Shape letters: B pictures, H W pixels, C 3 colours, N patch tokens, T = CLS token (if any) + registers + N tokens, D
width, F hidden width of the feed-forward, A heads, h = D // A, L blocks.
Source: Oquab et al., "DINOv2" (2023); Darcet et al., "Vision Transformers Need Registers" (2023); Radford et al.,
"Learning Transferable Visual Models From Natural Language Supervision" (2021); Zhai et al., "Sigmoid Loss for Language
Image Pre-Training" (2023).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from expllm_jax.errors import ExpllmError
from expllm_jax.models.layers import (
    ACTIVATIONS,
    REMAT_POLICIES,
    LayerNorm,
    Linear,
    bicubic_matrix,
    branch_factors,
    run_layers,
    unroll_count,
)
from expllm_jax.models.layers.linear import INIT_STD
from expllm_jax.models.lora import LoRAConfig
from expllm_jax.parallel import attention, constrain, reshaped

# How the position table is fitted to another grid, always bicubic: "size" as Hugging Face does for DINOv2, CLIP and
# SigLIP; "scale_0.1" as Meta's code, which asks for a grid of size + 0.1; "antialias" as both do it for DINOv2 with
# registers.
RESIZES = ("size", "scale_0.1", "antialias")


@dataclasses.dataclass(frozen=True)
class Family:
    """What the towers of one origin have in common, whatever their size."""

    cls_token: bool  # a CLS token with a position of its own goes before the patches
    pre_norm: bool  # a LayerNorm between the embedding and the first block; the patch embedding has no bias then
    final_norm: bool  # a LayerNorm on the patch tokens that are returned
    dino: bool  # may have LayerScale, register tokens and a SwiGLU feed-forward


# CLIP's last norm belongs to its head: it is applied to the CLS token alone, never to patch tokens, so it is no part of
# the tower. SigLIP's is applied to every token; what comes behind it there, attention pooling, is left out.
FAMILIES = {
    "dinov2": Family(cls_token=True, pre_norm=False, final_norm=True, dino=True),
    "clip": Family(cls_token=True, pre_norm=True, final_norm=False, dino=False),
    "siglip": Family(cls_token=False, pre_norm=False, final_norm=True, dino=False),
}
SWIGLU = "swiglu"
FEED_FORWARDS = (*ACTIVATIONS, SWIGLU)


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Shape of a tower. Published sizes are functions in `vit_sizes`."""

    width: int  # D, divisible by heads
    depth: int  # L, blocks
    heads: int  # A, attention heads
    mlp_ratio: float = 4.0  # hidden width of the MLP / D; SwiGLU takes two thirds of it
    patch: int = 14  # pixels of a patch's side
    native_grid: int = 37  # patches per side of the stored position table (518 px / 14)
    layer_norm_eps: float = 1e-6  # of every LayerNorm
    family: str = "dinov2"  # whose tower it is: dinov2, clip, siglip (see FAMILIES)
    feed_forward: str = "gelu"  # activation of the MLP: gelu, gelu_tanh, quick_gelu; or swiglu, a gated MLP (DINOv2-g)
    registers: int = 0  # extra tokens without a position; 4 in the `_reg` checkpoints of DINOv2
    layer_scale: bool = True  # learned per-channel factor on both residual branches; DINOv2 only
    drop_path: float = 0.0  # rate of stochastic depth in training, equal in all blocks (see layers/drop_path.py)
    resize: str = "size"  # how the position table is fitted to another grid: size, scale_0.1, antialias (see RESIZES)
    unroll: int = 1  # blocks in one step of the loop over them; 0: all, without a loop; same parameters
    remat: str = "none"  # what the backward pass computes again: none, full, dots, offload; see layers/loop.py
    dtype: str = "float32"  # compute dtype
    param_dtype: str = "float32"  # dtype the parameters are stored in; adapters are always float32

    def __post_init__(self) -> None:
        object.__setattr__(self, "unroll", unroll_count(self.unroll))
        for name in ("width", "depth", "heads", "patch", "native_grid"):
            if getattr(self, name) < 1:
                raise ExpllmError(f"vision {name} is {getattr(self, name)}", "give a positive number")
        if self.width % self.heads:
            raise ExpllmError(f"vision width {self.width} is not divisible by {self.heads} heads", "change either")
        if self.family not in FAMILIES:
            raise ExpllmError(f"vision family is {self.family!r}", f"choose from {', '.join(FAMILIES)}")
        if self.feed_forward not in FEED_FORWARDS:
            raise ExpllmError(
                f"vision feed_forward is {self.feed_forward!r}", f"choose from {', '.join(FEED_FORWARDS)}"
            )
        if self.registers < 0:
            raise ExpllmError(f"vision registers is {self.registers}", "give 0 or a positive number")
        if not FAMILIES[self.family].dino:
            self._refuse_what_only_dinov2_has()
        if not 0 <= self.drop_path < 1:
            raise ExpllmError(f"vision drop_path is {self.drop_path}", "give a rate 0 <= rate < 1; 0 turns it off")
        if self.mlp_width < 1:
            raise ExpllmError(f"vision mlp_ratio is {self.mlp_ratio}", "give a positive ratio; DINOv2's is 4")
        if self.resize not in RESIZES:
            raise ExpllmError(f"vision resize is {self.resize!r}", f"choose from {', '.join(RESIZES)}")
        if self.remat not in REMAT_POLICIES:
            raise ExpllmError(f"vision remat is {self.remat!r}", f"choose from {', '.join(REMAT_POLICIES)}")

    def _refuse_what_only_dinov2_has(self) -> None:
        for key, value, without in (
            ("registers", self.registers, "0"),
            ("layer_scale", self.layer_scale, "False"),
            ("feed_forward", self.feed_forward if self.feed_forward == SWIGLU else "", "'gelu'"),
        ):
            if value:
                raise ExpllmError(
                    f"vision family {self.family!r} with {key}={value!r}, which only DINOv2 towers have",
                    f"set {key}={without}, or family='dinov2'",
                )

    @property
    def mlp_width(self) -> int:
        """Hidden width of the feed-forward; that of SwiGLU is rounded up to a multiple of 8, as in DINOv2."""
        width = int(self.width * self.mlp_ratio)
        return (int(width * 2 / 3) + 7) // 8 * 8 if self.feed_forward == SWIGLU else width

    @property
    def extra_tokens(self) -> int:
        """Tokens before the patches: CLS and registers."""
        return FAMILIES[self.family].cls_token + self.registers

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
                path=f"blocks/attn/{name}",
            )

        self.q, self.k, self.v, self.o = (linear(name) for name in "qkvo")

    def __call__(self, x_BTD: jax.Array, keys: jax.Array | None) -> jax.Array:
        B, T, D = x_BTD.shape
        key = (lambda i: keys[i]) if keys is not None else lambda i: None
        wide_BTD = x_BTD.astype(jnp.float32)
        q, k, v = (
            reshaped(linear(x_BTD, key(i), wide_BTD), (B, T, self.heads, D // self.heads), "heads_BTHh")
            for i, linear in enumerate((self.q, self.k, self.v))
        )
        return self.o(attention(q, k, v).reshape(B, T, D), key(3))


class MLP(nnx.Module):
    """Linear, activation, Linear."""

    def __init__(self, config: ViTConfig, lora: LoRAConfig, *, stack: tuple[int, ...], rngs: nnx.Rngs):
        common = {"rngs": rngs, "stack": stack, "dtype": config.dtype, "param_dtype": config.param_dtype}
        self.activation = ACTIVATIONS[config.feed_forward]
        self.fc1 = Linear(config.width, config.mlp_width, lora=lora.on("fc1"), path="blocks/mlp/fc1", **common)
        self.fc2 = Linear(config.mlp_width, config.width, lora=lora.on("fc2"), path="blocks/mlp/fc2", **common)

    def __call__(self, x_BTD: jax.Array, keys: jax.Array | None) -> jax.Array:
        hidden_BTF = self.activation(constrain(self.fc1(x_BTD, None if keys is None else keys[4]), "mlp_BTF"))
        return self.fc2(hidden_BTF, None if keys is None else keys[5])


class GatedMLP(nnx.Module):
    """SwiGLU with biases: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ViTConfig, lora: LoRAConfig, *, stack: tuple[int, ...], rngs: nnx.Rngs):
        common = {"rngs": rngs, "stack": stack, "dtype": config.dtype, "param_dtype": config.param_dtype}
        self.gate = Linear(config.width, config.mlp_width, lora=lora.on("gate"), path="blocks/mlp/gate", **common)
        self.up = Linear(config.width, config.mlp_width, lora=lora.on("up"), path="blocks/mlp/up", **common)
        self.down = Linear(config.mlp_width, config.width, lora=lora.on("down"), path="blocks/mlp/down", **common)

    def __call__(self, x_BTD: jax.Array, keys: jax.Array | None) -> jax.Array:
        key = (lambda i: keys[i]) if keys is not None else lambda i: None
        wide_BTD = x_BTD.astype(jnp.float32)
        hidden_BTF = jax.nn.silu(self.gate(x_BTD, key(4), wide_BTD)) * self.up(x_BTD, key(5), wide_BTD)
        return self.down(constrain(hidden_BTF, "mlp_BTF"), key(6))


class Block(nnx.Module):
    """Pre-norm transformer block with LayerScale; `stack` makes one module hold all L of them."""

    def __init__(self, config: ViTConfig, lora: LoRAConfig, *, stack: tuple[int, ...], rngs: nnx.Rngs):
        norm = {"eps": config.layer_norm_eps, "stack": stack, "param_dtype": config.param_dtype}
        self.norm1 = LayerNorm(config.width, **norm)
        self.attn = Attention(config, lora, stack=stack, rngs=rngs)
        self.norm2 = LayerNorm(config.width, **norm)
        feed_forward = GatedMLP if config.feed_forward == SWIGLU else MLP
        self.mlp = feed_forward(config, lora, stack=stack, rngs=rngs)
        self.drop_path = config.drop_path
        if config.layer_scale:
            self.scale1 = nnx.Param(jnp.ones((*stack, config.width), config.param_dtype))
            self.scale2 = nnx.Param(jnp.ones((*stack, config.width), config.param_dtype))
        else:
            self.scale1 = self.scale2 = None

    def __call__(self, x_BTD: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        # 0 to 6 are of the linear layers, 7 and 8 of the two branches
        keys = None if dropout_key is None else jax.random.split(dropout_key, 9)
        attended = _scaled(self.attn(self.norm1(x_BTD), keys), self.scale1)
        x_BTD = x_BTD + self._thinned(attended, None if keys is None else keys[7])
        fed = _scaled(self.mlp(self.norm2(x_BTD), keys), self.scale2)
        return constrain(x_BTD + self._thinned(fed, None if keys is None else keys[8]), "residual_BTD")

    def _thinned(self, branch_BTD: jax.Array, key: jax.Array | None) -> jax.Array:
        if key is None or not self.drop_path:
            return branch_BTD
        factors_B = branch_factors(key, branch_BTD.shape[0], self.drop_path)
        return branch_BTD * factors_B[:, None, None].astype(branch_BTD.dtype)


def _scaled(x: jax.Array, scale: nnx.Param | None) -> jax.Array:
    return x if scale is None else x * scale[...].astype(x.dtype)


class ViT(nnx.Module):
    """The tower."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs, lora: LoRAConfig | None = None):
        self.config = config
        D, dtype, family = config.width, config.param_dtype, FAMILIES[config.family]

        def normal(*shape: int) -> nnx.Param:
            return nnx.Param((INIT_STD * jax.random.normal(rngs.params(), shape, jnp.float32)).astype(dtype))

        self.patch_embed = Linear(
            config.patch * config.patch * 3,
            D,
            rngs=rngs,
            bias=not family.pre_norm,
            dtype=config.dtype,
            param_dtype=config.param_dtype,
        )
        self.cls_token = normal(1, D) if family.cls_token else None
        # row 0 is the CLS token's, where there is one
        self.position_embedding = normal(family.cls_token + config.native_grid**2, D)
        self.register_tokens = normal(config.registers, D) if config.registers else None
        self.pre_norm = LayerNorm(D, eps=config.layer_norm_eps, param_dtype=dtype) if family.pre_norm else None
        self.blocks = Block(config, lora or LoRAConfig(), stack=(config.depth,), rngs=rngs)
        self.norm = LayerNorm(D, eps=config.layer_norm_eps, param_dtype=dtype) if family.final_norm else None

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
            the final norm, in families that have one, is applied to the output of each, and they are concatenated on
            the last axis. Later blocks are not run. LLaVA reads CLIP with `layers=(-2,)`.
          dropout_key: turns adapter dropout and drop path on.

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
            normed_BTD = x_BTD if self.norm is None else self.norm(x_BTD)
            outputs.append(normed_BTD[:, self.config.extra_tokens :])
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
        patches = reshaped(pixels_BHWC, (B, down, p, across, p, 3), "patches_BYyXxC").transpose(0, 1, 3, 2, 4, 5)
        x_BND = self.patch_embed(reshaped(patches, (B, down * across, p * p * 3), "features_BND"))
        position_TD = self.position_embedding[...].astype(jnp.float32)
        of_cls_1D, of_patches_ND = jnp.split(position_TD, [int(self.cls_token is not None)])
        x_BND = x_BND + fitted_positions(self.config, of_patches_ND, down, across).astype(dtype)
        before = []
        if self.cls_token is not None:
            before.append((self.cls_token[...].astype(jnp.float32) + of_cls_1D).astype(dtype))
        if self.register_tokens is not None:
            before.append(self.register_tokens[...].astype(dtype))
        if before:
            before_BRD = jnp.broadcast_to(jnp.concatenate(before), (B, self.config.extra_tokens, D))
            x_BND = jnp.concatenate([constrain(before_BRD, "residual_BTD"), x_BND], 1)
        return constrain(x_BND if self.pre_norm is None else self.pre_norm(x_BND), "residual_BTD")


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
