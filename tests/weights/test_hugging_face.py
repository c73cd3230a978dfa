"""The safetensors export: round trip, names and layout, and that `transformers` computes the same with it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from expllm_jax.errors import ExpllmError
from expllm_jax.models import LoRAConfig, abstract, expllm_7b, merge, merged
from expllm_jax.weights import export_safetensors, read_safetensors
from expllm_jax.weights.dinov2 import dinov2_table
from expllm_jax.weights.hugging_face import llama_table, projector_table
from tests.models.sizes import DECODER, LORA, VISION, WHOLE, changed, random_params

PLAIN = changed(WHOLE, vision_lora=LoRAConfig(), decoder_lora=LoRAConfig())


@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        changed(PLAIN, decoder=changed(DECODER, tied=True, qkv_bias=True, rope_scaling="linear:2")),
        changed(PLAIN, vision=changed(VISION, registers=2)),
        changed(PLAIN, decoder=changed(DECODER, param_dtype="bfloat16")),
    ],
)
def test_round_trip(tmp_path, config):
    _, params = random_params(config)
    params = {path: value.astype(abstract(config)[1][path].dtype) for path, value in params.items()}
    found, read = read_safetensors(export_safetensors(params, config, tmp_path / "model"))
    assert found == config
    assert list(read) == sorted(params)
    for path, value in params.items():
        assert read[path].dtype == value.dtype, path
        np.testing.assert_array_equal(read[path], value, err_msg=path)


def test_adapters_are_folded_in(tmp_path):
    config = changed(WHOLE, vision_lora=changed(LORA, targets=("v", "fc1")))
    _, params = random_params(config)
    found, read = read_safetensors(export_safetensors(params, config, tmp_path / "model"))
    plain, expected = merged(config, params)
    assert found == plain
    for path, value in expected.items():
        np.testing.assert_allclose(read[path], value, rtol=1e-6, err_msg=path)


def test_names_and_layout_are_those_of_hugging_face(tmp_path):
    _, params = random_params(PLAIN)
    folder = export_safetensors(params, PLAIN, tmp_path / "model")
    decoder, vision = (load_file(folder / part / "model.safetensors") for part in ("decoder", "vision"))
    assert decoder["model.layers.1.mlp.gate_proj.weight"].shape == (DECODER.mlp_width, DECODER.width)
    assert decoder["model.layers.2.self_attn.k_proj.weight"].shape == (16, DECODER.width)
    assert decoder["lm_head.weight"].shape == decoder["model.embed_tokens.weight"].shape == (50, DECODER.width)
    assert len(decoder) == 3 + 9 * DECODER.depth
    assert vision["embeddings.patch_embeddings.projection.weight"].shape == (VISION.width, 3, 4, 4)
    assert vision["embeddings.position_embeddings"].shape == (1, 26, VISION.width)
    assert vision["encoder.layer.0.layer_scale2.lambda1"].shape == (VISION.width,)
    assert len(vision) == 7 + 18 * VISION.depth
    assert json.loads((folder / "decoder" / "config.json").read_text())["model_type"] == "llama"
    assert json.loads((folder / "vision" / "config.json").read_text())["image_size"] == 20


def test_the_tables_cover_the_paper_s_model():
    """The published files: 291 tensors of LLaMA-7B without its rotary buffers, 439 of DINOv2-L with its mask token."""
    config = expllm_7b()
    tables = {
        "decoder/": (llama_table(config.decoder), 291),
        "vision/": (dinov2_table(config.vision), 439 - 1),
        "projector/": (projector_table(config.projector), 4),
    }
    paths = {path for path in abstract(config)[1] if "/lora_" not in path}
    for prefix, (table, tensors) in tables.items():
        assert len(table) == tensors
        assert {prefix + source.path for source in table.values()} == {p for p in paths if p.startswith(prefix)}


def test_nothing_is_left_behind_when_it_fails(tmp_path):
    _, params = random_params(PLAIN)
    del params["decoder/norm/scale"]
    with pytest.raises(ExpllmError, match="decoder/norm/scale"):
        export_safetensors(params, PLAIN, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_touched(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(ExpllmError, match="exists already"):
        export_safetensors(random_params(PLAIN)[1], PLAIN, tmp_path / "model")


@pytest.mark.parametrize("changes", [{"layer_scale": False}, {"mlp_ratio": 2.5}])
def test_towers_that_hugging_face_does_not_have_are_refused(tmp_path, changes):
    config = changed(PLAIN, vision=changed(VISION, **changes))
    with pytest.raises(ExpllmError):
        export_safetensors(random_params(config)[1], config, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_damaged_exports_are_refused(tmp_path):
    _, params = random_params(PLAIN)
    folder = export_safetensors(params, PLAIN, tmp_path / "model")
    path = folder / "decoder" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((3, 4), np.float32)
    tensors["model.rotary"] = np.zeros(3, np.float32)
    save_file(tensors, path)
    with pytest.raises(ExpllmError) as caught:
        read_safetensors(folder)
    for part in (
        "missing: decoder/model.norm.weight",
        "unexpected: decoder/model.rotary",
        "up_proj.weight (3, 4) for decoder/blocks/mlp/up/kernel",
    ):
        assert part in caught.value.problem
    path.write_bytes(b"short")
    with pytest.raises(ExpllmError, match="model.safetensors"):
        read_safetensors(folder)
    (folder / "expllm.json").write_text("{")
    with pytest.raises(ExpllmError, match="expllm.json"):
        read_safetensors(folder)


@pytest.mark.parity
@pytest.mark.parametrize("registers", [0, 2])
def test_transformers_computes_the_same_tower(tmp_path, registers):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    resize = "antialias" if registers else "size"
    config = changed(PLAIN, vision=changed(VISION, registers=registers, resize=resize))
    graphdef, params = random_params(config)
    folder = export_safetensors(params, config, tmp_path / "model")
    tower = transformers.AutoModel.from_pretrained(folder / "vision", dtype=torch.float32).eval()
    pixels = np.random.default_rng(0).normal(size=(2, 28, 28, 3)).astype(np.float32)  # 7 x 7 patches: resized
    with torch.no_grad():
        hidden = tower(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).last_hidden_state.numpy()
    ours = merge(graphdef, params).vision(pixels)
    np.testing.assert_allclose(ours, hidden[:, 1 + registers :], atol=5e-5)


@pytest.mark.parity
@pytest.mark.parametrize("changes", [{}, {"tied": True}, {"qkv_bias": True}, {"rope_scaling": "linear:2"}])
def test_transformers_computes_the_same_decoder(tmp_path, changes):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = changed(PLAIN, decoder=changed(DECODER, **changes))
    graphdef, params = random_params(config)
    folder = export_safetensors(params, config, tmp_path / "model")
    decoder = transformers.AutoModelForCausalLM.from_pretrained(folder / "decoder", dtype=torch.float32).eval()
    tokens = np.random.default_rng(0).integers(0, 50, (2, 9))
    with torch.no_grad():
        expected = decoder(torch.from_numpy(tokens)).logits.numpy()
    model = merge(graphdef, params)
    h = model(tokens, np.broadcast_to(np.arange(9), (2, 9)), np.ones_like(tokens), None)
    np.testing.assert_allclose(model.logits(h), expected, atol=5e-5)
