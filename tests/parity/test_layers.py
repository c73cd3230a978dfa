"""The lowest rungs: layers that hold no more than a matrix."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from expllm_jax.models import ProjectorConfig
from expllm_jax.models.layers import LayerNorm, RMSNorm, apply_rope, gelu, rope_tables
from expllm_jax.models.projector import Projector
from expllm_jax.parallel import attention
from tests.models.sizes import DECODER, changed
from tests.parity.agreement import RUNG, agree

pytestmark = pytest.mark.parity


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def test_rms_norm(torch_models):
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    x, scale = 3 * normal(2, 5, 48), 1 + normal(48)
    ours, theirs = RMSNorm(48, eps=1e-5), LlamaRMSNorm(48, eps=1e-5)
    ours.scale = nnx.Param(jnp.asarray(scale))
    theirs.weight.data = torch_models.tensor(scale)
    agree("RMSNorm", ours(x), theirs(torch_models.tensor(x)).detach())


def test_layer_norm(torch_models):
    import torch

    x, scale, bias = 3 * normal(2, 5, 32) + 1, 1 + normal(32), normal(32, seed=1)
    ours = LayerNorm(32, eps=1e-6)
    ours.scale, ours.bias = nnx.Param(jnp.asarray(scale)), nnx.Param(jnp.asarray(bias))
    weight, shift = torch_models.tensor(scale), torch_models.tensor(bias)
    expected = torch.nn.functional.layer_norm(torch_models.tensor(x), (32,), weight, shift, 1e-6)
    agree("LayerNorm", ours(x), expected)


def test_exact_gelu(torch_models):
    import torch

    x = np.linspace(-12, 12, 4801, dtype=np.float32)
    agree("GELU", gelu(jnp.asarray(x)), torch.nn.functional.gelu(torch_models.tensor(x)))


# A frequency is rounded in its last bit, and a position multiplies that: at 2,048 neither side is better than 1e-4.
@pytest.mark.parametrize(("longest", "within"), [(64, RUNG), (2048, 2048 * 2.0**-24)])
@pytest.mark.parametrize("scaling", ["", "linear:4"])
def test_rotary_positions(torch_models, scaling, longest, within):
    """Positions in any order; a head of 64, as in SmolLM2."""
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    from expllm_jax.weights import decoder_hf_config

    config = changed(DECODER, head_dim=64, rope_theta=100000.0, rope_scaling=scaling)
    positions = np.random.default_rng(0).permutation(longest)[None, :60].astype(np.int32)
    q, k = normal(1, 60, 6, 64), normal(1, 60, 2, 64)
    tables = rope_tables(jnp.asarray(positions), 64, config.rope_theta, scaling)
    torch_q, torch_k = torch_models.tensor(q), torch_models.tensor(k)
    rotary = LlamaRotaryEmbedding(transformers.LlamaConfig(**decoder_hf_config(config)))
    cos, sin = rotary(torch_q, torch_models.tensor(positions))
    expected = apply_rotary_pos_emb(torch_q, torch_k, cos, sin, unsqueeze_dim=2)
    for name, x, rotated in zip("qk", (q, k), expected, strict=True):
        agree(f"rotary {name} up to position {longest}", apply_rope(jnp.asarray(x), tables), rotated, within)


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("masked", [False, True])
def test_attention(torch_models, kv_heads, masked):
    import torch

    q, k, v = normal(3, 7, 6, 8), normal(3, 9, kv_heads, 8, seed=1), normal(3, 9, kv_heads, 8, seed=2)
    mask = np.random.default_rng(0).random((3, 7, 9)) < 0.5
    mask[..., 0] = True  # torch has no answer for a query that may look at nothing
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(torch_models.tensor(x).transpose(1, 2) for x in (q, k, v)),
        attn_mask=torch_models.tensor(mask)[:, None] if masked else None,
        enable_gqa=True,
    ).transpose(1, 2)
    found = attention(*map(jnp.asarray, (q, k, v)), jnp.asarray(mask) if masked else None)
    agree("attention", found, expected)


@pytest.mark.parametrize("pool", [1, 2])
def test_projector(torch_models, pool):
    import torch

    ours = Projector(24, 40, ProjectorConfig(pool=pool), rngs=nnx.Rngs(0))
    inputs = 24 * pool**2
    theirs = torch.nn.Sequential(torch.nn.Linear(inputs, 40), torch.nn.GELU(), torch.nn.Linear(40, 40))
    for number, (layer, (rows, columns)) in enumerate(zip(ours.layers, ((inputs, 40), (40, 40)), strict=True)):
        kernel, bias = 0.3 * normal(rows, columns), normal(columns)
        layer.kernel, layer.bias = nnx.Param(jnp.asarray(kernel)), nnx.Param(jnp.asarray(bias))
        theirs[2 * number].weight.data = torch_models.tensor(kernel.T)
        theirs[2 * number].bias.data = torch_models.tensor(bias)
    x = normal(2, 16, 24)
    # A picture of 4 x 4 features; torch moves a square of them into the channels, colour by colour.
    image = torch_models.tensor(x).reshape(2, 4, 4, 24).permute(0, 3, 1, 2)
    pooled = torch.nn.functional.pixel_unshuffle(image, pool)
    side = 4 // pool
    tokens = pooled.reshape(2, 24, pool**2, side, side).permute(0, 3, 4, 2, 1).reshape(2, side**2, inputs)
    with torch.no_grad():
        agree("projector", jax.jit(ours)(x), theirs(tokens))
