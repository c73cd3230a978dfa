"""An int8 base: what is stored, that it computes what its own numbers say, and how close that is to the full one."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from expllm_jax.config import WeightsConfig
from expllm_jax.errors import ExpllmError
from expllm_jax.initial_weights import initial_params
from expllm_jax.models import (
    KVCache,
    LoRAConfig,
    abstract,
    attention_mask,
    count,
    dequantize_int8,
    init,
    merge,
    merge_lora,
    merged,
    quantize_int8,
    select,
    vicuna_7b,
)
from expllm_jax.models.lora import LORA_TARGETS
from expllm_jax.models.quantize import to_int8
from expllm_jax.parallel import make_mesh, partition_spec
from expllm_jax.train import OptimizerConfig, build_optimizer, create_state, make_train_step
from expllm_jax.weights import export_safetensors, read_safetensors
from tests.models.sizes import DECODER, LORA, WHOLE, changed, random_params

CONFIG = changed(DECODER, depth=4, qkv_bias=True)
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab, (2, 11))
POSITIONS = np.broadcast_to(np.arange(11), (2, 11))
KERNELS = [f"blocks/{name}/kernel" for name in
           ("attn/k", "attn/o", "attn/q", "attn/v", "mlp/down", "mlp/gate", "mlp/up")]  # fmt: skip


@pytest.fixture(scope="module")
def full():
    """A four-layer decoder of random numbers in float32."""
    return random_params(CONFIG)[1]


@pytest.fixture(scope="module")
def int8(full):
    return quantize_int8(full, CONFIG)


def test_every_entry_is_within_half_a_step():
    kernel = np.random.default_rng(0).normal(size=(3, 40, 7)).astype(np.float32)
    kernel[1, :, 2] = 0.0
    kernel[2, :, 4] *= 1e-30
    whole, scale = to_int8(kernel)
    assert whole.dtype == np.int8 and scale.dtype == np.float32 and scale.shape == (3, 7)
    assert np.abs(whole).max() == 127 and not whole[1, :, 2].any()
    assert (np.abs(whole * scale[:, None] - kernel) <= scale[:, None] * 0.5001).all()
    assert isinstance(whole, np.ndarray) and isinstance(scale, np.ndarray)
    on_device = to_int8(jnp.asarray(kernel))
    assert all(isinstance(leaf, jax.Array) for leaf in on_device)
    np.testing.assert_array_equal(on_device[0], whole)
    np.testing.assert_allclose(on_device[1], scale, rtol=1e-6)


def test_only_the_kernels_of_the_layers_change(full, int8):
    config, params = int8
    shapes = abstract(config)[1]
    assert config == changed(CONFIG, base="int8") and list(params) == list(shapes)
    for path, leaf in params.items():
        assert (leaf.shape, leaf.dtype) == (shapes[path].shape, shapes[path].dtype), path
        if path not in KERNELS and not path.endswith("kernel_scale"):
            assert leaf is full[path]
    assert [path for path, leaf in params.items() if leaf.dtype == np.int8] == KERNELS
    assert {path.removesuffix("_scale") for path in set(params) - set(full)} == set(KERNELS)


def test_there_and_back(full, int8):
    config, params = int8
    plain, again = dequantize_int8(params, config)
    assert plain == CONFIG and set(again) == set(full)
    for path in KERNELS:
        np.testing.assert_array_equal(quantize_int8(again, plain)[1][path], params[path], err_msg=path)
    with_prefix = {f"decoder/{path}": leaf for path, leaf in params.items()} | {"other": np.ones(3)}
    assert set(dequantize_int8(with_prefix, config, "decoder/")[1]) == {f"decoder/{path}" for path in full} | {"other"}
    half = dequantize_int8(params, changed(config, param_dtype="bfloat16"))[1]
    assert half[KERNELS[0]].dtype == jnp.bfloat16


def test_what_cannot_be_quantised_is_refused(full, int8):
    config, params = int8
    with pytest.raises(ExpllmError, match="'int8' already"):
        quantize_int8(params, config)
    with pytest.raises(ExpllmError, match="not 'int8'"):
        dequantize_int8(full, CONFIG)
    with pytest.raises(ExpllmError, match="no kernel decoder/blocks/attn/q/kernel"):
        quantize_int8(full, CONFIG, "decoder/")
    with pytest.raises(ExpllmError, match="no blocks/attn/q/kernel_scale"):
        dequantize_int8(full, config)
    with pytest.raises(ExpllmError, match="mlp/up/kernel holds infinities"):
        quantize_int8({**full, "blocks/mlp/up/kernel": full["blocks/mlp/up/kernel"] * np.inf}, CONFIG)


def test_fresh_parameters_are_rounded_draws():
    config = changed(DECODER, depth=1, base="int8")
    graphdef, params = init(config)
    assert list(params) == list(graphdef.paths)
    for path in KERNELS:
        kernel, scale = params[path], params[f"{path}_scale"]
        assert kernel.dtype == jnp.int8 and (np.abs(kernel).max(1) == 127).all()
        assert np.std(kernel * scale[:, None]) == pytest.approx(config.init_std, rel=0.1), path


def logits(config, params, *, cached=False):
    """(2, 11, V); with a cache, the first six tokens and then the other five."""
    graphdef = abstract(config)[0]

    @jax.jit
    def run(params):
        model = merge(graphdef, params)
        if not cached:
            h, _ = model(model.embed(TOKENS), POSITIONS, attention_mask(np.ones_like(TOKENS)))
            return model.logits(h)
        parts, cache, segments = [], KVCache.zeros(config, 2, 12), jnp.ones((2, 12), jnp.int32)
        for start, size in ((0, 6), (6, 5)):
            part = slice(start, start + size)
            mask = attention_mask(segments, start=start, queries=size)
            h, cache = model(model.embed(TOKENS[:, part]), POSITIONS[:, part], mask, cache, start)
            parts.append(model.logits(h))
        return jnp.concatenate(parts, 1)

    return np.asarray(run(params))


@pytest.fixture(scope="module")
def expected(int8):
    """Logits of the full model with the rounded kernels."""
    plain, params = dequantize_int8(int8[1], int8[0])
    return logits(plain, params)


@pytest.mark.parametrize("how", [{}, {"cached": True}])
def test_it_computes_what_its_rounded_kernels_say(int8, expected, how):
    np.testing.assert_allclose(logits(*int8, **how), expected, atol=1e-4)


def test_bfloat16_computes_nearly_the_same(int8, expected):
    config, params = int8
    found = logits(changed(config, dtype="bfloat16"), params)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.03


def test_logits_are_near_those_of_the_full_model(full, expected):
    exact = logits(CONFIG, full)
    error = np.linalg.norm(expected - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.03


MODEL = changed(
    WHOLE, decoder=changed(DECODER, depth=2), decoder_lora=changed(LORA, dropout=0.0, targets=LORA_TARGETS[:7])
)
INT8_MODEL = changed(MODEL, decoder=changed(MODEL.decoder, base="int8"))


@pytest.fixture(scope="module")
def whole():
    """(full, int8, full with rounded kernels) parameters of ExpLLM with adapters everywhere in the decoder."""
    full = random_params(MODEL)[1]
    config, params = quantize_int8(full, MODEL.decoder, "decoder/")
    assert config == INT8_MODEL.decoder
    return full, params, dequantize_int8(params, config, "decoder/")[1]


def batch():
    rng = np.random.default_rng(0)
    tokens = np.concatenate([np.full((2, 4), MODEL.image_token), rng.integers(0, 50, (2, 9))], 1)
    return {
        "tokens": tokens,
        "positions": np.broadcast_to(np.arange(13), (2, 13)),
        "segments": np.ones((2, 13), np.int32),
        "loss_weights": np.float32(np.arange(13) > 5) * np.ones((2, 1), np.float32),
        "features": rng.normal(size=(2, 16, 64)).astype(np.float32),
    }


@functools.cache
def gradient_function(config):
    """(trainable, frozen, features) -> gradients of the loss in the trainable ones and in the features."""
    graphdef = abstract(config)[0]

    def loss(trainable, frozen, features):
        model, given = merge(graphdef, {**trainable, **frozen}), batch()
        h = model(given["tokens"], given["positions"], given["segments"], features[:, None])
        log_p = jax.nn.log_softmax(model.logits(h[:, 5:-1]))
        return -jnp.take_along_axis(log_p, given["tokens"][:, 6:, None], 2).mean()

    # unoptimised, which compiles in half the time
    return jax.jit(jax.grad(loss, argnums=(0, 2)), compiler_options={"xla_backend_optimization_level": 0})


def gradients(config, params):
    """In adapters and projector by path, and in the features."""
    return gradient_function(config)(*select(params, [r"decoder/.*/lora_[ab]", r"projector/.*"]), batch()["features"])


def test_gradients_reach_adapters_and_inputs(whole):
    """Those of the full model with the same rounded kernels, also through recomputed layers."""
    full, params, rounded = whole
    expected_params, expected_features = gradients(MODEL, rounded)
    remat = changed(INT8_MODEL, decoder=changed(INT8_MODEL.decoder, remat="full"))
    found_params, found_features = gradients(remat, params)
    assert set(found_params) == set(expected_params) and len(found_params) == 2 * 7 + 4
    np.testing.assert_allclose(found_features, expected_features, atol=1e-5)
    for path, value in expected_params.items():
        assert np.abs(value).max() > 0, path
        np.testing.assert_allclose(found_params[path], value, rtol=1e-3, atol=1e-5, err_msg=path)
    exact, _ = gradients(MODEL, full)
    flat = [np.concatenate([np.ravel(g[path]) for path in sorted(g)]) for g in (found_params, exact)]
    assert 1e-4 < np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1]) < 0.1


def test_an_update_moves_the_adapters_and_lowers_the_loss(whole):
    _, params, _ = whole
    params = {path: jnp.asarray(leaf) for path, leaf in params.items()}
    trainable, frozen = select(params, [r"decoder/.*/lora_[ab]"])
    optimizer = build_optimizer(OptimizerConfig(lr=1e-3, weight_decay=0.0), 20)
    state = create_state(trainable, optimizer, make_mesh())
    step = make_train_step(abstract(INT8_MODEL)[0], optimizer, supervised=8)
    step, losses = jax.jit(step, compiler_options={"xla_backend_optimization_level": 0}), []
    for _ in range(4):
        state, metrics = step(state, frozen, batch(), np.uint32(0))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    assert all(np.abs(state.params[path] - leaf).max() > 0 for path, leaf in trainable.items())


def test_int8_kernels_cannot_be_chosen_to_train(whole):
    _, params, _ = whole
    with pytest.raises(ExpllmError, match="decoder/blocks/attn/k/kernel, which is int8"):
        select(params, [r"decoder/.*"])


def test_pre_trained_weights_are_quantised_on_the_way_in(tmp_path):
    """A cast to the kernel's dtype would make them zeros."""
    config = changed(INT8_MODEL, decoder_lora=LoRAConfig(), vision_lora=LoRAConfig())
    tower, decoder = random_params(config.vision)[1], random_params(MODEL.decoder)[1]
    full = changed(MODEL, decoder_lora=LoRAConfig(), vision_lora=LoRAConfig())
    source = random_params(full)[1] | {f"decoder/{path}": leaf for path, leaf in decoder.items()}
    source |= {f"vision/{path}": leaf for path, leaf in tower.items()}
    folder = export_safetensors(source, full, tmp_path / "model", image_size=None)
    weights = WeightsConfig(vision=str(folder), decoder=str(folder / "decoder"))
    experiment = SimpleNamespace(weights=weights, train=SimpleNamespace(seed=0))
    graphdef, params = initial_params(experiment, config, make_mesh())
    assert list(params) == list(graphdef.paths)
    for path, leaf in quantize_int8(decoder, MODEL.decoder)[1].items():
        found = params[f"decoder/{path}"]
        assert found.dtype == leaf.dtype, path
        # a scale may differ in its last bit, as it is computed on the device here
        np.testing.assert_allclose(found, leaf, rtol=1e-6, err_msg=path)


