"""The safetensors export: round trip, names and layout, and that `transformers` computes the same with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from expllm_jax.errors import ExpllmError
from expllm_jax.models import LoRAConfig, abstract, expllm_7b, merge, merged
from expllm_jax.models.layers.resize import bicubic_matrix
from expllm_jax.weights import decoder_hf_config, export_safetensors, read_safetensors, tower_hf_config, writing
from expllm_jax.weights.dinov2 import MASK_TOKEN, dinov2_table
from expllm_jax.weights.hugging_face import llama_table, projector_table
from tests.models.sizes import DECODER, LORA, PLAIN, VISION, WHOLE, changed, random_params

FITTED = changed(PLAIN, vision=changed(VISION, resize="scale_0.1"))
PIXELS = np.random.default_rng(0).normal(size=(2, 28, 28, 3)).astype(np.float32)  # 7 x 7 patches, not the stored 5 x 5
TOKENS = np.random.default_rng(0).integers(0, 50, (2, 9))


def typed_params(config, **settings):
    """Random parameters in the dtypes of the configuration."""
    shapes = abstract(config)[1]
    return {path: value.astype(shapes[path].dtype) for path, value in random_params(config, **settings)[1].items()}


def files(folder):
    """Bytes of every file, by its path inside the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same(read, params):
    assert list(read) == sorted(params)
    for path, value in params.items():
        assert read[path].dtype == value.dtype, path
        np.testing.assert_array_equal(read[path], value, err_msg=path)


@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        changed(PLAIN, decoder=changed(DECODER, tied=True, qkv_bias=True, rope_scaling="linear:2")),
        changed(PLAIN, vision=changed(VISION, registers=2)),
        changed(
            PLAIN, decoder=changed(DECODER, param_dtype="bfloat16"), vision=changed(VISION, param_dtype="bfloat16")
        ),
    ],
)
def test_round_trip(tmp_path, config):
    params = typed_params(config)
    found, read = read_safetensors(export_safetensors(params, config, tmp_path / "model", image_size=None))
    assert found == config
    assert_same(read, params)


@pytest.mark.parametrize("narrow", [False, True])
def test_what_was_exported_merged_is_exported_again_bit_for_bit(tmp_path, narrow):
    """Also with a position table that was fitted to the picture, which must not be fitted twice."""
    dtype = {"param_dtype": "bfloat16" if narrow else "float32"}
    config = changed(WHOLE, decoder=changed(DECODER, **dtype), vision=changed(FITTED.vision, **dtype))
    first = export_safetensors(typed_params(config), config, tmp_path / "first", image_size=28)
    found, read = read_safetensors(first)
    assert files(export_safetensors(read, found, tmp_path / "second", image_size=28)) == files(first)


def test_adapters_are_folded_in(tmp_path):
    config = changed(WHOLE, vision_lora=changed(LORA, targets=("v", "fc1")))
    _, params = random_params(config)
    found, read = read_safetensors(export_safetensors(params, config, tmp_path / "model", image_size=None))
    plain, expected = merged(config, params)
    assert found == plain
    for path, value in expected.items():
        np.testing.assert_allclose(read[path], value, rtol=1e-6, err_msg=path)


def test_adapters_are_written_beside_the_model(tmp_path):
    config = changed(WHOLE, vision_lora=changed(LORA, rank=3, targets=("v", "fc1")))
    params = typed_params(config)
    folder = export_safetensors(params, config, tmp_path / "model", adapters="peft", image_size=None)
    found, read = read_safetensors(folder)
    assert found == config
    assert_same(read, params)
    plain = {path: value for path, value in params.items() if "/lora_" not in path}
    without = files(export_safetensors(plain, PLAIN, tmp_path / "plain", image_size=None))
    assert {name: data for name, data in files(folder).items() if "_adapter" not in name} == without


def test_a_model_without_adapters_has_none_to_write(tmp_path):
    with pytest.raises(ExpllmError, match="no adapters"):
        export_safetensors(random_params(PLAIN)[1], PLAIN, tmp_path / "model", adapters="peft")
    with pytest.raises(ExpllmError, match="'onnx'"):
        export_safetensors(random_params(PLAIN)[1], PLAIN, tmp_path / "model", adapters="onnx")


