"""Name tables and configuration files of all vision towers: complete, exact in both directions, and strict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from expllm_jax.errors import ExpllmError
from expllm_jax.models import (
    LoRAConfig,
    ViTConfig,
    abstract,
    clip_l14,
    siglip_b16,
    siglip_so400m14,
    vit_g14,
    vit_l14,
    vit_s14,
)
from expllm_jax.weights import (
    export_safetensors,
    open_foreign,
    read_safetensors,
    tower_config_from_hf,
    tower_fillers,
    tower_hf_config,
    tower_table,
    tower_tensors,
)
from expllm_jax.weights.naming import scatter, sources_of
from tests.models.sizes import VISION, WHOLE, changed, loaded, random_params

CLIP = changed(VISION, family="clip", feed_forward="quick_gelu", layer_scale=False)
SIGLIP = changed(VISION, family="siglip", feed_forward="gelu_tanh", layer_scale=False)
GATED = changed(VISION, feed_forward="swiglu", registers=2)
EVERY_TABLE = [
    pytest.param(config, layout, id=f"{name} {layout}")
    for name, config, layouts in (
        ("dinov2", VISION, ("hugging_face", "meta")),
        ("swiglu and registers", GATED, ("hugging_face", "meta")),
        ("no layer scale", changed(VISION, layer_scale=False), ("hugging_face", "meta")),
        ("clip", CLIP, ("hugging_face",)),
        ("siglip", SIGLIP, ("hugging_face",)),
    )
    for layout in layouts
]


def shapes(config):
    return {path: leaf.shape for path, leaf in abstract(config)[1].items()}


@pytest.mark.parametrize(("config", "layout"), EVERY_TABLE)
def test_there_and_back(config, layout):
    _, params = random_params(config)
    table = tower_table(config, layout)
    tensors = scatter(params, table)
    assert all(array.flags.c_contiguous for array in tensors.values())
    read = loaded(tensors, table, config)
    assert set(read) == set(params)
    for path, value in params.items():
        np.testing.assert_array_equal(read[path], value, err_msg=path)
    for name, array in scatter(read, table).items():
        np.testing.assert_array_equal(array, tensors[name], err_msg=name)


@pytest.mark.parametrize(
    ("config", "layout"),
    [
        (vit_g14(registers=4), "hugging_face"),
        (vit_g14(registers=4), "meta"),
        (vit_l14(), "meta"),
        (clip_l14(), "hugging_face"),
        (siglip_so400m14(), "hugging_face"),
    ],
)
def test_the_table_fills_every_parameter_once(config, layout):
    filled = [
        (source.path, source.layer) for entry in tower_table(config, layout).values() for source in sources_of(entry)
    ]
    assert len(filled) == len(set(filled))
    per_layer = {(path, layer) for path in shapes(config) if "blocks/" in path for layer in range(config.depth)}
    assert set(filled) == per_layer | {(path, None) for path in shapes(config) if "blocks/" not in path}


def test_meta_s_fused_tensors_are_hugging_face_s_parts():
    _, params = random_params(GATED)
    theirs, metas = (scatter(params, tower_table(GATED, layout)) for layout in ("hugging_face", "meta"))
    for kind in ("weight", "bias"):
        stem = "encoder.layer.1.attention.attention"
        parts = [theirs[f"{stem}.{name}.{kind}"] for name in ("query", "key", "value")]
        np.testing.assert_array_equal(metas[f"blocks.1.attn.qkv.{kind}"], np.concatenate(parts))
        np.testing.assert_array_equal(
            metas[f"blocks.1.mlp.w12.{kind}"], theirs[f"encoder.layer.1.mlp.weights_in.{kind}"]
        )
    assert metas["blocks.0.attn.qkv.weight"].shape == (96, 32)
    # SwiGLU's gate is the first half
    gate = params["blocks/mlp/gate/kernel"][0].T
    np.testing.assert_array_equal(metas["blocks.0.mlp.w12.weight"][: len(gate)], gate)
    assert metas["pos_embed"].shape == (1, 26, 32) and metas["register_tokens"].shape == (1, 2, 32)
    assert metas["patch_embed.proj.weight"].shape == (32, 3, 4, 4)


def test_misfits_of_fused_tensors_are_named():
    _, params = random_params(VISION)
    table = tower_table(VISION, "meta")
    tensors = scatter(params, table)
    tensors["blocks.0.attn.qkv.weight"] = np.zeros((97, 32), np.float32)
    tensors["blocks.1.attn.qkv.bias"] = np.zeros(93, np.float32)
    tensors["blocks.2.attn.qkv.bias"] = np.float32(0)
    with pytest.raises(ExpllmError) as caught:
        loaded(tensors, table, VISION, origin="a.pth")
    three = "blocks/attn/q/{0}, blocks/attn/k/{0}, blocks/attn/v/{0}, into which it does not divide"
    assert f"blocks.0.attn.qkv.weight (97, 32) for {three.format('kernel')}" in caught.value.problem
    assert f"blocks.2.attn.qkv.bias () for {three.format('bias')}" in caught.value.problem
    assert "blocks.1.attn.qkv.bias (93,) for blocks/attn/q/bias (32,)" in caught.value.problem


@pytest.mark.parametrize(("config", "layout"), [(CLIP, "meta"), (SIGLIP, "meta"), (VISION, "onnx")])
def test_layouts_that_do_not_exist_are_refused(config, layout):
    for function in (tower_table, tower_fillers):
        with pytest.raises(ExpllmError, match=f"{config.family} towers have no layout '{layout}'"):
            function(config, layout)
    with pytest.raises(ExpllmError, match="no layout"):
        tower_tensors({}, config, layout)


def test_the_tower_is_found_in_a_file_of_a_whole_clip():
    tower = dict.fromkeys(tower_table(CLIP), "tower")
    unused = dict.fromkeys([*tower_fillers(CLIP), "vision_model.embeddings.position_ids"], "unused")
    around = dict.fromkeys(["text_model.final_layer_norm.weight", "visual_projection.weight", "logit_scale"], "around")
    assert tower_tensors(tower | unused | around, CLIP) == tower
    unprefixed = {name.removeprefix("vision_model."): value for name, value in (tower | unused).items()}
    assert tower_tensors(unprefixed, CLIP) == tower


def test_what_belongs_nowhere_is_left_for_the_loader_to_name():
    tower = dict.fromkeys([*tower_table(VISION), "embeddings.mask_token", "encoder.layer.0.adapter"], "tower")
    assert set(tower_tensors(tower, VISION)) - set(tower_table(VISION)) == {"encoder.layer.0.adapter"}
    assert set(tower_tensors({"mask_token": 0, "norm.weight": 1}, VISION, "meta")) == {"norm.weight"}


@pytest.mark.parametrize("vision", [CLIP, SIGLIP], ids=["clip", "siglip"])
def test_a_whole_model_with_another_tower_is_exported_and_read(tmp_path, vision):
    config = changed(WHOLE, vision=vision, vision_lora=LoRAConfig(), decoder_lora=LoRAConfig())
    _, params = random_params(config)
    found, read = read_safetensors(export_safetensors(params, config, tmp_path / "model", image_size=None))
    assert found == config
    assert set(read) == set(params)
    for path, value in params.items():
        np.testing.assert_array_equal(read[path], value, err_msg=path)


@pytest.mark.parametrize(
    "config",
    [
        vit_s14(),
        vit_g14(),
        vit_g14(registers=4, resize="antialias"),
        clip_l14(),
        clip_l14(native_grid=24, feed_forward="gelu"),
        siglip_b16(),
        siglip_so400m14(),
    ],
)
def test_configuration_there_and_back(config):
    assert tower_config_from_hf(tower_hf_config(config)) == config


def test_published_configurations():
    """What the files on the hub say, as far as it decides the tower; most leave defaults out."""
    giant = {
        "model_type": "dinov2", "hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "mlp_ratio": 4,
        "image_size": 518, "use_swiglu_ffn": True, "hidden_act": "gelu", "drop_path_rate": 0.0, "qkv_bias": True,
        "layerscale_value": 1.0, "initializer_range": 0.02, "transformers_version": "4.31.0.dev0",
    }  # fmt: skip
    assert tower_config_from_hf(giant) == vit_g14()
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    clip = {"model_type": "clip", "projection_dim": 768, "vision_config": large | {"patch_size": 14}, "text_config": {}}
    assert tower_config_from_hf(clip) == clip_l14()
    assert tower_config_from_hf({"model_type": "siglip", "vision_config": {}}) == siglip_b16()
    so400m = {"hidden_size": 1152, "image_size": 384, "intermediate_size": 4304, "num_attention_heads": 16,
              "num_hidden_layers": 27, "patch_size": 14, "model_type": "siglip_vision_model"}  # fmt: skip
    assert tower_config_from_hf({"model_type": "siglip", "vision_config": so400m}) == siglip_so400m14()


def test_an_old_clip_file_that_gives_its_tower_twice_means_the_second():
    values = {"model_type": "clip", "vision_config": {"patch_size": 16}, "vision_config_dict": {"patch_size": 14}}
    assert tower_config_from_hf(values).patch == 14


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("dinov2", "hidden_act", "relu"),
        ("dinov2", "qkv_bias", False),
        ("dinov2", "hidden_dropout_prob", 0.1),
        ("dinov2", "attention_probs_dropout_prob", 0.1),
        ("dinov2", "drop_path_rate", 0.2),
        ("dinov2", "num_channels", 1),
        ("dinov2", "image_size", [224, 448]),
        ("dinov2", "hidden_size", "768"),
        ("dinov2", "use_swiglu_ffn", 1),
        ("dinov2_with_registers", "num_register_tokens", True),
        ("clip_vision_model", "attention_dropout", 0.1),
        ("clip_vision_model", "hidden_act", "gelu_new"),
        ("siglip_vision_model", "patch_size", 16.0),
        ("siglip", "vision_config", "base"),
        ("siglip2", "model_type", "siglip2"),
    ],
)
def test_what_cannot_be_computed_is_named(kind, key, value):
    with pytest.raises(ExpllmError, match=f"config.json: {key} is "):
        tower_config_from_hf({"model_type": kind, key: value})


def test_a_fault_inside_a_whole_model_says_where():
    with pytest.raises(ExpllmError, match="clip.json: vision_config: hidden_act is 'relu'"):
        tower_config_from_hf({"model_type": "clip", "vision_config": {"hidden_act": "relu"}}, origin="clip.json")


def test_square_sizes_may_be_written_as_pairs():
    assert tower_config_from_hf(
        {"model_type": "dinov2", "image_size": [518, 518], "patch_size": (14, 14)}
    ) == ViTConfig(width=768, depth=12, heads=12)


@given(st.integers(1, 4096), st.integers(1, 20000))
def test_any_width_of_the_mlp_is_met_exactly(width, hidden):
    values = {"model_type": "clip_vision_model", "hidden_size": width, "intermediate_size": hidden}
    assert tower_config_from_hf(values | {"num_attention_heads": 1}).mlp_width == hidden


@pytest.mark.parametrize(
    "changes",
    [{}, {"registers": 2, "resize": "antialias"}, {"feed_forward": "swiglu"}],
)
def test_metas_files_open_without_a_config(tmp_path, changes):
    """The tower's size is read off its tensors; heads are 64 wide in every DINOv2."""
    config = changed(VISION, **{"width": 128, "heads": 2, "resize": "scale_0.1"} | changes)
    _, params = random_params(config)
    tensors = scatter(params, tower_table(config, "meta")) | {"mask_token": np.zeros((1, 128), np.float32)}
    save_file(tensors, tmp_path / "dinov2.safetensors")
    weights = open_foreign(tmp_path / "dinov2.safetensors")
    assert weights.config == config and weights.part == "vision"
    read = weights.load().params
    for path, value in params.items():
        np.testing.assert_array_equal(read[path], value, err_msg=path)
    del tensors["blocks.0.mlp.w3.weight" if changes.get("feed_forward") else "blocks.0.mlp.fc1.weight"]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(ExpllmError, match="lacks blocks.0.mlp.fc1.weight"):
        open_foreign(tmp_path / "less.safetensors")
