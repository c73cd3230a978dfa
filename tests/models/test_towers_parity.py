"""Every vision tower against `transformers`: files it wrote, read by our tables, give its patch tokens."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from expllm_jax.models import (
    abstract,
    clip_l14,
    count,
    merge,
    siglip_b16,
    siglip_so400m14,
    vit_b14,
    vit_g14,
    vit_l14,
    vit_s14,
)
from expllm_jax.weights import tower_config_from_hf, tower_fillers, tower_hf_config, tower_table, tower_tensors
from expllm_jax.weights.naming import scatter
from tests.models.sizes import loaded

pytestmark = pytest.mark.parity

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 20, "patch_size": 4}
# name -> (configuration class, model class, settings)
TOWERS = {
    "dinov2": ("Dinov2Config", "Dinov2Model", {}),
    "dinov2 swiglu": ("Dinov2Config", "Dinov2Model", {"use_swiglu_ffn": True}),
    "registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", {"num_register_tokens": 3}),
    "registers swiglu": (
        "Dinov2WithRegistersConfig",
        "Dinov2WithRegistersModel",
        {"num_register_tokens": 3, "use_swiglu_ffn": True},
    ),
    "clip": ("CLIPVisionConfig", "CLIPVisionModel", {"intermediate_size": 128}),
    "clip gelu": ("CLIPVisionConfig", "CLIPVisionModel", {"intermediate_size": 100, "hidden_act": "gelu"}),
    "siglip": ("SiglipVisionConfig", "SiglipVisionModel", {"intermediate_size": 119}),
}


@pytest.fixture(scope="module", params=TOWERS)
def tower(request, tmp_path_factory):
    """(transformers' model with random weights, our configuration, our parameters, its folder)"""
    import torch
    import transformers

    config_class, model_class, settings = TOWERS[request.param]
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**SMALL, **settings)).eval()
    with torch.no_grad():
        for name, leaf in model.named_parameters():  # every leaf matters: no norm at 1, no bias at 0
            start = 1.0 if "norm" in name and name.endswith("weight") or "lambda1" in name else 0.0
            leaf.copy_(start + 0.15 * torch.randn_like(leaf))
    folder = tmp_path_factory.mktemp("tower")
    model.save_pretrained(folder)
    config = tower_config_from_hf(json.loads((folder / "config.json").read_text()))
    tensors = tower_tensors(load_file(folder / "model.safetensors"), config)
    return model, config, loaded(tensors, tower_table(config), config, origin=str(folder))


def theirs(model, pixels, **how):
    """Hidden states (B, T, D) of transformers, as a torch tensor; a picture of another size is let through."""
    if model.config.model_type in ("clip_vision_model", "siglip_vision_model"):
        how["interpolate_pos_encoding"] = True
    return model(pixels.permute(0, 3, 1, 2), **how)


def random_pixels(height, width):
    return np.random.default_rng(1).normal(size=(2, height, width, 3)).astype(np.float32)


def assert_close(ours, expected):
    ours, expected = np.asarray(ours), expected.detach().numpy()
    assert ours.shape == expected.shape
    assert np.linalg.norm(ours - expected) / np.linalg.norm(expected) <= 1e-5


@pytest.mark.parametrize("size", [(20, 20), (28, 28), (12, 12), (12, 32), (16, 24)])
def test_patch_tokens(tower, size):
    """At the native size, larger, smaller, and not square."""
    import torch

    model, config, params = tower
    x = random_pixels(*size)
    with torch.no_grad():
        expected = theirs(model, torch.from_numpy(x)).last_hidden_state[:, config.extra_tokens :]
    assert_close(jax.jit(merge(abstract(config)[0], params))(x), expected)


def test_the_layer_before_the_last(tower):
    """LLaVA reads CLIP there. Families with a final norm apply it to every layer, as DINOv2's own code does."""
    import torch

    model, config, params = tower
    x = random_pixels(20, 20)
    with torch.no_grad():
        expected = theirs(model, torch.from_numpy(x), output_hidden_states=True).hidden_states[-2]
        if config.family != "clip":
            expected = (model.layernorm if config.family == "dinov2" else model.post_layernorm)(expected)
    ours = jax.jit(lambda x: merge(abstract(config)[0], params)(x, layers=(-2,)))(x)
    assert_close(ours, expected[:, config.extra_tokens :])


def test_gradients(tower):
    """Of a sum of squares, by the pixels and by the first block's value matrix."""
    import torch

    model, config, params = tower
    x = random_pixels(12, 32)
    pixels = torch.from_numpy(x).requires_grad_()
    value = next(leaf for name, leaf in model.named_parameters() if "v_proj.weight" in name)
    loss = (theirs(model, pixels).last_hidden_state[:, config.extra_tokens :] ** 2).sum()
    by_pixels, by_value = torch.autograd.grad(loss, (pixels, value))

    def ours(x, kernel):
        tower = merge(abstract(config)[0], params | {"blocks/attn/v/kernel": kernel})
        return (tower(x) ** 2).sum()

    gradients = jax.jit(jax.grad(ours, (0, 1)))(x, params["blocks/attn/v/kernel"])
    assert_close(gradients[0], by_pixels)
    assert_close(gradients[1][0].T, by_value)


def test_transformers_reads_what_we_write(tower, tmp_path):
    import transformers

    model, config, params = tower
    tensors = scatter(params, tower_table(config)) | tower_fillers(config)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(tower_hf_config(config)))
    again, report = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is type(model)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    expected = {name: leaf for name, leaf in model.state_dict().items() if not name.startswith("head.")}
    assert set(again.state_dict()) == set(expected)
    for name, leaf in again.state_dict().items():
        if "mask_token" not in name and not (config.family == "clip" and "post_layernorm" in name):
            np.testing.assert_array_equal(leaf.numpy(), expected[name].numpy(), err_msg=name)


@pytest.mark.parametrize(
    ("config", "model_class"),
    [
        (vit_s14(registers=4), "Dinov2WithRegistersModel"),
        (vit_b14(), "Dinov2Model"),
        (vit_l14(), "Dinov2Model"),
        (vit_g14(), "Dinov2Model"),
        (clip_l14(), "CLIPVisionModel"),
        (clip_l14(native_grid=24), "CLIPVisionModel"),
        (siglip_so400m14(), "SiglipVisionModel"),
        (siglip_b16(), "SiglipVisionModel"),
    ],
)
def test_number_of_parameters(config, model_class):
    """A model of the published size on torch's meta device, which has shapes and no memory."""
    import torch
    import transformers

    settings = tower_hf_config(config)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**settings))
    assert type(model).__name__ == model_class
    theirs = sum(leaf.numel() for leaf in model.parameters())
    fillers = sum(array.size for array in tower_fillers(config).values())
    assert count(abstract(config)[1]) == theirs - fillers