def test_the_position_table_is_written_fitted_to_the_picture(tmp_path):
    graphdef, params = random_params(FITTED)
    folder = export_safetensors(params, FITTED, tmp_path / "model", image_size=28)
    found, read = read_safetensors(folder)
    assert found == changed(FITTED, vision=changed(FITTED.vision, native_grid=7))
    assert json.loads((folder / "vision" / "config.json").read_text())["image_size"] == 28
    # row 0 is the CLS token's and is not resized; entry (0, 0) lies at 0.5 * 5 / 7.1 - 0.5 in the stored table
    table, stored = read["vision/position_embedding"], params["vision/position_embedding"]
    np.testing.assert_array_equal(table[0], stored[0])
    weights = bicubic_matrix(5, 7, 7.1 / 5)
    expected = np.einsum("yh,xw,hwd->yxd", weights, weights, stored[1:].reshape(5, 5, -1)).reshape(49, -1)
    np.testing.assert_allclose(table[1:], expected, atol=1e-6)
    assert not np.allclose(table[1], stored[1])
    features = merge(abstract(found)[0], read).encode(PIXELS)
    np.testing.assert_allclose(features, merge(graphdef, params).encode(PIXELS), atol=1e-5)


def test_a_picture_that_does_not_divide_into_patches_is_refused(tmp_path):
    with pytest.raises(ExpllmError, match="30 x 30"):
        export_safetensors(random_params(PLAIN)[1], PLAIN, tmp_path / "model", image_size=30)
    assert list(tmp_path.iterdir()) == []


def test_by_default_the_table_is_that_of_the_paper_s_pictures(tmp_path):
    """Patches and stored grid of DINOv2-L: 37 x 37 there, 16 x 16 for 224 pixels."""
    released = expllm_7b().vision
    config = changed(PLAIN, vision=changed(FITTED.vision, patch=released.patch, native_grid=released.native_grid))
    folder = export_safetensors(typed_params(config), config, tmp_path / "model")
    assert load_file(folder / "vision/model.safetensors")["embeddings.position_embeddings"].shape == (1, 257, 32)
    assert json.loads((folder / "vision/config.json").read_text())["image_size"] == 224
    found = read_safetensors(folder)[0].vision
    assert (found.native_grid, found.resize) == (16, released.resize) == (16, "scale_0.1")


def test_large_parts_are_written_in_numbered_files(tmp_path):
    params = typed_params(PLAIN)
    whole = export_safetensors(params, PLAIN, tmp_path / "whole", image_size=None)
    folder = export_safetensors(params, PLAIN, tmp_path / "model", image_size=None, shard_bytes=20_000)
    written = sorted(path.name for path in (folder / "decoder").glob("*.safetensors"))
    assert written == [f"model-{n:05}-of-{len(written):05}.safetensors" for n in range(1, len(written) + 1)]
    assert len(written) > 3
    index = json.loads((folder / "decoder" / "model.safetensors.index.json").read_text())
    expected, found = load_file(whole / "decoder" / "model.safetensors"), {}
    for name in written:
        part = load_file(folder / "decoder" / name)
        size = sum(value.nbytes for value in part.values())
        assert size <= 20_000 or len(part) == 1
        assert {key for key, file in index["weight_map"].items() if file == name} == set(part)
        found |= part
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in expected.values())
    assert list(index["weight_map"]) == list(found) and set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    config, read = read_safetensors(folder)
    assert config == PLAIN
    assert_same(read, params)
    with pytest.raises(ExpllmError, match="0 bytes"):
        export_safetensors(params, PLAIN, tmp_path / "none", shard_bytes=0)


