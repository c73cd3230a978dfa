"""The decoder against a NumPy forward pass that shares nothing with it but the parameters."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from expllm_jax.errors import ExpllmError
from expllm_jax.models import (
    Decoder,
    DecoderConfig,
    KVCache,
    LoRAConfig,
    SlotCache,
    abstract,
    attention_mask,
    count,
    decode_token,
    decoding,
    decoding_weights,
    llama3_8b,
    llama31_8b,
    llama32_1b,
    merge,
    mistral_7b,
    qwen25_0_5b,
    qwen25_7b,
    smollm2_1_7b,
    smollm2_360m,
    vicuna_13b,
)
from tests.models.sizes import DECODER, changed, random_params

TOKENS = np.random.default_rng(0).integers(0, DECODER.vocab, (2, 11))
POSITIONS = np.stack([np.arange(11), np.arange(11) * 2 + 3])


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A decoder with adapters, which alone has no configuration of its own."""

    config: DecoderConfig
    lora: LoRAConfig

    def build(self, rngs: nnx.Rngs) -> Decoder:
        return Decoder(self.config, rngs=rngs, lora=self.lora)


def rotate(x, positions, theta, factor):
    """Rotary positions as complex multiplication of the pairs (i, i + h/2)."""
    half = x.shape[-1] // 2
    angle = positions[:, None] / factor * theta ** (-np.arange(half) / half)
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], -1)


def reference(params, config, tokens, positions, factor=1.0):
    """Causal logits in float64, one row at a time, head by head."""
    p = {path: np.asarray(value, np.float64) for path, value in params.items()}
    h, group = config.head_dim, config.heads // config.kv_heads

    def norm(x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config.norm_eps) * scale

    rows = []
    for ids, position in zip(tokens, positions, strict=True):
        x = p["embedding"][ids]
        hidden = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
        for layer in range(config.depth):
            b = {path.removeprefix("blocks/"): v[layer] for path, v in p.items() if path.startswith("blocks/")}
            y = norm(x, b["norm1/scale"])
            q, k, v = (y @ b[f"attn/{name}/kernel"] + b.get(f"attn/{name}/bias", 0.0) for name in "qkv")
            heads = []
            for i in range(config.heads):
                mine, theirs = slice(i * h, (i + 1) * h), slice(i // group * h, (i // group + 1) * h)
                scores = rotate(q[:, mine], position, config.rope_theta, factor)
                scores = scores @ rotate(k[:, theirs], position, config.rope_theta, factor).T / np.sqrt(h) + hidden
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, theirs])
            x = x + np.concatenate(heads, -1) @ b["attn/o/kernel"]
            y = norm(x, b["norm2/scale"])
            gate = y @ b["mlp/gate/kernel"]
            x = x + (gate / (1 + np.exp(-gate)) * (y @ b["mlp/up/kernel"])) @ b["mlp/down/kernel"]
        head = p["embedding"].T if config.tied else p["lm_head/kernel"]
        rows.append(norm(x, p["norm/scale"]) @ head)
    return np.stack(rows)


def forward(graphdef, params, tokens, positions, **more):
    @jax.jit
    def run(params):
        model = merge(graphdef, params)
        h, _ = model(model.embed(tokens), positions, attention_mask(np.ones_like(tokens)), **more)
        return model.logits(h)

    return run(params)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, 1.0),
        ({"tied": True}, 1.0),
        ({"qkv_bias": True}, 1.0),
        ({"kv_heads": 6}, 1.0),
        ({"rope_scaling": "linear:4"}, 4.0),
        ({"unroll": 0}, 1.0),
    ],
)
def test_agrees_with_numpy(changes, factor):
    config = changed(DECODER, **changes)
    graphdef, params = random_params(config)
    expected = reference(params, config, TOKENS, POSITIONS, factor)
    np.testing.assert_allclose(forward(graphdef, params, TOKENS, POSITIONS), expected, atol=5e-5)


def test_cached_decoding_equals_the_full_forward():
    """A prompt of 5 at once, then one token at a time, then two, in a cache with room to spare."""
    graphdef, params = random_params(DECODER)
    full = forward(graphdef, params, TOKENS, POSITIONS)

    @jax.jit
    def run(params):
        model = merge(graphdef, params)
        segments = jnp.ones((2, 16), jnp.int32)
        cache, outputs, start = KVCache.zeros(DECODER, 2, 16), [], 0
        for size in (5, 1, 1, 1, 1, 2):
            part = slice(start, start + size)
            mask = attention_mask(segments, start=start, queries=size)
            h, cache = model(model.embed(TOKENS[:, part]), POSITIONS[:, part], mask, cache, start)
            outputs.append(model.logits(h))
            start += size
        return jnp.concatenate(outputs, 1)

    np.testing.assert_allclose(run(params), full, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        DECODER,
        changed(DECODER, tied=True, qkv_bias=True, rope_scaling="linear:2"),
        changed(DECODER, mlp_width=3 * 64 + 5),
        changed(DECODER, base="int8"),
    ],
)
@pytest.mark.parametrize("lora", [LoRAConfig(), LoRAConfig(rank=3, targets=("q", "v", "down"))])
def test_decoding_on_cpus_equals_the_full_forward(config, lora, monkeypatch):
    """Its own layout of weights and cache, behind a prompt of 5; parts of 3 columns, so that every kernel has two."""
    monkeypatch.setattr(decoding, "_NARROWEST", 3)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    graphdef, params = random_params(Adapted(config, lora))
    full = forward(graphdef, params, TOKENS, POSITIONS)

    @jax.jit
    def run(params):
        model = merge(graphdef, params)
        segments = jnp.ones((2, 16), jnp.int32)
        prompt_mask = attention_mask(segments, start=0, queries=5)
        _, cache = model(model.embed(TOKENS[:, :5]), POSITIONS[:, :5], prompt_mask, KVCache.zeros(config, 2, 16), 0)
        weights, cache, scores = decoding_weights(model), SlotCache.of(cache), []
        assert len(weights.head) == 2 and len(weights.layers[0].down.parts) == 2
        for t in range(5, 11):
            mask = attention_mask(segments, start=t, queries=1)[:, 0]
            x = model.embed(TOKENS[:, t])
            logits, cache = decode_token(config, weights, x, POSITIONS[:, t], mask, cache, jnp.int32(t))
            scores.append(logits)
        return jnp.stack(scores, 1)

    np.testing.assert_allclose(run(params), full[:, 5:], atol=1e-4)


