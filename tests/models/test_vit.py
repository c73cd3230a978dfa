"""The tower against a NumPy forward pass that shares nothing with it but the parameters."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from flax import nnx

from expllm_jax.errors import ExpllmError
from expllm_jax.models import ViT, ViTConfig, abstract, merge, split
from tests.models.sizes import LORA, VISION, changed, random_params


def layer_norm(x, scale, bias, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * scale + bias


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def reference(params, config, pixels, *, layers):
    """Float64; pictures must have the native grid, so that no resize is involved. One picture at a time, head
    by head.
    """
    p = {path: np.asarray(value, np.float64) for path, value in params.items()}
    size, n, h = config.patch, config.native_grid, config.width // config.heads
    results = []
    for picture in pixels.astype(np.float64):
        tokens = [p["cls_token"][0] + p["position_embedding"][0], *p.get("register_tokens", [])]
        for y in range(n):
            for x in range(n):
                patch = picture[y * size : (y + 1) * size, x * size : (x + 1) * size].ravel()
                embedded = patch @ p["patch_embed/kernel"] + p["patch_embed/bias"]
                tokens.append(embedded + p["position_embedding"][1 + y * n + x])
        x, outputs = np.stack(tokens), []
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
            y = gelu(y @ b["mlp/fc1/kernel"] + b["mlp/fc1/bias"]) @ b["mlp/fc2/kernel"] + b["mlp/fc2/bias"]
            x = x + y * b.get("scale2", 1.0)
            if layer in layers:
                outputs.append(layer_norm(x, p["norm/scale"], p["norm/bias"], config.layer_norm_eps))
        results.append(np.concatenate(outputs, -1)[1 + config.registers :])
    return np.stack(results)


def run(graphdef, params, x, **how):
    """The tower, jitted: compiling it whole takes less time than every operation of it alone."""
    return jax.jit(lambda params, x: merge(graphdef, params)(x, **how))(params, x)


def pictures(config, batch=2, grid=None, seed=1):
    side = config.patch * (grid or config.native_grid)
    return np.random.default_rng(seed).normal(size=(batch, side, side, 3)).astype(np.float32)


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("layer_scale", [True, False])
def test_agrees_with_numpy(registers, layer_scale):
    config = changed(VISION, registers=registers, layer_scale=layer_scale)
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


@pytest.mark.parametrize("changes", [{"unroll": True}, {"remat": "full"}, {"remat": "dots"}])
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
    [{"width": 0}, {"heads": 5}, {"registers": -1}, {"mlp_ratio": 0.0}, {"resize": "bilinear"}, {"remat": "some"}],
)
def test_impossible_configurations_are_refused(changes):
    with pytest.raises(ExpllmError):
        ViTConfig(**{"width": 32, "depth": 1, "heads": 4} | changes)