def test_one_tensor_at_a_time_is_in_memory(tmp_path):
    """48 MB of parameters, of which the largest tensor has 1 MB."""
    config = changed(PLAIN, decoder=changed(DECODER, width=256, depth=15, mlp_width=1024))
    params = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in abstract(config)[1].items()}
    assert sum(value.nbytes for value in params.values()) > 48e6
    tracemalloc.start()
    export_safetensors(params, config, tmp_path / "model", image_size=None, shard_bytes=10**7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


def test_parameters_on_four_devices_give_the_same_files(tmp_path):
    """In a process of its own, because the number of devices is fixed when JAX starts."""
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    result = subprocess.run(
        [sys.executable, "-m", "tests.weights.four_devices_export", str(tmp_path / "sharded")],
        cwd=Path(__file__).parents[2], env=environment | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split()[-1] == "4"
    export_safetensors(random_params(WHOLE)[1], WHOLE, tmp_path / "plain", image_size=28)
    assert files(tmp_path / "sharded") == files(tmp_path / "plain")


def test_names_and_layout_are_those_of_hugging_face(tmp_path):
    _, params = random_params(PLAIN)
    folder = export_safetensors(params, PLAIN, tmp_path / "model", image_size=None)
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


def test_parameters_that_do_not_fit_are_listed_and_nothing_is_left_behind(tmp_path):
    _, params = random_params(PLAIN)
    del params["decoder/norm/scale"]
    params["vision/cls_token"] = np.zeros((1, 31), np.float32)
    params["decoder/embedding"] = params["decoder/embedding"].astype(np.float16)
    params["decoder/blocks/attn/q/lora_a"] = np.zeros((3, 48, 2), np.float32)
    with pytest.raises(ExpllmError) as caught:
        export_safetensors(params, PLAIN, tmp_path / "model")
    for told in (
        "missing decoder/norm/scale",
        "unexpected decoder/blocks/attn/q/lora_a",
        "vision/cls_token is float32 (1, 31), not float32 (1, 32)",
        "decoder/embedding is float16",
    ):
        assert told in caught.value.problem
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_behind_when_writing_fails(tmp_path, monkeypatch):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_safetensors", full)
    with pytest.raises(OSError, match="No space left"):
        export_safetensors(random_params(PLAIN)[1], PLAIN, tmp_path / "model", image_size=None)
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
    folder = export_safetensors(params, PLAIN, tmp_path / "model", image_size=None)
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


def largest_difference(ours, theirs):
    """Largest absolute difference, relative to the largest number there."""
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def our_logits(config, params, features=None):
    """Logits of TOKENS, read after `features` if there are any: an image token for each, then the words."""
    images = 0 if features is None else config.image_tokens(*PIXELS.shape[1:3])
    tokens = np.concatenate([np.full((2, images), config.image_token), TOKENS], 1)
    order = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    model = merge(abstract(config)[0], params)
    return model.logits(model(tokens, order, np.ones_like(tokens), features))


def opened(folder, part):
    """A part as `transformers` opens it, by its config.json alone."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    kind = transformers.AutoModel if part == "vision" else transformers.AutoModelForCausalLM
    return kind.from_pretrained(folder / part, dtype=torch.float32).eval()


def their_features(tower, registers=0, pixels=PIXELS):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        hidden = tower(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).last_hidden_state
    return hidden[:, 1 + registers :].numpy()


def their_logits(decoder, tokens=TOKENS):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return decoder(torch.from_numpy(tokens)).logits.numpy()


@pytest.mark.parity
@pytest.mark.parametrize("registers", [0, 2])
def test_transformers_computes_the_same_tower_from_the_stored_table(tmp_path, registers):
    resize = "antialias" if registers else "size"
    config = changed(PLAIN, vision=changed(VISION, registers=registers, resize=resize))
    graphdef, params = random_params(config)
    folder = export_safetensors(params, config, tmp_path / "model", image_size=None)
    features = their_features(opened(folder, "vision"), registers)
    assert largest_difference(merge(graphdef, params).vision(PIXELS), features) < 1e-5


@pytest.mark.parity
@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("resize", ["scale_0.1", "size", "antialias"])
def test_transformers_computes_the_same_tower_from_the_fitted_table(tmp_path, registers, resize):
    """By every convention, of which `transformers` knows one; from the stored table the released code's is another."""
    config = changed(PLAIN, vision=changed(VISION, registers=registers, resize=resize))
    graphdef, params = random_params(config)
    ours = merge(graphdef, params).vision(PIXELS)
    folder = export_safetensors(params, config, tmp_path / "model", image_size=28)
    assert largest_difference(ours, their_features(opened(folder, "vision"), registers)) < 1e-5
    if (resize, registers) == ("scale_0.1", 0):
        stored = export_safetensors(params, config, tmp_path / "stored", image_size=None)
        assert largest_difference(ours, their_features(opened(stored, "vision"))) > 1e-3


@pytest.mark.parity
@pytest.mark.parametrize("changes", [{}, {"tied": True}, {"qkv_bias": True}, {"rope_scaling": "linear:2"}])
def test_transformers_computes_the_same_decoder(tmp_path, changes):
    config = changed(PLAIN, decoder=changed(DECODER, **changes))
    _, params = random_params(config)
    folder = export_safetensors(params, config, tmp_path / "model", image_size=None)
    assert largest_difference(our_logits(config, params), their_logits(opened(folder, "decoder"))) < 1e-5


@pytest.mark.parity
def test_transformers_opens_numbered_files(tmp_path):
    _, params = random_params(PLAIN)
    folder = export_safetensors(params, PLAIN, tmp_path / "model", image_size=28, shard_bytes=20_000)
    assert len(list((folder / "decoder").glob("*.safetensors"))) > 3
    assert largest_difference(our_logits(PLAIN, params), their_logits(opened(folder, "decoder"))) < 1e-5
    assert np.isfinite(their_features(opened(folder, "vision"))).all()


@pytest.mark.parity
def test_torch_computes_the_whole_exported_model(tmp_path):
    """Adapters trained and folded in, a table of the released convention: pictures and words to logits in torch."""
    torch = pytest.importorskip("torch")
    config = changed(WHOLE, vision_layers=(), vision=FITTED.vision, projector=changed(WHOLE.projector, pool=1))
    graphdef, params = random_params(config)
    folder = export_safetensors(params, config, tmp_path / "model", image_size=28)
    tower, decoder = opened(folder, "vision"), opened(folder, "decoder")
    projector = {
        name: torch.from_numpy(value) for name, value in load_file(folder / "projector/model.safetensors").items()
    }
    with torch.no_grad():
        x = torch.from_numpy(their_features(tower))
        x = torch.nn.functional.linear(x, projector["layers.0.weight"], projector["layers.0.bias"])
        x = torch.nn.functional.gelu(x)
        x = torch.nn.functional.linear(x, projector["layers.1.weight"], projector["layers.1.bias"])
        words = decoder.get_input_embeddings()(torch.from_numpy(TOKENS))
        theirs = decoder(inputs_embeds=torch.cat([x, words], 1)).logits.numpy()
    features = merge(graphdef, params).encode(PIXELS)[:, None]
    ours = our_logits(config, params, features)
    assert ours.shape == theirs.shape == (2, 49 + 9, 50)
    assert largest_difference(ours, theirs) < 1e-5


@pytest.mark.parity
def test_every_parameter_of_the_paper_s_model_has_its_name_and_shape():
    """Compared with `transformers`' own models of the exported configurations, on its device without memory."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    config = expllm_7b()
    vision = changed(config.vision, native_grid=16)
    plain = changed(config, vision=vision, vision_lora=LoRAConfig(), decoder_lora=LoRAConfig())
    leaves = abstract(plain)[1]
    kinds = {
        "vision": (dinov2_table(vision), tower_hf_config(vision), transformers.Dinov2Config, transformers.Dinov2Model),
        "decoder": (
            llama_table(config.decoder),
            decoder_hf_config(config.decoder),
            transformers.LlamaConfig,
            transformers.LlamaForCausalLM,
        ),
    }
    for part, (table, settings, read_settings, build) in kinds.items():
        with torch.device("meta"):
            expected = {name: tuple(w.shape) for name, w in build(read_settings(**settings)).state_dict().items()}
        under = {p.removeprefix(f"{part}/"): leaf for p, leaf in leaves.items() if p.startswith(f"{part}/")}
        pending = writing.pending_tensors(table, under, lambda path, layer: pytest.fail("nothing is to be computed"))
        ours = {name: tensor.shape for name, tensor in pending.items()}
        if part == "vision":
            ours[MASK_TOKEN] = (1, vision.width)
            # the published names, as `transformers` renames them on opening
            for renaming in get_checkpoint_conversion_mapping("Dinov2Model"):
                if len(renaming.source_patterns) == len(renaming.target_patterns) == 1:
                    old, new = renaming.source_patterns[0], renaming.target_patterns[0]
                    ours = {name.replace(old, new): shape for name, shape in ours.items()}
        assert ours == expected
        assert {source.path for source in table.values()} == set(under)