def test_merging_adapters_makes_a_full_decoder(whole):
    _, params, rounded = whole
    with pytest.raises(ExpllmError, match="attn/k/kernel is int8"):
        merge_lora(params, INT8_MODEL.decoder_lora, "decoder/")
    config, found = merged(INT8_MODEL, params)
    plain, expected = merged(MODEL, rounded)
    assert config == plain and set(found) == set(expected)
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def test_without_adapters_it_stays_int8_until_it_is_exported(whole, tmp_path):
    _, params, _ = whole
    config = changed(INT8_MODEL, decoder_lora=LoRAConfig(), vision_lora=LoRAConfig())
    params = {path: leaf for path, leaf in params.items() if "lora" not in path}
    assert merged(config, params) == (config, params)
    found, read = read_safetensors(export_safetensors(params, config, tmp_path / "model", image_size=None))
    plain, expected = dequantize_int8(params, config.decoder, "decoder/")
    assert found == changed(config, decoder=plain)
    for path in read:
        np.testing.assert_array_equal(read[path], expected[path], err_msg=path)


def test_scales_lie_where_the_outputs_of_their_kernels_do():
    shapes = abstract(vicuna_7b(base="int8"))[1]
    specs = {path: partition_spec(path, leaf.shape) for path, leaf in shapes.items()}
    for name in ("attn/q", "attn/k", "attn/v", "mlp/gate", "mlp/up"):
        assert specs[f"blocks/{name}/kernel_scale"][1] == specs[f"blocks/{name}/kernel"][2] == "tensor"
    for name in ("attn/o", "mlp/down"):
        assert specs[f"blocks/{name}/kernel_scale"] == PartitionSpec(None, None)
    # 32 layers x (4 x 4,096 + 2 x 11,008 + 4,096) scales beside the parameters of the full model
    assert count(shapes) == 6_738_415_616 + 32 * 42_496
