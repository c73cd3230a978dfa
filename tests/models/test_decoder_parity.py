"""The decoder against `transformers`: every family and every rotary scaling, from its config.json to its logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expllm_jax.models import (
    KVCache,
    abstract,
    attention_mask,
    count,
    llama3_8b,
    llama31_8b,
    llama32_1b,
    merge,
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
from expllm_jax.weights.hugging_face import llama_table
from tests.models.sizes import loaded

pytestmark = pytest.mark.parity

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
# positions of the pre-training; the rows below go far beyond them
ORIGINAL = 16
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 8.0}
FAMILIES = {
    "llama, every head its own keys": ("llama", {"num_key_value_heads": 6}),
    "llama, grouped and tied": ("llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "llama, heads wider than the model": ("llama", {"head_dim": 16}),
    "mistral with a window": ("mistral", {"sliding_window": 128}),
    "mistral without": ("mistral", {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("qwen2", {"rope_theta": 1e6}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "linear": ("llama", {"rope_scaling": {"type": "linear", "factor": 3.0}}),
    "llama3": (
        "llama",
        {"rope_parameters": {**LLAMA3, "rope_theta": 5e5, "original_max_position_embeddings": ORIGINAL}},
    ),
    "llama3, old spelling": (
        "llama",
        {"rope_theta": 1e3, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": ORIGINAL}},
    ),
    "yarn": ("qwen2", {"rope_theta": 1e4, "rope_scaling": {**YARN, "original_max_position_embeddings": ORIGINAL}}),
    "yarn, every option": (
        "mistral",
        {
            "sliding_window": None,
            "rope_parameters": {
                **YARN,
                "rope_theta": 1e3,
                "original_max_position_embeddings": ORIGINAL,
                "attention_factor": 1.3,
                "beta_fast": 8.0,
                "beta_slow": 2.0,
                "truncate": False,
            },
        },
    ),
    "yarn, mscale": (
        "llama",
        {
            "rope_parameters": {
                **YARN,
                "original_max_position_embeddings": ORIGINAL,
                "mscale": 0.7,
                "mscale_all_dim": 1.4,
            }
        },
    ),
}
TOKENS = np.random.default_rng(0).integers(0, SHAPE["vocab_size"], (2, 24))
# in order, and in leaps up to the last position
POSITIONS = np.stack([np.arange(24), np.sort(np.random.default_rng(1).choice(127, 24, replace=False)) + 1])


def theirs(kind, changes):
    """A `transformers` decoder with random weights in which every leaf matters."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **{**SHAPE, **changes}, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            start = 1.0 if "norm" in name else 0.0
            parameter.copy_(start + 0.15 * torch.randn(parameter.shape, generator=generator))
    return model


def logits_of(model):
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(TOKENS), position_ids=torch.from_numpy(POSITIONS)).logits.numpy()


def ours(model, values):
    """(configuration, definition, parameters) out of a `transformers` decoder and its config.json."""
    config = decoder_config_from_hf(values)
    graphdef, shapes = abstract(config)
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    tied = ["lm_head.weight"] if config.tied else []
    shapes = {path: leaf.shape for path, leaf in shapes.items()}
    return config, graphdef, loaded(tensors, llama_table(config), config, ignored=tied)


def relative_error(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_agree_whole_and_with_a_cache(name):
    kind, changes = FAMILIES[name]
    model = theirs(kind, changes)
    expected = logits_of(model)
    config, graphdef, params = ours(model, {"model_type": kind, **SHAPE, **changes})
    assert decoder_config_from_hf(model.config.to_dict()) == config  # as `transformers` itself would write it

    @jax.jit
    def whole(params):
        model = merge(graphdef, params)
        h, _ = model(model.embed(TOKENS), POSITIONS, attention_mask(np.ones_like(TOKENS)))
        return model.logits(h)

    @jax.jit
    def in_steps(params):
        """The first 8 tokens at once, the other 16 one by one, in a cache with room to spare."""
        model = merge(graphdef, params)
        segments = jnp.ones((2, 32), jnp.int32)
        mask = attention_mask(segments, queries=8)
        h, cache = model(model.embed(TOKENS[:, :8]), POSITIONS[:, :8], mask, KVCache.zeros(config, 2, 32), 0)

        def step(cache, slot):
            tokens, positions = (
                jax.lax.dynamic_slice_in_dim(x, slot, 1, 1) for x in map(jnp.asarray, (TOKENS, POSITIONS))
            )
            mask = attention_mask(segments, start=slot, queries=1)
            h, cache = model(model.embed(tokens), positions, mask, cache, slot)
            return cache, model.logits(h)[:, 0]

        _, rest = jax.lax.scan(step, cache, jnp.arange(8, 24))
        return jnp.concatenate([model.logits(h), rest.swapaxes(0, 1)], 1)

    assert relative_error(whole(params), expected) <= 1e-5
    assert relative_error(in_steps(params), expected) <= 1e-5


@pytest.mark.parametrize("name", ["linear", "llama3", "yarn", "yarn, mscale"])
def test_the_scalings_are_felt(name):
    """Without its scaling each of the models above computes something else, so that the comparison means something."""
    kind, changes = FAMILIES[name]
    plain = {key: value for key, value in changes.items() if key not in ("rope_scaling", "rope_parameters")}
    theta = changes.get("rope_parameters", {}).get("rope_theta", changes.get("rope_theta", 1e4))
    scaled, unscaled = (logits_of(theirs(kind, given)) for given in (changes, plain | {"rope_theta": theta}))
    assert relative_error(unscaled, scaled) > 1e-3


@pytest.mark.parametrize(
    "config",
    [
        smollm2_135m(),
        smollm2_360m(),
        smollm2_1_7b(),
        vicuna_7b(),
        vicuna_13b(),
        llama3_8b(),
        llama31_8b(),
        llama32_1b(),
        mistral_7b("0.1"),
        mistral_7b("0.2"),
        mistral_7b("0.3"),
        qwen25_0_5b(),
        qwen25_7b(),
        qwen25_7b(rope_scaling="yarn:4,32768", max_length=131072),
    ],
)
def test_sizes_are_those_of_transformers(config):
    """Names and shapes of every weight, on the meta device: nothing is allocated."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**decoder_hf_config(config)))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert set(shapes) == set(llama_table(config))
    assert sum(parameter.numel() for parameter in model.parameters()) == count(abstract(config)[1])
    assert decoder_config_from_hf(model.config.to_dict()) == config
