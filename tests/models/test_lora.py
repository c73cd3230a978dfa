from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

from expllm_jax.errors import ExpllmError
from expllm_jax.models import PAPER_TRAINABLE, LoRAConfig, abstract, init, merge, merge_lora, merged, select
from expllm_jax.models.layers import Linear
from tests.models.sizes import LORA, WHOLE, changed


def with_random_b(params, seed=0):
    """B starts at zero, where an adapter does nothing."""
    rng = np.random.default_rng(seed)
    return {
        path: np.asarray(rng.normal(size=v.shape), np.float32) if path.endswith("/lora_b") else v
        for path, v in params.items()
    }


def row(config):
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, config.decoder.vocab, (2, 12))
    tokens[:, 2:6] = config.image_token
    positions = np.broadcast_to(np.arange(12), (2, 12))
    side = 4 * config.vision.patch
    return tokens, positions, rng.normal(size=(2, side, side, 3)).astype(np.float32)


def logits(graphdef, params, config, **more):
    tokens, positions, pixels = row(config)

    @jax.jit
    def run(params, more):
        model = merge(graphdef, params)
        features = model.encode(pixels, **more)[:, None]
        return model.logits(model(tokens, positions, np.ones_like(tokens), features, **more))

    return np.asarray(run(params, more))


def test_linear_is_the_formula():
    """y = x W + b + alpha / rank * (x A) B, by hand."""
    layer = Linear(5, 3, rngs=nnx.Rngs(0), lora=LoRAConfig(rank=2, alpha=6.0))
    rng = np.random.default_rng(0)
    layer.lora_b[...] = rng.normal(size=(2, 3)).astype(np.float32)
    layer.bias[...] = rng.normal(size=3).astype(np.float32)
    x = rng.normal(size=(4, 5)).astype(np.float32)
    w, b, lora_a, lora_b = (np.asarray(v[...]) for v in (layer.kernel, layer.bias, layer.lora_a, layer.lora_b))
    np.testing.assert_allclose(layer(x), x @ w + b + 3.0 * (x @ lora_a) @ lora_b, atol=1e-5)
    assert np.abs(lora_a).max() <= 5**-0.5


def test_fresh_adapters_are_the_identity():
    graphdef, params = init(WHOLE)
    plain = changed(WHOLE, vision_lora=LoRAConfig(), decoder_lora=LoRAConfig())
    bare, shapes = abstract(plain)
    assert set(params) - set(shapes) == {path for path in params if "/lora_" in path}
    expected = logits(bare, {path: params[path] for path in shapes}, plain)
    np.testing.assert_allclose(logits(graphdef, params, WHOLE), expected, atol=1e-6)


def test_merged_parameters_compute_the_same():
    config = changed(WHOLE, vision_lora=changed(LORA, targets=("q", "o", "fc1", "fc2")))
    graphdef, params = init(config)
    params = with_random_b(params)
    plain, folded = merged(config, params)
    assert plain.vision_lora.rank == plain.decoder_lora.rank == 0
    before = logits(graphdef, params, config)
    np.testing.assert_allclose(logits(abstract(plain)[0], folded, plain), before, atol=1e-4)
    unfolded = {path: v for path, v in params.items() if "/lora_" not in path}
    assert np.abs(logits(abstract(plain)[0], unfolded, plain) - before).max() > 1e-2


def test_dropout_needs_a_key_and_depends_on_it():
    graphdef, params = init(WHOLE)
    params = with_random_b(params)
    still = logits(graphdef, params, WHOLE)
    a, again, b = (logits(graphdef, params, WHOLE, dropout_key=jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(a, again)
    assert np.abs(a - still).max() > 1e-3 and np.abs(a - b).max() > 1e-3


def test_dropout_keeps_the_mean():
    layer = Linear(64, 1, rngs=nnx.Rngs(0), bias=False, lora=LoRAConfig(rank=1, alpha=1.0, dropout=0.3))
    layer.lora_b[...] = np.ones((1, 1), np.float32)
    x = np.ones((4000, 64), np.float32)
    dropped, whole = layer(x, jax.random.key(0)), layer(x)
    assert np.asarray(dropped).std() > 0
    assert np.asarray(dropped).mean() == pytest.approx(np.asarray(whole).mean(), abs=0.02)


def test_only_adapters_and_projector_get_a_gradient_when_only_they_are_differentiated():
    graphdef, params = init(WHOLE)
    trainable, frozen = select(with_random_b(params), PAPER_TRAINABLE)
    tokens, positions, pixels = row(WHOLE)

    def loss(trainable):
        model = merge(graphdef, trainable | frozen)
        return (model(tokens, positions, np.ones_like(tokens), model.encode(pixels)[:, None]) ** 2).sum()

    gradient = jax.jit(jax.grad(loss))(trainable)
    assert set(gradient) == set(trainable)
    assert all(np.abs(value).max() > 0 for value in gradient.values())


def test_merging_with_another_rank_is_refused():
    with pytest.raises(ExpllmError, match="rank 2"):
        merge_lora(init(WHOLE)[1], LoRAConfig(rank=4))


@pytest.mark.parametrize("changes", [{"rank": -1}, {"alpha": 0.0}, {"dropout": 1.0}, {"targets": ("q_proj",)}])
def test_impossible_configurations_are_refused(changes):
    with pytest.raises(ExpllmError):
        LoRAConfig(**{"rank": 8} | changes)