def test_cache_index_may_be_traced():
    graphdef, params = random_params(DECODER)
    full = forward(graphdef, params, TOKENS, POSITIONS)

    def step(cache, t):
        model = merge(graphdef, params)
        mask = attention_mask(jnp.ones((2, 11), jnp.int32), start=t, queries=1)
        take = lambda x: jax.lax.dynamic_slice_in_dim(jnp.asarray(x), t, 1, 1)  # noqa: E731
        h, cache = model(model.embed(take(TOKENS)), take(POSITIONS), mask, cache, t)
        return cache, model.logits(h)[:, 0]

    _, logits = jax.jit(lambda cache: jax.lax.scan(step, cache, jnp.arange(11)))(KVCache.zeros(DECODER, 2, 11))
    np.testing.assert_allclose(logits.swapaxes(0, 1), full, atol=1e-4)


def test_later_tokens_do_not_change_earlier_ones():
    graphdef, params = random_params(DECODER)
    other = TOKENS.copy()
    other[:, 6:] = (other[:, 6:] + 1) % DECODER.vocab
    a, b = (forward(graphdef, params, tokens, POSITIONS) for tokens in (TOKENS, other))
    np.testing.assert_allclose(a[:, :6], b[:, :6], atol=1e-6)
    assert np.abs(a[:, 6:] - b[:, 6:]).max() > 1e-2


def gradient(**changes):
    _, params = random_params(DECODER)
    graphdef = abstract(changed(DECODER, **changes))[0]
    return jax.jit(jax.grad(lambda p: forward(graphdef, p, TOKENS, POSITIONS).var()))(params)


@pytest.fixture(scope="module")
def kept():
    return gradient()


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_rematerialisation_does_not_change_gradients(remat, kept):
    for path, value in gradient(remat=remat).items():
        np.testing.assert_allclose(value, kept[path], rtol=1e-3, atol=1e-5, err_msg=path)
        assert np.abs(value).max() > 0, path


def test_a_token_outside_the_vocabulary_is_not_a_number():
    graphdef, params = random_params(DECODER)
    out = merge(graphdef, params).embed(np.array([[0, DECODER.vocab]]))
    assert np.isfinite(out[0, 0]).all() and np.isnan(out[0, 1]).all()


def test_cache_without_index_is_refused():
    graphdef, params = random_params(DECODER)
    with pytest.raises(ExpllmError, match="go together"):
        forward(graphdef, params, TOKENS, POSITIONS, cache=KVCache.zeros(DECODER, 2, 16))


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 0},
        {"kv_heads": 4},
        {"head_dim": 7},
        {"remat": "some"},
        {"rope_scaling": "yarn:2"},
        {"rope_scaling": "linear:x"},
        {"rope_theta": 1.0},
        {"base": "int4"},
        {"sliding_window": -1},
        {"sliding_window": 63},
    ],
)
def test_impossible_configurations_are_refused(changes):
    with pytest.raises(ExpllmError):
        changed(DECODER, **changes)
    assert DecoderConfig(**vars(DECODER)) == DECODER


def test_a_window_as_wide_as_the_longest_row_changes_nothing():
    """It is accepted, and the model is the one without: the last of 64 tokens still sees the first."""
    assert abstract(changed(DECODER, sliding_window=64))[1] == abstract(DECODER)[1]
    with pytest.raises(ExpllmError) as caught:
        mistral_7b("0.1", max_length=8192)
    assert "max_length=4096" in caught.value.remedy


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (smollm2_360m(), 361_821_120),
        (smollm2_1_7b(), 1_711_376_384),
        (vicuna_13b(), 13_015_864_320),
        (llama3_8b(), 8_030_261_248),
        (llama31_8b(), 8_030_261_248),
        (llama32_1b(), 1_235_814_400),
        (mistral_7b("0.1"), 7_241_732_096),
        (mistral_7b("0.2"), 7_241_732_096),
        (mistral_7b(), 7_248_023_552),
        (qwen25_0_5b(), 494_032_768),
        (qwen25_7b(), 7_615_616_512),
    ],
)
def test_number_of_parameters(config, parameters):
    """Those of the published files; the two sizes that experiments name are in test_params.py."""
    assert count(abstract(config)[1]) == parameters


def test_changes_of_a_size():
    assert smollm2_360m(depth=2, width=64).width == 64 and mistral_7b("0.1", vocab=7).vocab == 7
    with pytest.raises(ExpllmError, match="'0.4'"):
        mistral_7b("0.4")
