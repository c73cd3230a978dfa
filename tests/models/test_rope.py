"""Rotary scalings: their text, their limits, and the frequencies of `transformers`."""

from __future__ import annotations

import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.models.layers import rope_tables
from expllm_jax.models.layers.rope import RopeScaling, parse_rope_scaling, rope_frequencies, yarn_attention_factor


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", RopeScaling()),
        ("linear:4", RopeScaling("linear", 4.0)),
        ("linear:2.5", RopeScaling("linear", 2.5)),
        ("llama3:8,1,4,8192", RopeScaling("llama3", 8.0, 8192, low=1.0, high=4.0)),
        ("yarn:4,32768", RopeScaling("yarn", 4.0, 32768)),
        ("yarn:4,32768,beta_fast=16,truncate=false", RopeScaling("yarn", 4.0, 32768, beta_fast=16.0, truncate=False)),
        ("yarn:4,32768,attention_factor=1.1", RopeScaling("yarn", 4.0, 32768, attention_factor=1.1)),
    ],
)
def test_text_and_back(text, expected):
    assert parse_rope_scaling(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("linear", "cannot be read"),
        ("linear:x", "cannot be read"),
        ("linear:0.5", "factor is 0.5"),
        ("linear:nan", "factor is nan"),
        ("linear:2,3", "cannot be read"),
        ("llama3:8,1,4", "cannot be read"),
        ("llama3:8,4,1,8192", "high is 1.0"),
        ("llama3:8,0,4,8192", "low is 0.0"),
        ("llama3:8,1,4,0", "original is 0"),
        ("llama3:8,1,4,81.5", "cannot be read"),
        ("yarn:4", "cannot be read"),
        ("yarn:4,100,32", "'32' is no option"),
        ("yarn:4,100,slow=1", "'slow=1' is no option"),
        ("yarn:4,100,beta_fast=1", "beta_fast is 1.0"),
        ("yarn:4,100,beta_slow=1,beta_slow=2", "given twice"),
        ("yarn:4,100,truncate=2", "neither true nor false"),
        ("yarn:4,100,attention_factor=0", "attention_factor is 0.0"),
        ("dynamic:2", "depend on how long the row has grown"),
        ("longrope:2", "not known"),
    ],
)
def test_other_texts_are_refused(text, complaint):
    with pytest.raises(ExpllmError, match=complaint):
        parse_rope_scaling(text)


def test_llama3_keeps_fast_pairs_and_divides_slow_ones():
    plain, _ = rope_frequencies(64, 500000.0)
    scaled, attention = rope_frequencies(64, 500000.0, "llama3:8,1,4,8192")
    wavelength = 2 * np.pi / plain
    fast, slow = wavelength < 8192 / 4, wavelength > 8192
    assert fast.any() and slow.any() and not (fast | slow).all()
    np.testing.assert_array_equal(scaled[fast], plain[fast])
    np.testing.assert_allclose(scaled[slow], plain[slow] / 8, rtol=1e-7)
    between = (plain / scaled)[~(fast | slow)]
    assert (between > 1).all() and (between < 8).all() and (np.diff(between) > 0).all() and attention == 1.0


def test_yarn_keeps_fast_pairs_divides_slow_ones_and_sharpens_attention():
    plain, _ = rope_frequencies(128, 1e6)
    scaled, attention = rope_frequencies(128, 1e6, "yarn:4,32768")
    turns = 32768 * plain / (2 * np.pi)  # within the original length
    np.testing.assert_allclose(scaled[turns > 40], plain[turns > 40], rtol=1e-7)
    np.testing.assert_allclose(scaled[turns < 0.8], plain[turns < 0.8] / 4, rtol=1e-6)
    assert attention == pytest.approx(1 + 0.1 * np.log(4))
    cos, sin = rope_tables(np.array([[0, 40000]]), 128, 1e6, "yarn:4,32768")
    assert cos.dtype == np.float32 and cos.shape == (1, 2, 1, 64)
    np.testing.assert_allclose(cos**2 + sin**2, attention**2, rtol=1e-5)


def test_the_attention_factor_of_deepseek():
    """`mscale` and `mscale_all_dim` cancel when they are equal, and count only together."""
    assert yarn_attention_factor(40.0, 1.0, 1.0) == 1.0
    assert yarn_attention_factor(40.0, 0.7, 0.0) == yarn_attention_factor(40.0)
    assert yarn_attention_factor(1.0, 0.7, 1.4) == 1.0


@pytest.mark.parity
@pytest.mark.parametrize("width", [8, 64, 128])
@pytest.mark.parametrize("theta", [10000.0, 500000.0, 1000000.0])
@pytest.mark.parametrize(
    "scaling",
    [
        "",
        "linear:4",
        "llama3:8,1,4,8192",
        "llama3:32,1,4,8192",
        "yarn:4,32768",
        "yarn:16,4096,beta_fast=16,beta_slow=2,truncate=false",
    ],
)
def test_frequencies_are_those_of_transformers(width, theta, scaling):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    from expllm_jax.models import llama3_8b
    from expllm_jax.weights import decoder_hf_config

    config = llama3_8b(head_dim=width, rope_theta=theta, rope_scaling=scaling, max_length=131072)
    expected = LlamaRotaryEmbedding(LlamaConfig(**decoder_hf_config(config)))
    found, attention = rope_frequencies(width, theta, scaling)
    # a rounding or two in the last place: within a ramp the two libraries' divisions round apart now and then
    np.testing.assert_allclose(found, expected.inv_freq.numpy(), rtol=4e-7, atol=0)
    assert attention == pytest.approx(expected.attention_scaling, rel=1e-12)
