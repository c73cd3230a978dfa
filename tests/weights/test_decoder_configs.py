"""Hugging Face's config.json to our decoder and back: defaults, both spellings, and what is refused."""

from __future__ import annotations

import json

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.models import (
    llama3_8b,
    llama31_8b,
    llama32_1b,
    mistral_7b,
    qwen25_0_5b,
    qwen25_7b,
    smollm2_1_7b,
    smollm2_135m,
    smollm2_360m,
    vicuna_7b,
    vicuna_13b,
)
from expllm_jax.weights import decoder_config_from_hf, decoder_hf_config
from tests.models.sizes import DECODER, changed

# config.json as Llama-3.2-1B, Mistral-7B-v0.1 and Qwen2.5-0.5B have it, with some keys that do not matter here
LLAMA32_1B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 128256,
}
MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}
QWEN25_05B = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}


@pytest.mark.parametrize(
    "config",
    [
        smollm2_135m(),
        smollm2_360m(),
        smollm2_1_7b(),
        vicuna_7b(),
        vicuna_13b(rope_scaling="linear:4", max_length=16384),
        llama3_8b(),
        llama31_8b(param_dtype="bfloat16"),
        llama32_1b(),
        mistral_7b("0.1"),
        mistral_7b("0.2"),
        mistral_7b("0.3"),
        qwen25_0_5b(),
        qwen25_7b(rope_scaling="yarn:4,32768", max_length=131072),
        qwen25_7b(rope_scaling="yarn:2.5,16384,attention_factor=1.25,beta_fast=16,beta_slow=2,truncate=false"),
        changed(DECODER, head_dim=10),
    ],
)
def test_round_trip(config):
    values = json.loads(json.dumps(decoder_hf_config(config)))
    assert decoder_config_from_hf(values) == config
    # the newer spelling of the same positions
    scaling, theta = values.pop("rope_scaling") or {}, values.pop("rope_theta")
    values["rope_parameters"] = {"rope_type": "default", **scaling, "rope_theta": theta}
    assert decoder_config_from_hf(values) == config


def test_published_files():
    assert decoder_config_from_hf(LLAMA32_1B) == llama32_1b(param_dtype="bfloat16")
    assert decoder_config_from_hf(QWEN25_05B, param_dtype="float32") == qwen25_0_5b()
    assert decoder_config_from_hf(MISTRAL, max_length=4096, param_dtype="float32") == mistral_7b("0.1")
    with pytest.raises(ExpllmError, match="sliding_window 4096"):
        decoder_config_from_hf(MISTRAL)


def test_absent_keys_are_those_of_transformers():
    found = decoder_config_from_hf({"model_type": "llama"})
    assert found == vicuna_7b(norm_eps=1e-6, max_length=2048)
    assert decoder_config_from_hf({"model_type": "llama", "num_attention_heads": 16}).kv_heads == 16
    assert decoder_config_from_hf({"model_type": "llama", "num_attention_heads": 16}).head_dim == 256
    mistral = decoder_config_from_hf({"model_type": "mistral"}, max_length=4096)
    assert (mistral.kv_heads, mistral.sliding_window, mistral.mlp_width) == (8, 4096, 14336)
    qwen = decoder_config_from_hf({"model_type": "qwen2"})
    assert qwen.qkv_bias and not qwen.tied and (qwen.vocab, qwen.kv_heads, qwen.max_length) == (151936, 32, 32768)
    # yarn and llama3 fall back on the longest row
    rope = {"rope_type": "yarn", "factor": 2.0}
    assert decoder_config_from_hf({"model_type": "llama", "rope_scaling": rope}).rope_scaling == "yarn:2,2048"


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model_type": "gemma3"}, "model_type is 'gemma3'"),
        ({"model_type": None}, "model_type"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window"),
        ({"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"vocab_size": 10.5}, "vocab_size"),
        ({"rms_norm_eps": None}, "rms_norm_eps is missing"),
        ({"torch_dtype": "float8"}, "float8"),
        ({"rope_theta": "big"}, "rope_theta"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope_scaling.rope_type is 'longrope'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "grown"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "rope_scaling.factor is '2'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "bend": 1}}, "unknown key 'bend'"),
        ({"rope_scaling": [2.0]}, "rope_scaling is"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differs between kinds of layers"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}}, "high_freq_factor"),
        ({"rope_parameters": {**YARN, "beta_fast": "32"}}, "rope_parameters.beta_fast"),
    ],
)
def test_what_the_decoder_cannot_compute_is_named(values, named):
    with pytest.raises(ExpllmError) as caught:
        decoder_config_from_hf({"model_type": "llama", **values})
    assert named in caught.value.problem


def test_changes_must_be_fields():
    with pytest.raises(ExpllmError, match="DecoderConfig has no max_len"):
        decoder_config_from_hf(QWEN25_05B, max_len=5)


def test_biases_and_a_window_together_are_no_family():
    with pytest.raises(ExpllmError, match="qkv_bias and sliding_window"):
        decoder_hf_config(changed(DECODER, qkv_bias=True, sliding_window=64))
