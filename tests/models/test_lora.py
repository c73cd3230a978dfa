from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

from expllm_jax.errors import ExpllmError
from expllm_jax.models import PAPER_TRAINABLE, LoRAConfig, abstract, merge, merge_lora, merged, select, unmerge_lora
from expllm_jax.models.layers import Linear
from tests.models.sizes import LORA, PLAIN, WHOLE, changed, random_params

TOKENS = np.random.default_rng(1).integers(0, WHOLE.decoder.vocab, (2, 12))
TOKENS[:, 2:6] = WHOLE.image_token
PIXELS = np.random.default_rng(2).normal(size=(2, 16, 16, 3)).astype(np.float32)


def states(graphdef, params, dropout_key=None):
    model = merge(graphdef, params)
    features = model.encode(PIXELS, dropout_key=dropout_key)[:, None]
    positions = np.broadcast_to(np.arange(12), TOKENS.shape)
    return model(TOKENS, positions, np.ones_like(TOKENS), features, dropout_key=dropout_key)


run = jax.jit(states, static_argnums=0)


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
    graphdef, params = random_params(WHOLE, zero=("lora_b",))
    bare, shapes = abstract(PLAIN)
    assert set(params) - set(shapes) == {path for path in params if "/lora_" in path}
    expected = run(bare, {path: params[path] for path in shapes})
    np.testing.assert_allclose(run(graphdef, params), expected, atol=1e-6)


def test_merged_parameters_compute_the_same():
    config = changed(WHOLE, vision_lora=changed(LORA, targets=("q", "o", "fc1", "fc2")))
    graphdef, params = random_params(config)
    plain, folded = merged(config, params)
    assert plain == PLAIN
    before, bare = run(graphdef, params), abstract(plain)[0]
    np.testing.assert_allclose(run(bare, folded), before, atol=1e-4)
    unfolded = {path: v for path, v in params.items() if "/lora_" not in path}
    assert np.abs(run(bare, unfolded) - before).max() > 1e-2


def test_dropout_needs_a_key_and_depends_on_it():
    graphdef, params = random_params(WHOLE)
    still = run(graphdef, params)
    a, again, b = (run(graphdef, params, jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(a, again)
    assert np.abs(a - still).max() > 1e-3 and np.abs(a - b).max() > 1e-3


def test_dropout_keeps_the_mean():
    layer = Linear(64, 1, rngs=nnx.Rngs(0), bias=False, lora=LoRAConfig(rank=1, alpha=1.0, dropout=0.3))
    layer.lora_b[...] = np.ones((1, 1), np.float32)
    x = np.ones((4000, 64), np.float32)
    dropped, whole = layer(x, jax.random.key(0)), layer(x)
    assert np.asarray(dropped).std() > 0
    assert np.asarray(dropped).mean() == pytest.approx(np.asarray(whole).mean(), abs=0.02)


def test_every_part_that_the_paper_trains_gets_a_gradient():
    graphdef, params = random_params(WHOLE)
    trainable, frozen = select(params, PAPER_TRAINABLE)
    gradient = jax.jit(jax.grad(lambda t: (states(graphdef, t | frozen) ** 2).sum()))(trainable)
    assert set(gradient) == set(trainable)
    assert all(np.abs(value).max() > 0 for value in gradient.values())


ONE = "decoder/blocks/attn/q"
ADAPTERS = {path: leaf for path, leaf in random_params(WHOLE)[1].items() if "/lora_" in path}


def test_the_delta_is_alpha_over_rank_times_the_product():
    params = random_params(WHOLE)[1]
    folded = merge_lora(params, LORA, "decoder/")
    a, b, kernel = (np.float64(params[f"{ONE}/{leaf}"]) for leaf in ("lora_a", "lora_b", "kernel"))
    np.testing.assert_allclose(folded[f"{ONE}/kernel"], kernel + 8 / 2 * a @ b, atol=1e-6)
    assert {path for path in folded if "/lora_" in path} == {path for path in ADAPTERS if path.startswith("vision/")}


def test_unmerging_is_the_inverse_within_rounding():
    params = random_params(WHOLE)[1]
    folded = merge_lora(params, LORA, "decoder/")
    back = unmerge_lora(folded, ADAPTERS, LORA, "decoder/")
    assert set(back) == set(params)
    for path, value in params.items():
        # one rounding on the way there and one back, each at most 2^-24 of what was rounded
        bound = 2.0**-24 * (np.abs(value) + np.abs(folded[path])) * 1.001 if path in folded else 0
        assert np.all(np.abs(np.float64(back[path]) - value) <= bound), path
    assert np.abs(np.float64(folded[f"{ONE}/kernel"]) - params[f"{ONE}/kernel"]).max() > 0.1


def test_unmerging_in_bfloat16_is_close_only():
    narrow = changed(WHOLE, decoder=changed(WHOLE.decoder, param_dtype="bfloat16"))
    shapes = abstract(narrow)[1]
    params = {path: value.astype(shapes[path].dtype) for path, value in random_params(narrow)[1].items()}
    back = unmerge_lora(merge_lora(params, LORA, "decoder/"), ADAPTERS, LORA, "decoder/")
    before, after = (np.float32(p[f"{ONE}/kernel"]) for p in (params, back))
    assert back[f"{ONE}/kernel"].dtype == params[f"{ONE}/kernel"].dtype
    assert 0 < np.abs(after - before).max() < 0.02


def test_a_merge_that_would_do_nothing_is_refused():
    """Each of these would hand back, unchanged or half changed, what the caller takes for the merged model."""
    params = random_params(WHOLE)[1]
    plain = {path: leaf for path, leaf in params.items() if path not in ADAPTERS}
    halved = {path: leaf for path, leaf in params.items() if path != f"{ONE}/lora_b"}
    cases = [
        (params, LoRAConfig(), "decoder/", f"unexpected {ONE}/lora_a"),  # rank 0 over trained adapters
        (params, LORA, "decoders/", "starts with 'decoders/'"),  # a prefix that matches nothing
        (params, LORA, "projector/", "no linear layer under 'projector/'"),
        (plain, LORA, "decoder/", f"missing {ONE}/lora_a, {ONE}/lora_b"),  # adapters that never arrived
        (halved, LORA, "decoder/", f"missing {ONE}/lora_b"),
        (params, changed(LORA, targets=("q",)), "decoder/", "unexpected decoder/blocks/attn/v/lora_a"),
        (params, changed(LORA, rank=4), "decoder/", f"{ONE}/lora_a has rank 2"),
    ]
    for held, config, prefix, told in cases:
        with pytest.raises(ExpllmError) as caught:
            merge_lora(held, config, prefix)
        assert told in caught.value.problem
    with pytest.raises(ExpllmError, match="hold adapters already"):
        unmerge_lora(params, ADAPTERS, LORA, "decoder/")
    with pytest.raises(ExpllmError, match="missing"):
        unmerge_lora(plain, {}, LORA, "decoder/")


def test_a_model_without_adapters_merges_into_itself():
    params = random_params(PLAIN)[1]
    assert merged(PLAIN, params) == (PLAIN, params)


@pytest.mark.parametrize("changes", [{"rank": -1}, {"alpha": 0.0}, {"dropout": 1.0}, {"targets": ("q_proj",)}])
def test_impossible_configurations_are_refused(changes):
    with pytest.raises(ExpllmError):
        LoRAConfig(**{"rank": 8} | changes)
