"""The tower against a NumPy forward pass that shares nothing with it but the parameters."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from flax import nnx

from expllm_jax.errors import ExpllmError
from expllm_jax.models import (
    LoRAConfig,
    ViT,
    ViTConfig,
    abstract,
    clip_l14,
    count,
    merge,
    siglip_b16,
    siglip_so400m14,
    split,
    vit_b14,
    vit_g14,
    vit_l14,
    vit_s14,
)
from expllm_jax.models.layers import branch_factors
from expllm_jax.models.lora import LORA_TARGETS
from expllm_jax.models.vit import Block
from expllm_jax.parallel import partition_spec
from tests.models.sizes import LORA, VISION, changed, random_params


def layer_norm(x, scale, bias, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * scale + bias


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):
    return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def quick_gelu(x):
    return x / (1 + np.exp(-1.702 * x))


def feed_forward(b, config, y):
    if config.feed_forward == "swiglu":
        gate, up = (y @ b[f"mlp/{name}/kernel"] + b[f"mlp/{name}/bias"] for name in ("gate", "up"))
        return (silu(gate) * up) @ b["mlp/down/kernel"] + b["mlp/down/bias"]
    activation = {"gelu": gelu, "gelu_tanh": gelu_tanh, "quick_gelu": quick_gelu}[config.feed_forward]
    return activation(y @ b["mlp/fc1/kernel"] + b["mlp/fc1/bias"]) @ b["mlp/fc2/kernel"] + b["mlp/fc2/bias"]


def reference(params, config, pixels, *, layers):
    """Float64; pictures must have the native grid, so that no resize is involved. One picture at a time, head
    by head. What a family has and has not is read off its parameters.
    """
    p = {path: np.asarray(value, np.float64) for path, value in params.items()}
    size, n, h = config.patch, config.native_grid, config.width // config.heads
    results = []
    for picture in pixels.astype(np.float64):
        tokens, positions = [], p["position_embedding"]
        if "cls_token" in p:
            tokens, positions = [p["cls_token"][0] + positions[0]], positions[1:]
        tokens += [*p.get("register_tokens", [])]
        before = len(tokens)
        for y in range(n):
            for x in range(n):
                patch = picture[y * size : (y + 1) * size, x * size : (x + 1) * size].ravel()
                embedded = patch @ p["patch_embed/kernel"] + p.get("patch_embed/bias", 0.0)
                tokens.append(embedded + positions[y * n + x])
        x, outputs = np.stack(tokens), []
        if "pre_norm/scale" in p:
            x = layer_norm(x, p["pre_norm/scale"], p["pre_norm/bias"], config.layer_norm_eps)
        for layer in range(config.depth):
            b = {path.removeprefix("blocks/"): v[layer] for path, v in p.items() if path.startswith("blocks/")}
            y = layer_norm(x, b["norm1/scale"], b["norm1/bias"], config.layer_norm_eps)
            q, k, v = (y @ b[f"attn/{name}/kernel"] + b[f"attn/{name}/bias"] for name in "qkv")
            heads = []
            for i in range(config.heads):
                part = slice(i * h, (i + 1) * h)
                scores = q[:, part] @ k[:, part].T / math.sqrt(h)
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
            y = np.concatenate(heads, -1) @ b["attn/o/kernel"] + b["attn/o/bias"]
            x = x + y * b.get("scale1", 1.0)
            y = layer_norm(x, b["norm2/scale"], b["norm2/bias"], config.layer_norm_eps)
            x = x + feed_forward(b, config, y) * b.get("scale2", 1.0)
            if layer in layers:
                normed = "norm/scale" in p
                outputs.append(layer_norm(x, p["norm/scale"], p["norm/bias"], config.layer_norm_eps) if normed else x)
        results.append(np.concatenate(outputs, -1)[before:])
    return np.stack(results)


def run(graphdef, params, x, **how):
    """The tower, jitted: compiling it whole takes less time than every operation of it alone."""
    return jax.jit(lambda params, x: merge(graphdef, params)(x, **how))(params, x)


def pictures(config, batch=2, grid=None, seed=1):
    side = config.patch * (grid or config.native_grid)
    return np.random.default_rng(seed).normal(size=(batch, side, side, 3)).astype(np.float32)


CLIP = changed(VISION, family="clip", feed_forward="quick_gelu", layer_scale=False, layer_norm_eps=1e-5)
SIGLIP = changed(VISION, family="siglip", feed_forward="gelu_tanh", layer_scale=False, mlp_ratio=3.7)


@pytest.mark.parametrize(
    "config",
    [
        VISION,
        changed(VISION, registers=2),
        changed(VISION, layer_scale=False),
        changed(VISION, registers=2, layer_scale=False),
        changed(VISION, feed_forward="swiglu"),
        CLIP,
        SIGLIP,
    ],
    ids=["dinov2", "registers", "no layer scale", "registers, no layer scale", "swiglu", "clip", "siglip"],
)
def test_agrees_with_numpy(config):
    graphdef, params = random_params(config)
    x = pictures(config)
    both = reference(params, config, x, layers=(0, 2))
    np.testing.assert_allclose(run(graphdef, params, x), both[..., config.width :], atol=2e-5)
    np.testing.assert_allclose(run(graphdef, params, x, layers=(0, -1)), both, atol=2e-5)


def value_and_gradient(**changes):
    _, params = random_params(VISION)
    graphdef = abstract(changed(VISION, **changes))[0]
    x = pictures(VISION, grid=3)
    value, gradient = jax.jit(jax.value_and_grad(lambda p: (merge(graphdef, p)(x) ** 2).sum()))(params)
    return float(value), gradient


@pytest.fixture(scope="module")
def scanned():
    return value_and_gradient()


@pytest.mark.parametrize("changes", [{"unroll": 0}, {"remat": "full"}, {"remat": "dots"}])
def test_how_it_runs_does_not_change_values_or_gradients(changes, scanned):
    value, gradient = value_and_gradient(**changes)
    assert value == pytest.approx(scanned[0], rel=1e-5)
    for path, expected in scanned[1].items():
        np.testing.assert_allclose(gradient[path], expected, rtol=2e-3, atol=2e-3, err_msg=path)


def test_rows_of_a_batch_do_not_touch():
    graphdef, params = random_params(VISION)
    x = pictures(VISION, batch=3)
    np.testing.assert_allclose(run(graphdef, params, x)[1:2], run(graphdef, params, x[1:2]), atol=1e-5)


def test_lora_with_b_zero_is_the_identity_and_with_b_is_not():
    graphdef, params = random_params(VISION)
    x = pictures(VISION)
    with_lora, adapted = split(ViT(VISION, rngs=nnx.Rngs(0), lora=LORA))
    adapted |= params
    assert {path for path in adapted if "lora" in path} == {f"blocks/attn/{a}/lora_{b}" for a in "qv" for b in "ab"}
    plain = run(graphdef, params, x)
    np.testing.assert_allclose(run(with_lora, adapted, x), plain, atol=1e-6)
    adapted["blocks/attn/v/lora_b"] = adapted["blocks/attn/v/lora_b"] + 1.0
    assert np.abs(run(with_lora, adapted, x) - plain).max() > 1e-3


def test_bfloat16_is_close():
    graphdef, params = random_params(VISION)
    half = abstract(changed(VISION, dtype="bfloat16"))[0]
    x = pictures(VISION)
    out = run(half, params, x)
    assert out.dtype == "bfloat16"
    np.testing.assert_allclose(np.asarray(out, np.float32), run(graphdef, params, x), atol=0.2)


@pytest.mark.parametrize("layers", [(3,), (-4,), (1, 0), (0, 0), (0, -3)])
def test_layers_that_do_not_exist_are_refused(layers):
    graphdef, params = random_params(VISION)
    with pytest.raises(ExpllmError, match="block numbers"):
        merge(graphdef, params)(pictures(VISION), layers=layers)


def test_pictures_that_do_not_divide_are_refused():
    graphdef, params = random_params(VISION)
    with pytest.raises(ExpllmError, match="4-pixel patches"):
        merge(graphdef, params)(np.zeros((1, 18, 20, 3), np.float32))


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0},
        {"heads": 5},
        {"registers": -1},
        {"mlp_ratio": 0.0},
        {"mlp_ratio": 0.0, "feed_forward": "swiglu"},
        {"resize": "bilinear"},
        {"remat": "some"},
        {"family": "resnet"},
        {"feed_forward": "relu"},
        {"drop_path": -0.1},
        {"drop_path": 1.0},
    ],
)
def test_impossible_configurations_are_refused(changes):
    with pytest.raises(ExpllmError, match=f"vision .*{next(iter(changes))}"):
        ViTConfig(**{"width": 32, "depth": 1, "heads": 4} | changes)


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("changes", [{"registers": 4}, {"layer_scale": True}, {"feed_forward": "swiglu"}])
def test_what_only_dinov2_has_is_refused_elsewhere(family, changes):
    with pytest.raises(ExpllmError, match=f"'{family}' with {next(iter(changes))}"):
        ViTConfig(**{"width": 32, "depth": 1, "heads": 4, "family": family, "layer_scale": False} | changes)


def test_the_families_hold_no_weight_they_do_not_use():
    dinov2, clip, siglip = (set(abstract(config)[1]) for config in (VISION, CLIP, SIGLIP))
    scales = {"blocks/scale1", "blocks/scale2"}
    assert clip == dinov2 - scales - {"patch_embed/bias", "norm/scale", "norm/bias"} | {
        "pre_norm/scale",
        "pre_norm/bias",
    }
    assert siglip == dinov2 - scales - {"cls_token"}
    assert abstract(SIGLIP)[1]["position_embedding"].shape == (25, 32)


SIZES = {
    vit_s14: 22_056_192,
    vit_b14: 86_579_712,
    vit_l14: 304_367_616,
    vit_g14: 1_136_479_232,
    clip_l14: 303_177_728,
    siglip_so400m14: 412_987_248,
    siglip_b16: 85_797_120,
}


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes(size):
    params = abstract(size())[1]
    assert count(params) == SIZES[size]
    assert f"{SIZES[size]:,} parameters" in size.__doc__
    for path, leaf in params.items():
        assert len(partition_spec(path, leaf.shape)) == leaf.ndim, path


def test_the_clip_of_336_pixels_has_a_larger_table():
    assert count(abstract(clip_l14(native_grid=24))[1]) == 303_505_408
    assert clip_l14(native_grid=24).grid(336, 336) == (24, 24)
    assert siglip_so400m14().mlp_width == 4304 and vit_g14().mlp_width == 4096


def test_every_linear_layer_of_a_gated_tower_takes_an_adapter():
    config = changed(VISION, feed_forward="swiglu")
    _, shapes = split(ViT(config, rngs=nnx.Rngs(0), lora=changed(LORA, targets=LORA_TARGETS)))
    adapted = {path.removesuffix("/lora_a") for path in shapes if path.endswith("/lora_a")}
    assert adapted == {f"blocks/attn/{name}" for name in "qkvo"} | {f"blocks/mlp/{n}" for n in ("gate", "up", "down")}


@pytest.mark.parametrize("config", [VISION, CLIP, SIGLIP], ids=["dinov2", "clip", "siglip"])
def test_pictures_that_are_not_square_have_their_patches_row_by_row(config):
    """A black picture shows the positions alone: turned on its side with the table turned, it gives the same tokens."""
    graphdef, params = random_params(config)
    for path in ("blocks/attn/v/kernel", "blocks/attn/v/bias"):  # patches do not see each other
        params[path] = np.zeros_like(params[path])
    wide = np.zeros((1, 12, 24, 3), np.float32)
    tokens = np.asarray(run(graphdef, params, wide)).reshape(3, 6, -1)
    tall = np.asarray(run(graphdef, turned(params, config), wide.transpose(0, 2, 1, 3))).reshape(6, 3, -1)
    np.testing.assert_allclose(tokens, tall.transpose(1, 0, 2), atol=1e-5)


def turned(params, config):
    """The parameters with the position table transposed."""
    table = params["position_embedding"]
    n = config.native_grid
    before, patches = np.split(table, [len(table) - n * n])
    patches = patches.reshape(n, n, -1).transpose(1, 0, 2).reshape(n * n, -1)
    return params | {"position_embedding": np.concatenate([before, patches])}


@pytest.mark.parametrize(
    ("batch", "rate", "kept"), [(1, 0.4, 1), (2, 0.4, 1), (4, 0.4, 2), (8, 0.4, 4), (10, 0.4, 6), (3, 0.9, 1)]
)
def test_drop_path_keeps_a_subset_of_fixed_size(batch, rate, kept):
    keys = jax.random.split(jax.random.key(0), 400)
    factors = np.asarray(jax.vmap(lambda key: branch_factors(key, batch, rate))(keys))
    assert set(np.unique(factors)) <= {0.0, np.float32(batch / kept)}
    np.testing.assert_array_equal((factors > 0).sum(1), kept)
    # every picture is taken equally often: the mean of 400 draws lies within four standard deviations of 1
    spread = math.sqrt((batch / kept - 1) / 400)
    np.testing.assert_allclose(factors.mean(0), 1.0, atol=4 * spread + 1e-6)


def test_a_small_drop_path_decides_for_every_picture_alone():
    keys = jax.random.split(jax.random.key(1), 4000)
    factors = np.asarray(jax.vmap(lambda key: branch_factors(key, 2, 0.1))(keys))
    assert set(np.unique(factors)) == {0.0, np.float32(1 / 0.9)}
    np.testing.assert_allclose((factors == 0).mean(0), 0.1, atol=4 * math.sqrt(0.09 / 4000))
    assert (factors == 0).all(1).mean() == pytest.approx(0.01, abs=4 * math.sqrt(0.0099 / 4000))


def test_each_branch_of_a_block_is_dropped_by_itself():
    """Two pictures at 0.4: each branch is taken by one of them, doubled, and the two branches choose independently."""
    config = changed(VISION, drop_path=0.4)
    block = Block(config, LoRAConfig(), stack=(), rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(2, 7, config.width)).astype(np.float32)

    @jax.jit
    def alternatives(x):
        attended = block.attn(block.norm1(x), None)
        middles = {f: x + f * attended for f in (0, 2)}
        return {(f, g): m + g * block.mlp(block.norm2(m), None) for f, m in middles.items() for g in (0, 2)}

    expected = {factors: np.asarray(y) for factors, y in alternatives(x).items()}
    run_block, seen = jax.jit(block), set()
    for seed in range(20):
        y = np.asarray(run_block(x, jax.random.key(seed)))
        taken = []
        for row in range(2):
            fitting = [f for f, values in expected.items() if np.abs(values[row] - y[row]).max() < 1e-5]
            assert len(fitting) == 1
            taken += fitting
        assert sum(f for f, _ in taken) == sum(g for _, g in taken) == 2
        seen.add(tuple(taken))
    assert len(seen) == 4


def test_drop_path_is_off_outside_training_and_for_a_single_picture():
    config = changed(VISION, drop_path=0.4)
    graphdef, params = random_params(config)
    plain = abstract(VISION)[0]
    x = pictures(config)
    np.testing.assert_array_equal(run(graphdef, params, x), run(plain, params, x))
    key = jax.random.key(3)
    assert np.abs(run(graphdef, params, x, dropout_key=key) - run(plain, params, x)).max() > 1e-2
    one = run(graphdef, params, x[:1], dropout_key=key)
    np.testing.assert_allclose(one, run(plain, params, x[:1]), atol=1e-6)
